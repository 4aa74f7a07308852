"""Small numerics that every part may use: masked reductions, tallies, counter-based draws, a stable hash."""
