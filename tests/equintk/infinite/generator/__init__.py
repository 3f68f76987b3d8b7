"""Random models made to mislead, each the same for the same seed.

`operations` has the words, `later`, `images` and `primitives` have those of later
seeds, `grammar` puts them together, `wide` has the kernels of wide networks, and
`python -m tests.equintk.infinite.generator 0 300` compares three hundred.
"""
