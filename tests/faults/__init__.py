"""Faults: kills, torn writes, errors, flipped bits, second processes and long runs, and what a run makes of them."""
