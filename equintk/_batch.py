"""Any function of pairs of examples, tile by tile.

A host loop over two compiled functions, not `lax.map`: inside XLA's loops convolutions
are several times slower on CPU. Under a transformation of the caller it unrolls.
"""

import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import PyTree

from ._assembly import OnDevice, OnHost, Traced, symmetrised
from ._checks import is_traced
from ._inputs import count
from ._schedule import FEATURE_BYTES, Cache, Group, Side, block_size, schedule, side
from ._types import Examples, Text

Features = Callable[[Examples], tuple[PyTree, PyTree]]
Kernel = Callable[[PyTree, PyTree, PyTree], PyTree]
Flip = Callable[[PyTree], PyTree]
Report = Callable[[int, int], object]

# Tiles that are computed while the host waits for an earlier one: enough to keep a
# device busy, few enough to hold beside the kernel.
_TILES_AHEAD = 8
_BYTES_AHEAD = 2**27


def pairwise(
    features: Features,
    kernel: Kernel,
    flip: Flip,
    x1: Examples,
    x2: Examples | None,
    batch_size: int,
    report: Report,
    *,
    pair_bytes: int = 16,
    out: Text = "device",
) -> PyTree:
    """`kernel(shared, each(x1), each(x2))`, a PyTree of arrays `(n1, n2, ...)`.

    Features of examples are computed in blocks of one size and joined to larger tiles,
    and each pair of tiles is one call of `kernel`. Under a transformation of the caller
    the same numbers are concatenated instead of written in place.

    Args:
        features: of a block of examples: what does not depend on them, `shared`, and
            what does, `each`, a PyTree of arrays whose first axis counts them.
        kernel: of `shared` and of `each` of two tiles, arrays `(tile1, tile2, ...)`.
        flip: the kernel of two tiles in the other order.
        x1: the examples that index the rows.
        x2: the examples that index the columns; `None` means `x1` again. Then only the
            tiles on and above the diagonal are computed, the others are flipped, and
            the result is exactly its own flip.
        batch_size: the largest block that `features` is called with. Every call has
            this size where there are as many examples.
        report: is told how many tiles of the kernel are done, and how many there are.
        pair_bytes: of the temporaries and the result of one pair of examples in
            `kernel`; bounds the tiles.
        out: `"device"`, or `"host"` for a NumPy array, for kernels larger than the
            device.

    Raises:
        ValueError: for another `out`, or `"host"` under a transformation.

    Holds the kernel, `FEATURE_BYTES` of features or all that there are, and a few
    tiles. Where not all features fit, some are computed again, those of the side and
    in the order that makes them fewest (`_schedule`).
    """
    if out not in ("device", "host"):
        raise ValueError(f'`out` must be "device" or "host", but it is {out!r}.')
    xs = [x1] if x2 is None else [x1, x2]
    blocks = [block_size(count(x), batch_size, pair_bytes) for x in xs]
    first = features(_examples(x1, 0, count(x1) - 1, blocks[0]))
    example_bytes = _bytes(first[1]) // blocks[0]
    sides = [
        side(count(x), block, example_bytes, pair_bytes)
        for x, block in zip(xs, blocks, strict=True)
    ]
    groups = schedule(sides[0], None if x2 is None else sides[1], example_bytes)
    tiles = _tiles(kernel, groups, _Features(features, xs, sides, first))
    total = sum(len(group.pairs) for group in groups)

    start = next(tiles)
    assembly = _assembly(out, start[2], sides)
    ahead = _ahead(start[2], groups, sides, example_bytes)
    waiting: deque[list[tuple[int, int, PyTree]]] = deque()
    done = 0

    def take() -> None:
        nonlocal done
        for part in waiting.popleft():
            assembly.write(*part)
        done += 1
        report(done, total)

    for i, j, tile in itertools.chain([start], tiles):
        if x2 is not None:
            parts = [(i, j, tile)]
        elif i == j:
            parts = [(i, j, symmetrised(tile, flip))]
        else:
            parts = [(i, j, tile), (j, i, flip(tile))]
        waiting.append(parts)
        if len(waiting) > ahead:
            jax.block_until_ready([part for _, _, part in waiting[0]])
            take()
    while waiting:
        take()
    return assembly.result()


