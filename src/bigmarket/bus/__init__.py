"""How messages travel from the outbox to their consumers."""
