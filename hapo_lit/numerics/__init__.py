"""Small numerics that every part may use: masked reductions, counter-based draws."""
