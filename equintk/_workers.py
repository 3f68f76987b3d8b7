"""Who computes which tile: one device, the devices of a mesh, several processes."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.tree_util as jtu
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import PyTree

# What one exchange between processes may hold of each of them.
_BYTES_EXCHANGED = 2**26
_TILES_EXCHANGED = 4


class Workers:
    """The devices that compute tiles, in turns; `None` is wherever JAX computes."""

    def __init__(self, mesh: Any):
        if not (mesh is None or isinstance(mesh, Mesh)):
            raise ValueError(
                "`mesh` must be a `jax.sharding.Mesh`, but it is "
                f"{type(mesh).__name__}. Type `jax.sharding.Mesh(jax.devices(), "
                "'tiles')` for all devices."
            )
        self.all: list[Any] = [None] if mesh is None else list(mesh.devices.flat)
        me = jax.process_index()
        self._processes = sorted({_process(device) for device in self.all})
        self.mine = [device for device in self.all if _process(device) == me]
        self.many = len(self._processes) > 1
        if not self.mine or self.many and len(self._processes) < jax.process_count():
            raise ValueError(
                f"`mesh` must hold devices of this process ({me}) alone or of all "
                f"{jax.process_count()} processes, but it holds devices of the "
                f"processes {self._processes}. Type "
                "`jax.sharding.Mesh(jax.devices(), 'tiles')` for all devices or "
                "`jax.sharding.Mesh(jax.local_devices(), 'tiles')` for one process's."
            )

    def device(self, turn: int) -> Any:
        """The device whose turn it is."""
        return self.all[turn % len(self.all)]

    def exchanged(
        self, n_turns: int, own: Callable[[list[int]], list[PyTree]], like: PyTree
    ) -> Iterator[PyTree]:
        """Every tile in turn, of which each process computes its `own`.

        All processes must call this together. `like` has a tile's shapes and dtypes.
        """
        me = jax.process_index()
        tile_bytes = sum(a.size * a.dtype.itemsize for a in jtu.tree_leaves(like))
        rounds = min(_TILES_EXCHANGED, _BYTES_EXCHANGED // max(tile_bytes, 1))
        size = max(1, rounds) * len(self.all)
        for first in range(0, n_turns, size):
            turns = range(first, min(first + size, n_turns))
            owners = [_process(self.device(turn)) for turn in turns]
            mine = [t for t, owner in zip(turns, owners, strict=True) if owner == me]
            tiles = own(mine)
            n_slots = max(owners.count(process) for process in self._processes)
            # Everyone gives equally many; a process that has fewer fills up.
            everyone = multihost_utils.process_allgather(
                jtu.tree_map(
                    lambda a, *parts, n=n_slots: _stack(parts, n, a), like, *tiles
                )
            )
            seen = dict.fromkeys(self._processes, 0)
            for owner in owners:
                at = (owner, seen[owner])
                seen[owner] += 1
                yield jtu.tree_map(lambda a, at=at: np.asarray(a)[at], everyone)


def _stack(parts: tuple[Any, ...], n: int, like: Any) -> np.ndarray:
    stack = np.zeros((n, *like.shape), like.dtype)
    for i, part in enumerate(parts):
        stack[i] = np.asarray(part)
    return stack


def working_on(device: Any) -> AbstractContextManager[Any]:
    """Where what is not committed to a device is computed meanwhile."""
    return nullcontext() if device is None else jax.default_device(device)


def put(tree: PyTree, device: Any) -> PyTree:
    """The arrays on a device; where they are, for `None`."""
    return tree if device is None else jax.device_put(tree, device)


def _process(device: Any) -> int:
    return jax.process_index() if device is None else device.process_index
