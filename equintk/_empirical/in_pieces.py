"""Kernels whose gradients are made in pieces, multiplied at once and never held."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import equinox as eqx
from jaxtyping import Array

from .backward import Cotangents, OneOutput
from .contraction import array_bytes, contracted
from .features import Dense, Factored, FeatureProgram, read_features
from .in_turns import convolves, leaves_cache
from .modes import Mode


class Pieces(NamedTuple):
    """Features that leave gradients as their factors, and how to multiply them."""

    program: FeatureProgram
    cotangents: Cotangents

    def contracted(
        self,
        arrays: Sequence[Array],
        x1: Sequence[Array],
        x2: Sequence[Array] | None,
        precision: str,
    ) -> list[list[Array]]:
        """As of `in_turns.Turns`."""
        one = eqx.combine(*self.program(arrays, self.cotangents(), x1))
        two = one
        if x2 is not None:
            two = eqx.combine(*self.program(arrays, self.cotangents(), x2))
        return contracted(one, two, precision)


def pieces_of(
    one_output: OneOutput,
    n_fixed: int,
    modes: Sequence[Mode],
    n_pairs: int,
    by_leaf: bool,
    program: FeatureProgram,
    cotangents: Cotangents,
) -> Callable[[int, int], Pieces | None]:
    """For the numbers of examples on both sides, how gradients are made in pieces.

    `None` where features stay in a cache anyway, where other gradients are many, and
    for convolutions, which take blocks of examples. Arguments as of `turns_of`.
    """
    flat, example_bytes = one_output.structure.flat, array_bytes(program.of_one()[1])

    @functools.cache
    def read() -> Pieces | None:
        e, f, _ = modes[0].sizes
        if e * f > 1 or convolves(flat, flat.jaxpr.invars):
            return None
        in_factors = read_features(
            one_output, n_fixed, modes, n_pairs, by_leaf, cotangents.structs, True
        )
        _, found = in_factors.of_one()
        has_pieces = any(isinstance(feature, Factored) for feature in found)
        # Such gradients would be made of all examples at once, and leave the cache.
        is_held = any(
            isinstance(feature, Dense) and 4 * array_bytes(feature) > example_bytes
            for feature in found
        )
        return Pieces(in_factors, cotangents) if has_pieces and not is_held else None

    def pieces(n1: int, n2: int) -> Pieces | None:
        pays = leaves_cache(max(n1, n2), modes, example_bytes)
        return read() if pays else None

    return pieces
