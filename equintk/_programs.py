"""The compiled functions that kernels of pairs of examples are made with.

As few and as small as can be: to compile one takes longer than most kernels do.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, PyTree

from ._checks import residue
from ._compiled import jit
from ._inputs import count

Features = Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]
Kernel = Callable[[PyTree, PyTree, PyTree], PyTree]
Flip = Callable[[PyTree], PyTree]
Whole = Callable[[PyTree, PyTree, PyTree | None], PyTree]


class Programs:
    """Features of blocks of examples, and kernels of pairs of tiles of them.

    Whoever keeps this object keeps what is compiled.

    Attributes:
        features: of arrays, such as a model's parameters, and of a block of examples:
            what does not depend on the examples, `shared`, and what does, `each`, a
            PyTree of arrays whose first axis counts them, or rows of which each example
            has as many.
        tile: of `shared`, of `each` of two tiles, and of whether they are the same one:
            their kernel, exactly its own flip if they are, and its `residue`, which is
            zero if all of it is finite. With `None` for tiles of two sides, which are
            never the same.
        whole: the same of arrays and of examples that are one tile.
        without_features: for the numbers of examples of both sides, a function of the
            same that `whole` calls instead of `features` and `tile`; or `None`.
        parts: into how many parts `whole` cuts a tile of `n` examples with itself.
        place: writes a tile into a kernel, in place; with its flip, for one side.
    """

    def __init__(
        self,
        features: Features,
        kernel: Kernel,
        flip: Flip,
        parts: Callable[[int], int] = lambda n: 1,
        without_features: Callable[[int, int], Whole | None] = lambda n1, n2: None,
    ):
        """Compile nothing yet.

        Args:
            features: see above.
            kernel: of `shared` and of `each` of two tiles, arrays `(tile1, tile2, ...)`
                of floating-point numbers.
            flip: the kernel of two tiles in the other order.
            parts: into how many parts a tile of `n` examples with itself is cut, of
                which those below its diagonal are not computed.
            without_features: for numbers of examples of both sides, a function of
                arrays and of examples (`None` for the same again) to their kernel, for
                which features need not be held; `None` where features are better.
        """
        self.parts, self.without_features = parts, without_features
        self._features, self._kernel, self.flip = features, kernel, flip
        self.features = jit(features)
        self.tile = jit(self._tile)
        self.whole = jit(self._whole)
        self.place = jit(self._place, donate_argnums=0, static_argnums=4)

    def _tile(
        self, shared: PyTree, one: PyTree, two: PyTree, is_same: Array | None
    ) -> tuple[PyTree, Array]:
        return self._checked(self._kernel(shared, one, two), is_same)

    def _whole(
        self, arrays: PyTree, x1: PyTree, x2: PyTree, is_same: Array | None
    ) -> tuple[PyTree, Array]:
        direct = self.without_features(count(x1), count(x1 if x2 is None else x2))
        if direct is not None:
            return self._checked(direct(arrays, x1, x2), is_same)
        shared, one = self._features(arrays, x1)
        if x2 is not None:
            two = self._features(arrays, x2)[1]
            return self._checked(self._kernel(shared, one, two), is_same)
        n = count(x1)
        n_parts = self.parts(n)
        if n_parts == 1:
            return self._checked(self._kernel(shared, one, one), is_same)
        return self._triangle(shared, one, n, -(-n // n_parts))

    def _triangle(
        self, shared: PyTree, each: PyTree, n: int, size: int
    ) -> tuple[PyTree, Array]:
        """The kernel of one tile with itself, from the parts on and above its diagonal.

        In a loop: written out, each part would be compiled.
        """
        starts = np.minimum(np.arange(0, n, size), n - size)
        rows, columns = np.triu_indices(len(starts))

        def part(so_far: tuple[PyTree, Array], place: Any) -> tuple[Any, None]:
            (kernel, left), (i, j) = so_far, place
            one, two = (
                jtu.tree_map(
                    lambda a, start=start: jax.lax.dynamic_slice_in_dim(
                        a, start * (a.shape[0] // n), size * (a.shape[0] // n)
                    ),
                    each,
                )
                for start in (i, j)
            )
            # The residue while the tile is in a cache, which the kernel may not fit.
            tile, more = self._checked(self._kernel(shared, one, two), i == j)
            return (self._place(kernel, tile, i, j, True), left + more), None

        shapes = jax.eval_shape(self._kernel, shared, each, each)
        start = jtu.tree_map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
        none = jnp.zeros((), jax.eval_shape(residue, shapes).dtype)
        return jax.lax.scan(part, (start, none), (starts[rows], starts[columns]))[0]

    def _checked(self, tile: PyTree, is_same: Array | None) -> tuple[PyTree, Array]:
        """The tile, its own flip if it is the same one twice; and its residue."""
        tile = tile if is_same is None else self._symmetric(tile, is_same)
        return tile, residue(tile)

    def _symmetric(self, tile: PyTree, is_same: Any) -> PyTree:
        """The tile, its own flip if it is the same one twice."""

        def symmetric(tile: PyTree) -> PyTree:
            # A matrix product need not round `a @ b.T` and `b @ a.T` alike. Halved
            # before they are added: the sum of two large halves may overflow.
            return jtu.tree_map(lambda a, b: a * 0.5 + b * 0.5, tile, self.flip(tile))

        # A branch even where it is known: without one, XLA computes all that a tile is
        # the sum of twice, for the tile and for its flip.
        return jax.lax.cond(is_same, symmetric, lambda tile: tile, tile)

    def _place(
        self, kernel: PyTree, tile: PyTree, i: Any, j: Any, with_flip: bool
    ) -> PyTree:
        kernel = jtu.tree_map(lambda k, a: _updated(k, a, i, j), kernel, tile)
        if with_flip:
            flipped = self.flip(tile)
            kernel = jtu.tree_map(lambda k, a: _updated(k, a, j, i), kernel, flipped)
        return kernel


@functools.partial(jit, static_argnums=(1, 2))
def joined(each: list[PyTree], block: int, size: int) -> PyTree:
    """The first `size` examples of several blocks of `block`."""

    def together(*parts: Array) -> Array:
        return jnp.concatenate(parts)[: size * (parts[0].shape[0] // block)]

    return jtu.tree_map(together, *each)


def _updated(kernel: Array, part: Array, i: Any, j: Any) -> Array:
    return jax.lax.dynamic_update_slice(kernel, part, (i, j) + (0,) * (part.ndim - 2))
