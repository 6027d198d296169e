"""WHAT do habits earn? Behaviors and the rebates configured for them."""
