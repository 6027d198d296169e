"""WHAT was won, and is it delivered? The award catalogue, award records and the kinds of delivery."""
