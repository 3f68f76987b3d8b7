"""What random projections of gradients cost and give, beside the exact kernel.

    python -m benchmarks.sketches                        # under a minute on two cores
    python -m benchmarks.sketches --proj-dims 100,1000,4000 --networks cnn

Kernels of a batch with itself, in float32. Prints a table; docs/monte_carlo.md says how
to read one. Random directions are measured at the smallest `proj_dim` alone: their
time is proportional to it, and their error follows its law.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np

import equintk as nt

from .kernels.models import CNN, Block
from .table import aligned


class Transformer(eqx.Module):
    """Scores of 10 classes from 16 tokens."""

    embedding: eqx.nn.Embedding
    blocks: list
    readout: eqx.nn.Linear

    def __init__(self, key, dim: int = 64, tokens: int = 1000):
        k1, k2, k3, k4 = jr.split(key, 4)
        self.embedding = eqx.nn.Embedding(tokens, dim, key=k1)
        self.blocks = [Block(dim, k) for k in (k2, k3)]
        self.readout = eqx.nn.Linear(dim, 10, key=k4)

    def __call__(self, tokens):
        """The scores of one text."""
        h = jax.vmap(self.embedding)(tokens)
        for block in self.blocks:
            h = block(h)
        return self.readout(jnp.mean(h, axis=0))


class Network(NamedTuple):
    """A network and as many examples as its kernel takes a moment for."""

    model: Callable[[Any], Any]
    x: jax.Array


NETWORKS: dict[str, Callable[[int], Network]] = {
    "mlp": lambda n: Network(
        eqx.nn.MLP(784, 1, 512, 3, jax.nn.relu, dtype=jnp.float32, key=jr.key(0)),
        jr.normal(jr.key(1), (8 * n, 784), jnp.float32),
    ),
    "cnn": lambda n: Network(
        _float32(CNN(jr.key(0))), jr.normal(jr.key(1), (n, 1, 28, 28), jnp.float32)
    ),
    "transformer": lambda n: Network(
        _float32(Transformer(jr.key(0))), jr.randint(jr.key(1), (n, 16), 0, 1000)
    ),
}
HEADING = ["", "proj_dim", "CPU s", "/ exact", "error", "/ law", "bytes / example"]


class Row(NamedTuple):
    """A method, its median CPU-seconds, relative error, law, and bytes per example.

    The bytes are of features; for the exact kernel of all outputs' gradients.
    """

    name: str
    proj_dim: int | None
    seconds: float
    error: float
    law: float
    size: int


def rows(network: Network, proj_dims: list[int], repeats: int) -> list[Row]:
    """The exact kernel first, then every method."""
    model, x = network
    exact, seconds = _measured(lambda _: nt.ntk(model, x), repeats)
    full = _flat(np.asarray(nt.ntk_full(model, x), np.float64))
    outputs = full.shape[-1]
    found = [Row("exact", None, seconds, 0.0, 0.0, 4 * outputs * _n_params(model))]
    for proj_dim in sorted(proj_dims):
        for method in ("gaussian", "rademacher", "sketch"):
            if method != "sketch" and proj_dim > min(proj_dims):
                continue
            kernels, seconds = _measured(
                lambda i, p=proj_dim, m=method: nt.mc_ntk(
                    model, jr.key(i), x, None, p, m
                ),
                repeats,
            )
            errors = [
                np.linalg.norm(k - exact[0]) / np.linalg.norm(exact[0]) for k in kernels
            ]
            error = float(np.sqrt(np.mean(np.square(errors))))
            held = 4 * outputs * proj_dim
            found.append(
                Row(method, proj_dim, seconds, error, law(full, proj_dim), held)
            )
    return found


def law(full: np.ndarray, proj_dim: int) -> float:
    """The expected relative Frobenius error of Gaussian directions.

    Args:
        full: the exact kernel `(n, n, k, k)`.
        proj_dim: the number of directions.
    """
    n, k = len(full), full.shape[-1]
    own = full[np.arange(n), np.arange(n)].reshape(n, -1)
    squares = np.sum(own @ own.T)
    crossed = np.einsum("ijkl,ijlk->", full, full)
    average = np.einsum("ijkk->ij", full) / k
    return float(np.sqrt((squares + crossed) / (k**2 * proj_dim * np.sum(average**2))))


def table(name: str, network: Network, found: list[Row]) -> str:
    """The rows of a network, in columns."""
    n_params = _n_params(network.model)
    lines = [[f"{name}, {n_params:,} parameters, N={len(network.x)}", *HEADING[1:]]]
    for row in found:
        is_exact = row.proj_dim is None
        lines.append(
            [
                row.name,
                "" if is_exact else str(row.proj_dim),
                f"{row.seconds:.3f}",
                f"{row.seconds / found[0].seconds:.2f}x",
                f"{row.error:.3f}",
                "" if is_exact else f"{row.error / row.law:.2f}",
                f"{row.size:,}",
            ]
        )
    return aligned(lines)


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sketches",
        description="Time random projections of gradients beside the exact kernel.",
    )
    parser.add_argument("--networks", default=",".join(NETWORKS), help="mlp,cnn,...")
    parser.add_argument("--proj-dims", default="100,1000", help="100,1000")
    parser.add_argument("--repeats", type=int, default=5, help="keys (5)")
    parser.add_argument("--examples", type=int, default=16, help="an MLP has 8 times")
    given = parser.parse_args()
    for name in given.networks.split(","):
        network = NETWORKS[name](given.examples)
        found = rows(
            network, [int(p) for p in given.proj_dims.split(",")], given.repeats
        )
        print(table(name, network, found), end="\n\n", flush=True)


def _measured(call: Callable[[int], Any], repeats: int) -> tuple[list[Any], float]:
    """Results for several keys, and the median CPU-seconds of a call once compiled."""
    jax.block_until_ready(call(0))
    results, seconds = [], []
    for i in range(1, repeats + 1):
        start = time.process_time()
        results.append(np.asarray(call(i), np.float64))
        seconds.append(time.process_time() - start)
    return results, float(np.median(seconds))


def _n_params(model: Any) -> int:
    return sum(a.size for a in jtu.tree_leaves(eqx.filter(model, eqx.is_inexact_array)))


def _flat(full: np.ndarray) -> np.ndarray:
    """Output axes as one: `(n, n, k, k)`."""
    k = round((full.size / full.shape[0] ** 2) ** 0.5)
    return full.reshape(*full.shape[:2], k, k)


def _float32(model: Any) -> Any:
    return jtu.tree_map(
        lambda a: a.astype(jnp.float32) if eqx.is_inexact_array(a) else a, model
    )


if __name__ == "__main__":
    main()
