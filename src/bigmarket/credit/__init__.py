"""HOW MUCH do they have? Points: an account per user, and an order for every movement of it."""
