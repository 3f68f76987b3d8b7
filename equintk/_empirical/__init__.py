"""Finite width: one network at its parameters, or many networks drawn alike."""
