"""For each weight, the cheaper of two exact ways to its part of the kernel.

*Gram*: activations with activations, output derivatives with output derivatives, and
their product; per pair of examples $s^2 (i + ko)$ products. *Dense*: the gradient
itself, contracted once per example, and then gradients with gradients; per pair $kio$.
Both count operations and memory.
"""

from collections.abc import Sequence

from .modes import Mode
from .structure import Tapped

# What it costs to write a number to memory and to read it again, in operations of a
# matrix product: measured on processors, where it is 1 to 3 ns to 6 ps.
_TRIP = 150.0

# The same where it stays in a cache.
_SHORT_TRIP = 24.0

# Operations of a product of as few rows as a small kernel has examples, and of
# gradients of few positions that stay in a cache, in those of a large product: measured
# on processors.
_THIN = 2.2
_MADE = 6.0

# Examples on a side of a tile, for each of which a gradient is read once.
_TILE = 128

# A Gram product may hold this many numbers per pair of examples, or twice the kernel's
# own; above, the smallest tile of a kernel would not fit a processor's memory.
_LARGEST_PER_PAIR = 2**16


def is_gram(
    tapped: Tapped, modes: Sequence[Mode], n_pairs: int, separable: bool = False
) -> bool:
    """Whether Gram matrices are cheaper than the gradient.

    Args:
        tapped: the weight.
        modes: of each output array.
        n_pairs: the number of pairs that one example is in.
        separable: whether one derivative stands for those of all outputs.
    """
    b, s, i, o = tapped.sizes
    seen = 1 if tapped.sites[0].looks_up else i
    sizes = [(1, 1, 1) if separable else mode.sizes for mode in modes]
    n_outputs = sum(e * f * t for e, f, t in sizes)
    kept = sum(e * f * f for e, f, _ in sizes)
    products = sum(e * f * f * t for e, f, t in sizes)

    held = b * s * s * (1 + kept)
    gram_pair = 2 * b * s * s * (seen + products * o)
    if s > 1 or b > 1:
        gram_pair += _SHORT_TRIP * held
    gram_example = _TRIP * b * s * (seen + n_outputs * o)

    gradient = n_outputs * b * i * o
    reads = _TRIP * gradient / min(_TILE, max(n_pairs, 1))
    dense_pair = 2 * products * b * i * o + reads
    dense_example = gradient * (2 * s + _TRIP)

    if held > max(_LARGEST_PER_PAIR, 2 * kept):
        return gradient > 1024 * held
    return gram_example + n_pairs * gram_pair <= dense_example + n_pairs * dense_pair


def in_pieces(tapped: Tapped, mode: Mode, n_examples: int) -> bool:
    """Whether gradients in pieces that stay in a cache are cheaper than Gram matrices.

    Args:
        tapped: the weight.
        mode: of the only output array.
        n_examples: with how many others one example meets.
    """
    b, s, i, o = tapped.sizes
    e, f, t = mode.sizes
    if b > 1 or s == 1 or e * f > 1 or tapped.sites[0].looks_up:
        return False
    gram = 2 * s * s * (i + t * o) + 2 * _SHORT_TRIP * s * s
    gradient = t * i * o
    pieces = gradient * (_THIN * 2 + _MADE * s / max(n_examples, 1))
    # Factors that are not smaller would better be held as the gradient.
    return pieces < gram and 2 * s * (i + t * o) <= gradient
