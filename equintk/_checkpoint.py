"""Finished tiles of a kernel on disk. The only file of the library that writes any.

A directory holds one kernel: `kernel.json` says which, in digests of everything that
decides its numbers, and each tile is a file that starts with a digest of that and of
its own bytes. Files appear under their names when they are whole.
"""

import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.extend.core import Literal
from jaxtyping import PyTree

from ._version import __version__

_MANIFEST = "kernel.json"
_FORMAT = "1"
_DIGEST_BYTES = hashlib.sha256().digest_size


class Checkpoint:
    """Where a kernel's tiles are kept, and what decides its numbers.

    Args:
        directory: made if it is not there.
        facts: by the name that an error would give them: text, numbers, or PyTrees of
            arrays such as the parameters. What the kernel computes, its inputs, sizes
            and the versions of the software are added by those who know them.
    """

    def __init__(self, directory: Any, facts: Mapping[str, Any]):
        try:
            self._directory = Path(directory)
        except TypeError as error:
            raise ValueError(
                "`checkpoint` must be the path of a directory, but it is "
                f'{type(directory).__name__}. Type `checkpoint="my_kernel"`.'
            ) from error
        self._facts = dict(facts)

    def open(self, facts: Mapping[str, Any]) -> "StoredTiles":
        """The tiles that are there, of exactly this kernel.

        Raises:
            ValueError: if the directory holds another kernel's tiles, saying in what
                they differ, or if it is no directory.
        """
        software = {
            "the format of the files": _FORMAT,
            "the version of equintk": __version__,
            "the version of jax": jax.__version__,
            "the kind of device": jax.default_backend(),
        }
        digests = {
            name: fact if isinstance(fact, str) else fingerprint(fact)
            for name, fact in {**self._facts, **facts, **software}.items()
        }
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise ValueError(
                f"`checkpoint` must be a directory, but `{self._directory}` is a file "
                "or lies below one. Give the path of a new directory."
            ) from error
        path = self._directory / _MANIFEST
        text = json.dumps(digests, indent=2, sort_keys=True)
        _write_whole(path, text.encode(), replace=False)
        self._compare(path.read_bytes(), digests)
        key = hashlib.sha256(text.encode()).digest()
        return StoredTiles(self._directory, key)

    def _compare(self, manifest: bytes, digests: dict[str, str]) -> None:
        try:
            found = dict(json.loads(manifest))
        except ValueError as error:
            raise ValueError(
                f"`{self._directory / _MANIFEST}` cannot be read, so it is not known "
                "which kernel's tiles lie there. Give another `checkpoint=` directory, "
                "or delete this one to start anew."
            ) from error
        names = [*digests, *(name for name in found if name not in digests)]
        different = [name for name in names if found.get(name) != digests.get(name)]
        if different:
            raise ValueError(
                f"`checkpoint` directory `{self._directory}` holds tiles of another "
                f"kernel. What differs: {', '.join(different)}. Give each kernel a "
                f'directory of its own, such as `checkpoint="{self._directory}_2"`, '
                "or delete this one to start anew."
            )


class StoredTiles:
    """The tiles of one kernel in one directory; several processes may share it."""

    def __init__(self, directory: Path, key: bytes):
        self._directory, self._key = directory, key

    def load(self, i: int, j: int, like: PyTree) -> PyTree | None:
        """A finished tile; `None` if there is none, or its file is damaged.

        Args:
            i: its row.
            j: its column.
            like: shapes and dtypes of its arrays.
        """
        try:
            data = self._path(i, j).read_bytes()
        except FileNotFoundError:
            return None
        content = data[_DIGEST_BYTES:]
        if data[:_DIGEST_BYTES] != self._digest(i, j, content):
            return None
        leaves, treedef = jtu.tree_flatten(like)
        arrays, start = [], 0
        for leaf in leaves:
            array = np.frombuffer(content, leaf.dtype, leaf.size, start)
            arrays.append(array.reshape(leaf.shape))
            start += array.nbytes
        return jtu.tree_unflatten(treedef, arrays)

    def save(self, i: int, j: int, tile: PyTree) -> None:
        """Keep a finished tile."""
        content = b"".join(np.asarray(a).tobytes() for a in jtu.tree_leaves(tile))
        _write_whole(self._path(i, j), self._digest(i, j, content) + content)

    def _path(self, i: int, j: int) -> Path:
        return self._directory / f"tile_{i:05d}_{j:05d}.bin"

    def _digest(self, i: int, j: int, content: bytes) -> bytes:
        head = self._key + f"{i},{j},{len(content)};".encode()
        return hashlib.sha256(head + content).digest()


def fingerprint(tree: PyTree) -> str:
    """A digest of a PyTree: equal for equal arrays and values, in any process."""
    digest = hashlib.sha256()
    for path, leaf in jtu.tree_leaves_with_path(tree):
        digest.update(jtu.keystr(path).encode())
        _update(digest, leaf)
    return digest.hexdigest()


def program(*functions: Any) -> dict[str, str]:
    """What the jaxprs of functions compute, and the arrays that they close over."""
    text, constants = hashlib.sha256(), hashlib.sha256()
    for jaxpr in functions:
        text.update(_without_addresses(str(jaxpr)).encode())
        for constant in _constants(jaxpr):
            _update(constants, constant)
    return {
        "what the model and the kernel compute": text.hexdigest(),
        "the arrays that they hold": constants.hexdigest(),
    }


def _constants(part: Any) -> Iterator[Any]:
    """Arrays that the text of a jaxpr does not show, or not whole."""
    if hasattr(part, "eqns"):  # a jaxpr, open or closed: in one version of JAX, alike
        yield from getattr(part, "consts", ())
        for equation in part.eqns:
            yield from (v.val for v in equation.invars if isinstance(v, Literal))
            yield from _constants(list(equation.params.values()))
    elif isinstance(part, list | tuple):
        for item in part:
            yield from _constants(item)
    elif isinstance(part, np.ndarray | jax.Array):
        yield part


def _update(digest: Any, leaf: Any) -> None:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        digest.update(str(jax.random.key_impl(leaf)).encode())
        leaf = jax.random.key_data(leaf)
    if isinstance(leaf, jax.Array | np.ndarray | np.generic):
        array = np.asarray(leaf)
        digest.update(f"{array.dtype} {array.shape};".encode())
        digest.update(array.tobytes())
    else:
        digest.update(_without_addresses(f"{type(leaf)} {leaf!r};").encode())


def _without_addresses(text: str) -> str:
    """Where a function lies in memory is another place in another process."""
    return re.sub(r"0x[0-9a-fA-F]+", "", text)


def _write_whole(path: Path, data: bytes, replace: bool = True) -> None:
    """Write a file that is whole when its name appears; or leave the one there is."""
    if not replace and path.exists():
        return
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(temporary, path)
            return
        try:
            os.link(temporary, path)  # fails where another process was first
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
