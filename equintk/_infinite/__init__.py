"""Kernels of an architecture at infinite width, read from the model's jaxpr.

Values are deterministic (`Data`), parameters seen through some layout (`Par`), or
random (`Field`): sums of products of functions of Gaussians. What is not understood
raises `NoLimitError`; nothing is approximated unless the error of it is known.
"""
