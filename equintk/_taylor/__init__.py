"""Taylor series of functions along a line."""
