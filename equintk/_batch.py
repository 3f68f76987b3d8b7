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
from ._checkpoint import Checkpoint, StoredTiles, program
from ._checks import is_traced
from ._inputs import count
from ._schedule import FEATURE_BYTES, Cache, Side, block_size, schedule, side
from ._types import Examples, Text
from ._workers import Workers, put, working_on

Features = Callable[[Examples], tuple[PyTree, PyTree]]
Kernel = Callable[[PyTree, PyTree, PyTree], PyTree]
Flip = Callable[[PyTree], PyTree]
Report = Callable[[int, int], object]
Place = Callable[[Any], tuple[Features, Kernel]]
PairBytes = int | Callable[[PyTree, PyTree], int]

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
    mesh: Any = None,
    place: Place | None = None,
    checkpoint: Checkpoint | None = None,
) -> PyTree:
    """`kernel(shared, each(x1), each(x2))`, a PyTree of arrays `(n1, n2, ...)`.

    Features of examples are computed in blocks of one size and joined to larger tiles,
    and each pair of tiles is one call of `kernel`. Under a transformation of the caller
    the same numbers are concatenated instead of written in place.

    Args:
        features: of a block of examples: what does not depend on them, `shared`, and
            what does, `each`, a PyTree of arrays whose first axis counts them.
        kernel: of `shared` and of `each` of two tiles, arrays `(tile1, tile2, ...)` of
            floating-point numbers.
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
        mesh: a `jax.sharding.Mesh` of devices that compute tiles in turns; the result
            is on the first of them. Where it holds devices of several processes, all
            must call this with equal arguments, and all get the whole kernel.
        place: `features` and `kernel` for a device of the mesh, with what they close
            over on that device. Without it both are called inside
            `jax.default_device(device)` with arguments on that device, which works,
            at the price of a copy in each call, unless they close over arrays that are
            committed to another device.
        checkpoint: where finished tiles are kept and found. What it says of the kernel
            is completed by what `features` and `kernel` compute, by the arrays that
            they close over, the inputs and the sizes.

    Raises:
        ValueError: for another `out`, for a mesh of some of the processes or none of
            this one's devices, for a checkpoint of another kernel, and for `"host"`, a
            mesh or a checkpoint under a transformation.

    Holds the kernel, `FEATURE_BYTES` of features or all that there are, and a few
    tiles. Where not all features fit, some are computed again, those of the side and
    in the order that makes them fewest (`_schedule`). Each device of a mesh compiles
    both functions and holds as many features; each process computes the features that
    its tiles need.
    """
    if out not in ("device", "host"):
        raise ValueError(f'`out` must be "device" or "host", but it is {out!r}.')
    needs_numbers = [
        name
        for name, is_given in (
            ('out="host"', out == "host"),
            ("mesh", mesh is not None),
            ("checkpoint", checkpoint is not None),
        )
        if is_given
    ]
    _refuse_traced(needs_numbers, x1, x2)
    workers = Workers(mesh)
    work = {d: place(d) if place else (features, kernel) for d in workers.mine}
    tiles = _Tiles(workers, work, x1, x2, batch_size, pair_bytes, checkpoint)
    produced = iter(tiles)
    start = next(produced)
    traced = _refuse_traced(needs_numbers, start[1])
    place_of_result = Traced if traced else OnHost if out == "host" else OnDevice
    assembly = place_of_result(tiles.sides[0], tiles.sides[-1])
    ahead = len(tiles) if traced else tiles.ahead(start[1])
    waiting: deque[tuple[int, PyTree, list[tuple[int, int, PyTree]]]] = deque()
    done = 0

    def take() -> None:
        nonlocal done
        turn, tile, parts = waiting.popleft()
        tiles.keep(turn, tile)
        for part in parts:
            assembly.write(*part)
        done += 1
        report(done, len(tiles))

    for turn, tile in itertools.chain([start], produced):
        i, j = tiles.pairs[turn]
        if x2 is not None:
            parts = [(i, j, tile)]
        elif i == j:
            parts = [(i, j, symmetrised(tile, flip))]
        else:
            parts = [(i, j, tile), (j, i, flip(tile))]
        if out == "device":
            parts = [(i, j, put(part, workers.mine[0])) for i, j, part in parts]
        waiting.append((turn, tile, parts))
        if len(waiting) > ahead:
            jax.block_until_ready([part for _, _, part in waiting[0][2]])
            take()
    while waiting:
        take()
    return assembly.result()


