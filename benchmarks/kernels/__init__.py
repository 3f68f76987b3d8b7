"""Exact kernels at finite width: time and memory beside other ways to compute them."""
