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

from ._assembly import (
    OnAccelerator,
    OnHost,
    Traced,
    as_symmetric,
    joined,
    on_device,
)
from ._checkpoint import Checkpoint, StoredTiles, program
from ._checks import is_traced
from ._inputs import count
from ._programs import Programs
from ._schedule import FEATURE_BYTES, Cache, Side, block_size, schedule, side
from ._types import Examples, Text
from ._workers import Workers, put, working_on

Report = Callable[[int, int], object]

# Tiles that are computed while the host waits for an earlier one: enough to keep a
# device busy, few enough to hold beside the kernel.
_TILES_AHEAD = 8
_BYTES_AHEAD = 2**27

# Just below the largest block that glibc's thresholds follow.
_LARGEST_FREED = 2**25 - 2**16


def pairwise(
    programs: Programs,
    arrays: PyTree,
    x1: Examples,
    x2: Examples | None,
    batch_size: int,
    report: Report,
    *,
    pair_bytes: int = 16,
    out: Text = "device",
    mesh: Any = None,
    checkpoint: Checkpoint | None = None,
) -> PyTree:
    """The kernel of all pairs, a PyTree of arrays `(n1, n2, ...)`.

    Features of examples are computed in blocks of one size and joined to larger tiles,
    and each pair of tiles is one call of the kernel. Where all examples are one block,
    all of it is one program. Under a transformation of the caller the same numbers are
    concatenated instead of written in place.

    Args:
        programs: the functions; compiled once for the object and shapes.
        arrays: what the features are of, beside examples.
        x1: the examples that index the rows.
        x2: the examples that index the columns; `None` means `x1` again. Then only the
            tiles on and above the diagonal are computed, the others are flipped, and
            the result is exactly its own flip.
        batch_size: the largest block that features are asked of. Every block has this
            size where there are as many examples.
        report: is told how many tiles of the kernel are done, and how many there are.
        pair_bytes: of the temporaries and the result of one pair of examples in the
            kernel; bounds the tiles.
        out: `"device"`, or `"host"` for a NumPy array, for kernels larger than the
            device.
        mesh: a `jax.sharding.Mesh` of devices that compute tiles in turns; the result
            is on the first of them. Where it holds devices of several processes, all
            must call this with equal arguments, and all get the whole kernel.
        checkpoint: where finished tiles are kept and found. What it says of the kernel
            is completed by what the functions compute, by the arrays that they close
            over, the inputs and the sizes.

    Raises:
        ValueError: for another `out`, for a mesh of some of the processes or none of
            this one's devices, for a checkpoint of another kernel, and for `"host"`, a
            mesh or a checkpoint under a transformation.

    Holds the kernel, `FEATURE_BYTES` of features or all that there are, and a few
    tiles. Where not all features fit, some are computed again, those of the side and
    in the order that makes them fewest (`_schedule`). Each device of a mesh compiles
    all functions and holds as many features; each process computes the features that
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
    _refuse_traced(needs_numbers, arrays, x1, x2)
    if jax.default_backend() == "cpu":
        _keep_memory()
    workers = Workers(mesh)
    xs = [x1] if x2 is None else [x1, x2]
    blocks = [block_size(count(x), batch_size, pair_bytes) for x in xs]
    counts = [count(x) for x in xs]
    one_block = blocks == counts
    if max(counts) <= batch_size:
        one_block |= programs.without_features(counts[0], counts[-1]) is not None
    if one_block and mesh is None and checkpoint is None:
        kernel = _in_one(programs, arrays, x1, x2)
        _refuse_traced(needs_numbers, kernel)
        report(1, 1)
        return jtu.tree_map(np.asarray, kernel) if out == "host" else kernel
    on_host = out == "host" or jax.default_backend() == "cpu"
    tiles = _Tiles(
        workers, programs, arrays, xs, blocks, batch_size, pair_bytes, checkpoint,
        made_symmetric=on_host and checkpoint is None,
    )  # fmt: skip
    produced = iter(tiles)
    start = next(produced)
    traced = _refuse_traced(needs_numbers, start[1])
    place_of_result = Traced if traced else OnHost if on_host else OnAccelerator
    assembly = place_of_result(
        programs, tiles.sides[0], None if x2 is None else tiles.sides[1]
    )
    ahead = len(tiles) if traced else tiles.ahead(start[1])
    waiting: deque[tuple[int, PyTree]] = deque()
    done = 0

    def take() -> None:
        nonlocal done
        turn, tile = waiting.popleft()
        tiles.keep(turn, tile)
        if not on_host:
            tile = put(tile, workers.mine[0])
        assembly.write(*tiles.pairs[turn], tile)
        done += 1
        report(done, len(tiles))

    for tile in itertools.chain([start], produced):
        waiting.append(tile)
        if len(waiting) > ahead:
            jax.block_until_ready(waiting[0][1])
            take()
    while waiting:
        take()
    kernel = assembly.result()
    if isinstance(assembly, OnHost) and out == "device":
        kernel = on_device(kernel, put(start[1], workers.mine[0]))
    return kernel


@functools.cache
def _keep_memory() -> None:
    """Once, have the system's allocator keep memory between calls.

    glibc gives back what is free above twice the largest block that was ever freed, up
    to 64 MB, and the next call has it zeroed page by page: a tenth of the time of many
    kernels. So a large block is freed; nothing is written to it.

    Source: mallopt(3), `M_MMAP_THRESHOLD`, the paragraphs on its dynamic value.
    """
    np.empty(_LARGEST_FREED, np.uint8)


def _in_one(
    programs: Programs, arrays: PyTree, x1: Examples, x2: Examples | None
) -> PyTree:
    """The kernel by one program, its own flip where both sides are one."""
    if x2 is not None:
        return programs.whole(arrays, x1, x2, None)
    if is_traced(arrays, x1) or jax.default_backend() != "cpu":
        return programs.whole(arrays, x1, None, np.bool_(True))
    return as_symmetric(programs, programs.whole(arrays, x1, None, None))


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
        programs: Programs,
        arrays: PyTree,
        xs: list[Any],
        blocks: list[int],
        batch_size: int,
        pair_bytes: int,
        checkpoint: Checkpoint | None,
        *,
        made_symmetric: bool,
    ):
        """Say nothing to tiles of whether they are `made_symmetric` later."""
        self._made_symmetric = made_symmetric
        self._workers, self._programs = workers, programs
        self._like: PyTree = None
        self._stored: StoredTiles | None = None
        self._unsaved: set[int] = set()
        self._work = {device: put(arrays, device) for device in workers.mine}
        traced = shared = first = None
        if checkpoint is None and not workers.many:
            # What one block's features take says how many there may be.
            device = workers.mine[0]
            x = _examples(xs[0], 0, count(xs[0]) - 1, blocks[0])
            with working_on(device):
                first = programs.features(self._work[device], put(x, device))
            each = first[1]
        else:
            # All tiles may be on disk or computed elsewhere, but shapes are needed.
            traced, (shared, each) = jax.make_jaxpr(
                programs.features, return_shape=True
            )(arrays, _resized(xs[0], count(xs[0]), blocks[0]))
            _refuse_traced(["checkpoint", "mesh"][checkpoint is None :], traced.consts)
        self._example_bytes = _bytes(each) // blocks[0]
        self.sides = [
            side(count(x), block, self._example_bytes, pair_bytes, max(map(count, xs)))
            for x, block in zip(xs, blocks, strict=True)
        ]
        two = None if len(xs) == 1 else self.sides[1]
        self._is_one_side = two is None
        self._groups = schedule(self.sides[0], two, self._example_bytes)
        self._turns = [(group, pair) for group in self._groups for pair in group.pairs]
        self.pairs = [pair for _, pair in self._turns]
        self._features = _Features(programs, self._work, xs, self.sides, first)
        if traced is not None:
            shapes = [_resized(each, blocks[0], self.sides[s].tile) for s in (0, -1)]
            product, self._like = jax.make_jaxpr(programs.tile, return_shape=True)(
                shared, *shapes, self._is_same(0, 0)
            )
            if checkpoint is not None:
                facts = _facts(xs, batch_size, self.sides)
                self._stored = checkpoint.open(facts | program(traced, product))

    def __len__(self) -> int:
        return len(self._turns)

    def __iter__(self) -> Iterator[tuple[int, PyTree]]:
        """Each turn with its tile, when it is wanted."""
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
            self._is_same(i, j),
        )

    def _is_same(self, i: int, j: int) -> Any:
        is_asked = self._is_one_side and not self._made_symmetric
        return np.bool_(i == j) if is_asked else None

    def _from_numpy(self, tile: PyTree) -> PyTree:
        # The caller's `flip` is written for what the kernel is.
        with working_on(self._workers.mine[0]):
            return jtu.tree_map(jnp.asarray, tile)

    def _product(self, device: Any, one: PyTree, two: PyTree, is_same: Any) -> PyTree:
        with working_on(device):
            return self._programs.tile(self._features.shared(device), one, two, is_same)


class _Features:
    """The features of tiles of examples, made when they are asked for."""

    def __init__(
        self,
        programs: Programs,
        work: dict[Any, PyTree],
        xs: list[Any],
        sides: list[Side],
        first: tuple[PyTree, PyTree] | None,
    ):
        self._programs, self._work, self._xs, self._sides = programs, work, xs, sides
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
        return joined(each, side.block, side.tile)

    def _block(self, s: int, first: int, last: int, device: Any) -> PyTree:
        if self._first is not None and (s, first) == (0, 0):
            each, self._first = self._first, None
            return each
        x = _examples(self._xs[s], first, last, self._sides[s].block)
        with working_on(device):
            shared, each = self._programs.features(self._work[device], put(x, device))
        self._shared.setdefault(device, shared)
        return each


def _facts(xs: list[Any], batch_size: int, sides: list[Side]) -> dict[str, Any]:
    return {
        "x1": xs[0],
        "x2": xs[1:],
        "batch_size": str(batch_size),
        "the sizes of blocks and tiles": str(sides),
    }


def _resized(tree: PyTree, n: int, size: int) -> PyTree:
    """The shapes and dtypes for `size` examples, of what holds `n`."""

    def resized(a: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((size * a.shape[0] // n, *a.shape[1:]), a.dtype)

    return jtu.tree_map(resized, tree)


def _bytes(tree: PyTree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jtu.tree_leaves(tree))


def _examples(x: Examples, first: int, last: int, size: int) -> Examples:
    """`size` examples from `first` on; past `last` they are copies of it.

    Copies, not zeros, at which a derivative may not exist.
    """
    if size == count(x):
        return x
    index = np.minimum(np.arange(first, first + size), last)
    return jtu.tree_map(lambda a: _on_host(a)[index], x)


def _on_host(array: Any) -> Any:
    """The same for NumPy, whose indexing needs no program that has to be compiled."""
    is_plain = not (is_traced(array) or getattr(array, "weak_type", False))
    if is_plain and not jnp.issubdtype(array.dtype, jax.dtypes.extended):
        return np.asarray(array)
    return array


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
        return _examples(self._x, i * self._size, self._n - 1, self._size)

    def n_real(self, i: int) -> int:
        """How many examples of block `i` are not copies."""
        return min(self._size, self._n - i * self._size)
