"""Moments of a pair of examples, asked for backwards from the output."""
