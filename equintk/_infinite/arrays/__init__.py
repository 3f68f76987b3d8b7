"""Symbols for arrays, and what the equations of a model make of them."""
