"""What was worked out for one structure, kept for the next call with the same.

A key says which functions, numbers, shapes and dtypes went in; JAX's own configuration
(precision, promotion, x64 and the like) needs no place in it, because what is kept lies
inside JAX's cache of traced functions, which knows when it applies. As with `jax.jit`,
functions in a key are taken to be pure.
"""

import dataclasses
import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.tree_util as jtu
from jaxtyping import PyTree

_Made = TypeVar("_Made")

# What is kept, at most: compiled programs, and the arrays that functions close over.
_MOST_KEPT = 64
_MOST_BYTES = 2**28


def remembered(
    key: Hashable, make: Callable[[], _Made], held_bytes: Callable[[_Made], int | None]
) -> _Made:
    """What `make` gave for this key, made anew if it is not kept.

    Args:
        key: whatever decides what is made. Nothing is kept where it cannot be hashed.
        make: called where nothing is kept.
        held_bytes: how many bytes of arrays it keeps alive; `None` keeps it out.
    """
    try:
        hash(key)
    except TypeError:
        return make()
    kept = jax.eval_shape(_context).kept
    found = kept.get(key)
    if found is None:
        found = make()  # outside of the lock: it runs the user's code
        n_bytes = held_bytes(found)
        if n_bytes is not None:
            kept.put(key, found, n_bytes)
    return found


class Signature(NamedTuple):
    """A PyTree such as a model, its arrays apart from all else.

    Attributes:
        key: equal for PyTrees of one structure, with arrays of the same shapes and
            dtypes and equal other leaves.
        leaves: its leaves.
        treedef: its structure.
    """

    key: Hashable
    leaves: list[Any]
    treedef: Any


def signature(tree: PyTree) -> Signature:
    """The signature of a PyTree."""
    leaves, treedef = jtu.tree_flatten(tree)
    # Its text, too: static fields of 1, 1.0 and True are equal, and 0.0 and -0.0.
    key = (treedef, str(treedef), tuple(map(_leaf, leaves)))
    return Signature(key, leaves, treedef)


def _leaf(leaf: Any) -> Hashable:
    if eqx.is_array(leaf):
        return leaf.shape, leaf.dtype, getattr(leaf, "weak_type", False)
    if isinstance(leaf, float | complex):
        return type(leaf), repr(leaf)
    return type(leaf), leaf


class _Kept:
    """The most recently used ones."""

    def __init__(self) -> None:
        self._made: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Any:
        with self._lock:
            if key not in self._made:
                return None
            self._made.move_to_end(key)
            return self._made[key][0]

    def put(self, key: Hashable, made: Any, n_bytes: int) -> None:
        with self._lock:
            self._made[key] = made, n_bytes
            while len(self._made) > _MOST_KEPT or (
                sum(n for _, n in self._made.values()) > _MOST_BYTES
            ):
                self._made.popitem(last=False)


@functools.partial(jtu.register_dataclass, data_fields=[], meta_fields=["kept"])
@dataclasses.dataclass(frozen=True)
class _Context:
    kept: _Kept


@jax.jit
def _context() -> _Context:
    # Traced once for each configuration of JAX, and again after `jax.clear_caches`.
    return _Context(_Kept())