def _refuse_traced(needs_numbers: list[str], *trees: PyTree) -> bool:
    """Whether the caller is transforming what is computed."""
    if not is_traced(*trees):
        return False
    if needs_numbers:
        raise ValueError(
            f"`{needs_numbers[0]}` needs numbers, but the kernel is computed inside "
            "`jit`, `grad`, `vmap` or another transformation. Leave it out, or compute "
            "the kernel outside."
        )
    return True


class _Tiles:
    """The tiles of a kernel, computed or found on disk, in turn."""

    def __init__(
        self,
        workers: Workers,
        work: dict[Any, tuple[Features, Kernel]],
        x1: Examples,
        x2: Examples | None,
        batch_size: int,
        pair_bytes: int,
        checkpoint: Checkpoint | None,
    ):
        self._workers, self._work = workers, work
        xs = [x1] if x2 is None else [x1, x2]
        blocks = [block_size(count(x), batch_size, pair_bytes) for x in xs]
        features, kernel = work[workers.mine[0]]
        self._like: PyTree = None
        self._stored: StoredTiles | None = None
        self._unsaved: set[int] = set()
        traced = shared = first = None
        if checkpoint is None and not workers.many:
            # What one block's features take says how many there may be.
            device = workers.mine[0]
            x = _examples(x1, 0, count(x1) - 1, blocks[0])
            with working_on(device):
                first = features(put(x, device))
            each = first[1]
        else:
            # All tiles may be on disk or computed elsewhere, but shapes are needed.
            traced, (shared, each) = jax.make_jaxpr(features, return_shape=True)(
                _resized(x1, blocks[0])
            )
            _refuse_traced(["checkpoint", "mesh"][checkpoint is None :], traced.consts)
        self._example_bytes = _bytes(each) // blocks[0]
        self.sides = [
            side(count(x), block, self._example_bytes, pair_bytes)
            for x, block in zip(xs, blocks, strict=True)
        ]
        two = None if x2 is None else self.sides[1]
        self._groups = schedule(self.sides[0], two, self._example_bytes)
        self._turns = [(group, pair) for group in self._groups for pair in group.pairs]
        self.pairs = [pair for _, pair in self._turns]
        self._features = _Features(work, xs, self.sides, first)
        if traced is not None:
            shapes = [_resized(each, self.sides[s].tile) for s in (0, -1)]
            product, self._like = jax.make_jaxpr(kernel, return_shape=True)(
                shared, *shapes
            )
            if checkpoint is not None:
                facts = _facts(xs, batch_size, self.sides)
                self._stored = checkpoint.open(facts | program(traced, product))

    def __len__(self) -> int:
        return len(self._turns)

    def __iter__(self) -> Iterator[tuple[int, PyTree]]:
        """Each turn with its tile, at the time when it is wanted."""
        if self._workers.many:
            exchanged = self._workers.exchanged(len(self), self._own, self._like)
            for turn, tile in enumerate(exchanged):
                yield turn, self._from_numpy(tile)
        else:
            for turn in range(len(self)):
                yield turn, self._tile(turn)

    def keep(self, turn: int, tile: PyTree) -> None:
        """Wait for a tile and write it to disk, unless it is there."""
        if self._stored is not None and turn in self._unsaved:
            self._unsaved.remove(turn)
            self._stored.save(*self.pairs[turn], tile)

    def ahead(self, tile: PyTree) -> int:
        """How many tiles may be waited for, so that little is held for them."""
        tiles = min(_TILES_AHEAD, _BYTES_AHEAD // max(_bytes(tile), 1))
        if len(self._groups) > 1:  # each may hold features of its own
            largest = max(side.tile for side in self.sides) * self._example_bytes
            tiles = min(tiles, FEATURE_BYTES // 4 // max(largest, 1))
        return tiles * len(self._workers.mine)

    def _own(self, turns: list[int]) -> list[PyTree]:
        """Tiles that others wait for, all under way before the first is kept."""
        tiles = [self._tile(turn) for turn in turns]
        for turn, tile in zip(turns, tiles, strict=True):
            self.keep(turn, tile)
        return tiles

    def _tile(self, turn: int) -> PyTree:
        group, (i, j) = self._turns[turn]
        if self._stored is not None:
            tile = self._stored.load(i, j, self._like)
            if tile is not None:
                return self._from_numpy(tile)
            self._unsaved.add(turn)
        device = self._workers.device(turn)
        self._features.enter(group)
        # No names for the features here: they would hold them past their time.
        return self._product(
            device,
            self._features(0, i, device),
            self._features(len(self.sides) - 1, j, device),
        )

    def _from_numpy(self, tile: PyTree) -> PyTree:
        # The caller's `flip` is written for what `kernel` returns.
        with working_on(self._workers.mine[0]):
            return jtu.tree_map(jnp.asarray, tile)

    def _product(self, device: Any, one: PyTree, two: PyTree) -> PyTree:
        with working_on(device):
            return self._work[device][1](self._features.shared(device), one, two)


class _Features:
    """The features of tiles of examples, made when they are asked for."""

    def __init__(
        self,
        work: dict[Any, tuple[Features, Kernel]],
        xs: list[Any],
        sides: list[Side],
        first: tuple[PyTree, PyTree] | None,
    ):
        self._work, self._xs, self._sides = work, xs, sides
        self._cache = Cache()
        self.enter = self._cache.enter
        self._shared: dict[Any, PyTree] = {}
        self._first: Any = None
        if first is not None:
            self._shared[next(iter(work))], self._first = first

    def __call__(self, s: int, i: int, device: Any) -> PyTree:
        """Of tile `i` of side `s`, on a device: made there, or copied from where."""
        copies = self._cache.get((s, i), lambda: {device: self._make(s, i, device)})
        if device not in copies:
            copies[device] = put(next(iter(copies.values())), device)
        return copies[device]

    def shared(self, device: Any) -> PyTree:
        """What does not depend on the examples, known once there are features."""
        if device not in self._shared:
            self._shared[device] = put(next(iter(self._shared.values())), device)
        return self._shared[device]

    def _make(self, s: int, i: int, device: Any) -> PyTree:
        side = self._sides[s]
        start = side.start(i)
        each = [
            self._block(s, start + k * side.block, start + side.tile - 1, device)
            for k in range(side.blocks_per_tile)
        ]
        if side.blocks_per_tile == 1 and side.block == side.tile:
            return each[0]
        return _joined(each, side.tile)

    def _block(self, s: int, first: int, last: int, device: Any) -> PyTree:
        if self._first is not None and (s, first) == (0, 0):
            each, self._first = self._first, None
            return each
        x = _examples(self._xs[s], first, last, self._sides[s].block)
        with working_on(device):
            shared, each = self._work[device][0](put(x, device))
        self._shared.setdefault(device, shared)
        return each


def _facts(xs: list[Any], batch_size: int, sides: list[Side]) -> dict[str, Any]:
    return {
        "x1": xs[0],
        "x2": xs[1:],
        "batch_size": str(batch_size),
        "the sizes of blocks and tiles": str(sides),
    }


def _resized(tree: PyTree, n: int) -> PyTree:
    """The shapes and dtypes of as many examples."""
    return jtu.tree_map(
        lambda a: jax.ShapeDtypeStruct((n, *a.shape[1:]), a.dtype), tree
    )


def _bytes(tree: PyTree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jtu.tree_leaves(tree))


def _examples(x: Examples, first: int, last: int, size: int) -> Examples:
    """`size` examples from `first` on; past `last` they are copies of it.

    Copies, not zeros, at which a derivative may not exist.
    """
    return x if size == count(x) else _rows(x, first, last, size)


def _first_of(x: Examples, size: int) -> Examples:
    return _examples(x, 0, count(x) - 1, size)


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
