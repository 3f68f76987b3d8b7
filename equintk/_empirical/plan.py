"""For each weight, the cheaper of two exact ways to its part of the kernel.

*Gram*: activations with activations, output derivatives with output derivatives, and
their product; per pair of examples $s^2 (i + ko)$ products. *Dense*: the gradient
itself, contracted once per example, and then gradients with gradients; per pair $kio$.
Both count operations and memory.
"""

from collections.abc import Sequence

from .modes import Mode
from .structure import Tapped

# What an entry written and read again costs, in operations of a matrix product.
_PASS = 24.0

# A Gram product may hold this many numbers per pair of examples; above, the smallest
# tile of a kernel would not fit a processor's memory.
_LARGEST_PER_PAIR = 2**16


def is_gram(tapped: Tapped, modes: Sequence[Mode], n_pairs: int) -> bool:
    """Whether Gram matrices are cheaper than the gradient.

    Args:
        tapped: the weight.
        modes: of each output array.
        n_pairs: the number of pairs that one example is in.
    """
    b, s, i, o = tapped.sizes
    looks_up = tapped.sites[0].looks_up
    i_gram, i_dense = (1, i) if looks_up else (i, i)
    n_outputs = sum(e * f * t for e, f, t in map(_sizes, modes))
    kept = sum(e * f * f for e, f, _ in map(_sizes, modes))
    kept_products = sum(e * f * f * t for e, f, t in map(_sizes, modes))
    gram_numbers = b * s * s * (1 + kept)
    gram_pair = 2 * b * s * s * (i_gram + kept_products * o)
    if s > 1 or b > 1:
        gram_pair += _PASS * gram_numbers
    gram_example = _PASS * b * s * (i_gram + n_outputs * o)
    dense_pair = 2 * kept_products * b * i_dense * o
    dense_example = n_outputs * b * i_dense * o * (2 * s + 2 * _PASS)
    if gram_numbers > _LARGEST_PER_PAIR:
        return n_outputs * b * i_dense * o > gram_numbers * 1024
    return gram_example + n_pairs * gram_pair <= dense_example + n_pairs * dense_pair


def _sizes(mode: Mode) -> tuple[int, int, int]:
    return mode.sizes
