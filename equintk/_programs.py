"""The compiled functions that kernels of pairs of examples are made with.

As few and as small as can be: to compile one takes longer than most kernels do.
"""

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.tree_util as jtu
from jaxtyping import Array, PyTree

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
            their kernel, exactly its own flip if they are. With `None` as it comes.
        whole: the same of arrays and of examples that are one tile.
        without_features: for the numbers of examples of both sides, a function of the
            same that `whole` calls instead of `features` and `tile`; or `None`.
        place: writes a tile into a kernel, in place; with its flip, for one side.
    """

    def __init__(
        self,
        features: Features,
        kernel: Kernel,
        flip: Flip,
        without_features: Callable[[int, int], Whole | None] = lambda n1, n2: None,
    ):
        """Compile nothing yet.

        Args:
            features: see above.
            kernel: of `shared` and of `each` of two tiles, arrays `(tile1, tile2, ...)`
                of floating-point numbers.
            flip: the kernel of two tiles in the other order, of NumPy's arrays too.
            without_features: for numbers of examples of both sides, a function of
                arrays and of examples (`None` for the same again) to their kernel, for
                which features need not be held; `None` where features are better.
        """
        self.without_features = without_features
        self._features, self._kernel, self.flip = features, kernel, flip
        self.features = jit(features)
        self.tile = jit(self._tile)
        self.whole = jit(self._whole)
        self.place = jit(self._place, donate_argnums=0, static_argnums=4)

    def symmetric(self, tile: PyTree) -> PyTree:
        """Of a tile of examples with themselves what is exactly its own flip."""
        # A matrix product need not round `a @ b.T` and `b @ a.T` alike. Halved before
        # they are added: the sum of two large halves may overflow.
        half = jtu.tree_map(lambda a: a * a.dtype.type(0.5), tile)
        return jtu.tree_map(operator.add, half, self.flip(half))

    def symmetric_if(self, is_same: Any, tile: PyTree) -> PyTree:
        """The same in a program; the tile as it is if it is of two."""
        # A branch even where it is known: without one, XLA computes all that a tile is
        # the sum of twice, for the tile and for its flip.
        return jax.lax.cond(is_same, self.symmetric, lambda tile: tile, tile)

    def _tile(
        self, shared: PyTree, one: PyTree, two: PyTree, is_same: Array | None
    ) -> PyTree:
        tile = self._kernel(shared, one, two)
        return tile if is_same is None else self.symmetric_if(is_same, tile)

    def _whole(
        self, arrays: PyTree, x1: PyTree, x2: PyTree, is_same: Array | None
    ) -> PyTree:
        n = count(x1)
        direct = self.without_features(n, n if x2 is None else count(x2))
        if direct is not None:
            tile = direct(arrays, x1, x2)
        else:
            shared, one = self._features(arrays, x1)
            two = one if x2 is None else self._features(arrays, x2)[1]
            tile = self._kernel(shared, one, two)
        return tile if is_same is None else self.symmetric_if(is_same, tile)

    def _place(
        self, kernel: PyTree, tile: PyTree, i: Any, j: Any, with_flip: bool
    ) -> PyTree:
        kernel = jtu.tree_map(lambda k, a: _updated(k, a, i, j), kernel, tile)
        if with_flip:
            flipped = self.flip(tile)
            kernel = jtu.tree_map(lambda k, a: _updated(k, a, j, i), kernel, flipped)
        return kernel


def _updated(kernel: Array, part: Array, i: Any, j: Any) -> Array:
    return jax.lax.dynamic_update_slice(kernel, part, (i, j) + (0,) * (part.ndim - 2))
