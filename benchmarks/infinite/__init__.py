"""Kernels at infinite width beside the incumbent's."""
