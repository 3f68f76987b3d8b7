"""Every network that the incumbent has, with its inputs and options, by name."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.random as jr
import numpy as np

import equintk as nt

from .architectures import images, tokens, vectors


class Case(NamedTuple):
    """A network, the kind of its examples, and arguments of the kernel."""

    kind: str
    make: Callable[[], Any]
    options: dict[str, Any]


OPTIONS = {"parameterization": "ntk", "W_std": 1.3, "b_std": 0.2}
STANDARD = OPTIONS | {"parameterization": "standard"}
MORE = {
    "relu standard scaled": STANDARD
    | {"learning_rate": {".layers[1].weight": 1 / 2, ".layers[2].weight": 1 / 4}},
    "conv local": OPTIONS
    | {
        "roles": {
            ".layers[0][0]": 2 * 9,
            ".layers[0][1]": "bias",
            ".layers[1][0]": 8 * 4,
            ".layers[1][1]": "bias",
        }
    },
    "attention positions summed": OPTIONS | {"roles": {".layers[6]": 1}},
    "attention positions concatenated": OPTIONS | {"roles": {".layers[6]": 1}},
    "attention identity positions": OPTIONS | {"roles": {".layers[6]": 1}},
}
_GROUPS = (
    ("vector", vectors.VECTORS, OPTIONS),
    ("vector", vectors.STANDARD, STANDARD),
    ("image", images.IMAGES, OPTIONS),
    ("image", images.STANDARD, STANDARD),
    ("token", tokens.TOKENS, OPTIONS),
    ("node", tokens.NODES, OPTIONS),
    ("masked", tokens.MASKED, OPTIONS),
)
CASES = {
    name: Case(kind, make, MORE.get(name, options))
    for kind, networks, options in _GROUPS
    for name, make in networks.items()
}
# Those that the incumbent has in its standard parameterization, too.
STANDARD_CASES = {
    name: case._replace(options=case.options | {"parameterization": "standard"})
    for name, case in CASES.items()
    if case.options["parameterization"] == "ntk" and "attention" not in name
}


def inputs(name: str, golden: dict[str, Any]) -> tuple[Any, Any]:
    """Both sides' examples, of which the second begins with the first."""
    kind = CASES[name].kind
    x1, x2 = golden[f"{kind}/x1"], golden[f"{kind}/x2"]
    if kind == "image":
        x1, x2 = (np.moveaxis(x, -1, 1) for x in (x1, x2))
    both = np.concatenate([x1, x2])
    if name == "tuple inputs":
        return (x1, x1[:, :3]), (both, both[:, :3])
    if name == "dropout":
        keys = jr.split(jr.key(0), len(both))
        return (x1, keys[: len(x1)]), (both, keys)
    if kind == "node":
        graph = "edges" if name == "aggregate sparse" else "graph"
        first, second = golden[f"{graph}/x1"], golden[f"{graph}/x2"]
        return (x1, first), (both, np.concatenate([first, second]))
    return x1, both


def kernels_of(
    case: Case, name: str, golden: dict[str, Any]
) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """Ours and the incumbent's: between the first inputs, and with others."""
    kernels = nt.infinite_kernels(case.make(), *inputs(name, golden), **case.options)
    for which in ("nngp", "ntk"):
        several = jax.tree.leaves(getattr(kernels, which))
        for i, kernel in enumerate(several):
            part = f"{name}/{i}" if len(several) > 1 else name
            for suffix, columns in (("same", slice(0, 4)), ("cross", slice(4, None))):
                got = np.asarray(kernel)[:, columns]
                if got.ndim == 6:  # the incumbent's axes are interleaved
                    got = got.transpose(0, 1, 2, 4, 3, 5)
                yield suffix, which, got, golden[f"{part}/{suffix}/{which}"]
