"""What runs when, and which function takes which topic."""
