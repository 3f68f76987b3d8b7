"""Whether the kernels of wide networks approach their limit, and how fast."""
