"""Which tiles of a kernel are computed, in which order, and what is held meanwhile.

Only counts: numbers of examples, bytes, tiles. No arrays.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

FEATURE_BYTES = 2**30
"""Features held at a time on each device; all examples' where they fit."""

PAIR_BYTES = 2**26
"""Temporaries of one tile of the kernel."""

# Examples on a side of a tile. From `ENOUGH` on, calling a compiled tile costs little
# beside computing it; beyond `MOST` a tile gains nothing and a triangle of them loses.
ENOUGH = 256
MOST = 512

# Blocks on a side of a small kernel.
FEW = 4

# Features of all examples that stay in a processor's cache, in bytes.
_CACHED = 2**24


def block_size(n: int, batch_size: int, pair_bytes: int) -> int:
    """Examples per call of `features`: the same whatever `n >= batch_size`."""
    return min(n, batch_size, _largest_tile(pair_bytes))


@dataclass(frozen=True)
class Side:
    """The examples of one side of a kernel, cut into tiles of one size.

    The last tile is shifted back to end with the last example, so it may overlap its
    neighbour, and every tile has the same shape.
    """

    n: int
    block: int
    tile: int

    @property
    def n_tiles(self) -> int:
        """How many tiles cover the examples."""
        return -(-self.n // self.tile)

    @property
    def blocks_per_tile(self) -> int:
        """Calls of `features` for one tile, the last filled up with copies."""
        return -(-self.tile // self.block)

    def start(self, i: int) -> int:
        """The first example of tile `i`."""
        return min(i * self.tile, self.n - self.tile)

    def n_new(self, i: int) -> int:
        """How many examples of tile `i` no earlier tile holds: the last ones of it."""
        return min(self.tile, self.n - i * self.tile)


def side(
    n: int, block: int, example_bytes: int, pair_bytes: int, n_others: int = 0
) -> Side:
    """Tiles of several blocks: many pairs in one call, yet few below the diagonal.

    In a small kernel each block is a tile: some are cut in blocks for the tiles that
    need not be computed, and elsewhere to join them would be one more program.

    Args:
        n: the number of examples.
        block: examples per call of `features`.
        example_bytes: of one example's features.
        pair_bytes: of the temporaries of one pair of examples in the kernel.
        n_others: the number of examples of the other side.
    """
    # Cut in quarters, less of a small kernel is below the diagonal than in halves; but
    # rows that come from memory are read oftener, and products of few wait for them.
    parts = 4 if n * example_bytes <= _CACHED else 2
    by_symmetry = max(n // 8, min(ENOUGH, n // parts))
    by_features = FEATURE_BYTES // (8 * max(example_bytes, 1))
    largest = min(MOST, _largest_tile(pair_bytes), by_symmetry, by_features)
    n_blocks = -(-n // block)
    if max(n, n_others) <= FEW * block:
        largest = block
    n_tiles = -(-n_blocks // max(1, largest // block))
    return Side(n, block, -(-n // n_tiles))


@dataclass(frozen=True)
class Group:
    """Tiles of the kernel that are computed while some features are held.

    Attributes:
        held: the features, as (side, tile), that stay for the whole group. One more
            tile of features is held at a time, until the next one is asked for.
        pairs: the tiles (row, column) of the kernel in order.
    """

    held: frozenset[tuple[int, int]]
    pairs: tuple[tuple[int, int], ...]


def schedule(
    one: Side, two: Side | None, example_bytes: int, budget: int | None = None
) -> list[Group]:
    """All tiles of the kernel, each example's features computed as seldom as possible.

    For `two=None` the tiles on and above the diagonal, such that tile `(j, j)` comes
    after `(j - 1, j)`: where the last tiles overlap, the symmetric one has the last
    word.

    Args:
        one: the rows.
        two: the columns; `None` means `one` again.
        example_bytes: of one example's features.
        budget: the bytes of features that may be held, by default `FEATURE_BYTES`.
    """
    budget = FEATURE_BYTES if budget is None else budget
    sides = [one] if two is None else [one, two]
    if sum(s.n for s in sides) * example_bytes <= budget:
        held = frozenset(
            (s, i) for s, it in enumerate(sides) for i in range(it.n_tiles)
        )
        pairs = tuple(
            (i, j)
            for i in range(one.n_tiles)
            for j in range(i if two is None else 0, sides[-1].n_tiles)
        )
        return [Group(held, pairs)]
    # Beside the held tiles there is the passing one, and the one being computed.
    n_held = [max(1, budget // max(s.tile * example_bytes, 1) - 2) for s in sides]
    if two is None:
        return list(_triangle(one.n_tiles, n_held[0]))
    plans = [
        list(_rectangle(one.n_tiles, two.n_tiles, n_held[held], held))
        for held in range(2)
    ]
    return min(plans, key=lambda groups: evaluations(groups, sides))


def _triangle(n_tiles: int, n_held: int) -> Iterator[Group]:
    for first in range(0, n_tiles, n_held):
        rows = range(first, min(first + n_held, n_tiles))
        among = [(i, j) for i in rows for j in range(i, rows.stop)]
        # From the right: the last column is the row that the next group starts with.
        later = [(i, j) for j in reversed(range(rows.stop, n_tiles)) for i in rows]
        yield Group(frozenset((0, i) for i in rows), tuple(among + later))


def _rectangle(n_rows: int, n_columns: int, n_held: int, held: int) -> Iterator[Group]:
    counts = (n_rows, n_columns)
    passing = list(range(counts[1 - held]))
    for first in range(0, counts[held], n_held):
        stay = range(first, min(first + n_held, counts[held]))
        pairs = [(i, j) if held == 0 else (j, i) for j in passing for i in stay]
        yield Group(frozenset((held, i) for i in stay), tuple(pairs))
        passing.reverse()  # the next group starts with the tile that is still there


def evaluations(groups: list[Group], sides: list[Side]) -> int:
    """How many examples `features` is called with, copies included."""
    total = 0
    cache = Cache()

    def evaluate(side: Side) -> None:
        nonlocal total
        total += side.blocks_per_tile * side.block

    for group in groups:
        cache.enter(group)
        for i, j in group.pairs:
            cache.get((0, i), lambda: evaluate(sides[0]))
            cache.get((len(sides) - 1, j), lambda: evaluate(sides[-1]))
    return total


class Cache:
    """What was made for the tiles of a group, and for one more, the passing one."""

    def __init__(self) -> None:
        self._values: dict[tuple[int, int], Any] = {}
        self._held: frozenset[tuple[int, int]] = frozenset()
        self._passing: tuple[int, int] | None = None

    def enter(self, group: Group) -> None:
        """Let go of what the group does not hold, but for the passing tile."""
        if group.held is self._held:
            return
        self._held = group.held
        kept = self._held | {self._passing}
        self._values = {t: v for t, v in self._values.items() if t in kept}
        if self._passing in self._held:
            self._passing = None

    def get(self, tile: tuple[int, int], make: Callable[[], Any]) -> Any:
        """What `make` gave for this tile, made anew if it is no longer there."""
        if tile not in self._values:
            if tile not in self._held:
                if self._passing is not None:  # gone before the next is made
                    self._values.pop(self._passing, None)
                self._passing = tile
            self._values[tile] = make()
        return self._values[tile]


def _largest_tile(pair_bytes: int) -> int:
    return max(1, math.isqrt(PAIR_BYTES // max(pair_bytes, 1)))
