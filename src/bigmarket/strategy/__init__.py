"""WHICH award? Odds, dice, and the rules before and after the roll. Knows nothing of quota, delivery or money."""