class _Features:
    """The features of tiles of examples, made when they are asked for."""

    def __init__(
        self, features: Features, xs: list[Any], sides: list[Side], first: Any
    ):
        self._features, self._xs, self.sides = features, xs, sides
        self.shared, each = first
        self._first: Any = each
        self._cache = Cache()
        self.enter = self._cache.enter

    def __call__(self, s: int, i: int) -> PyTree:
        return self._cache.get((s, i), functools.partial(self._make, s, i))

    def _make(self, s: int, i: int) -> PyTree:
        x, side = self._xs[s], self.sides[s]
        start = side.start(i)
        each = []
        for block in range(side.blocks_per_tile):
            if self._first is not None and (s, i, block) == (0, 0, 0):
                each.append(self._first)
                self._first = None
                continue
            first, last = start + block * side.block, start + side.tile - 1
            each.append(self._features(_examples(x, first, last, side.block))[1])
        if side.blocks_per_tile == 1 and side.block == side.tile:
            return each[0]
        return _joined(each, side.tile)


def _tiles(
    kernel: Kernel, groups: list[Group], features: _Features
) -> Iterator[tuple[int, int, PyTree]]:
    column_side = len(features.sides) - 1
    for group in groups:
        features.enter(group)
        for i, j in group.pairs:
            # No name for the features here: it would hold them past their time.
            yield (
                i,
                j,
                kernel(features.shared, features(0, i), features(column_side, j)),
            )


def _assembly(out: str, tile: PyTree, sides: list[Side]) -> OnDevice | OnHost | Traced:
    rows, columns = sides[0], sides[-1]
    if is_traced(tile):
        if out == "host":
            raise ValueError(
                '`out="host"` needs numbers, but the kernel is computed inside `jit`, '
                "`grad`, `vmap` or another transformation. Leave `out` out, or compute "
                "the kernel outside."
            )
        return Traced(rows, columns)
    return OnHost(rows, columns) if out == "host" else OnDevice(rows, columns)


def _ahead(
    tile: PyTree, groups: list[Group], sides: list[Side], example_bytes: int
) -> int:
    """How many tiles may be waited for, so that little is held for them."""
    if is_traced(tile):
        return sum(len(group.pairs) for group in groups)
    ahead = min(_TILES_AHEAD, _BYTES_AHEAD // max(_bytes(tile), 1))
    if len(groups) > 1:  # each may hold features of its own
        bytes_of_features = max(side.tile for side in sides) * example_bytes
        ahead = min(ahead, FEATURE_BYTES // 4 // max(bytes_of_features, 1))
    return ahead


def _bytes(tree: PyTree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jtu.tree_leaves(tree))


def _examples(x: Examples, first: int, last: int, size: int) -> Examples:
    """`size` examples from `first` on; past `last` they are copies of it.

    Copies, not zeros, at which a derivative may not exist.
    """
    return x if size == count(x) else _rows(x, first, last, size)


@functools.partial(jax.jit, static_argnums=3)
def _rows(x: Examples, first: Any, last: Any, size: int) -> Examples:
    index = jnp.minimum(first + jnp.arange(size), last)
    return jtu.tree_map(lambda a: a[index], x)


@functools.partial(jax.jit, static_argnums=1)
def _joined(each: list[PyTree], size: int) -> PyTree:
    return jtu.tree_map(lambda *parts: jnp.concatenate(parts)[:size], *each)


class Blocks:
    """The fewest blocks of at most `batch_size` examples, all of one size.

    The last is filled up with copies of the last example, so that everything compiles
    once: copies, not zeros, at which a derivative may not exist.
    """

    def __init__(self, x: Examples, batch_size: int):
        self._x = x
        self._n = count(x)
        self._size = -(-self._n // -(-self._n // batch_size))

    def __len__(self) -> int:
        return -(-self._n // self._size)

    def __getitem__(self, i: int) -> Examples:
        if len(self) == 1:
            return self._x
        start = i * self._size
        index = np.minimum(np.arange(start, start + self._size), self._n - 1)
        return jtu.tree_map(lambda a: a[index], self._x)

    def n_real(self, i: int) -> int:
        """How many examples of block `i` are not copies."""
        return min(self._size, self._n - i * self._size)
