"""Spectra of operators that are known by their products alone; knows no model."""
