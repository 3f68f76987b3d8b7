"""Scalar functions, as the model spells them, and their expectations."""
