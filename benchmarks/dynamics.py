"""Predictions of large kernels: their time and memory, their error and its bound.

    python -m benchmarks.dynamics                        # all parts; some ten minutes
    python -m benchmarks.dynamics --parts dense --n 4000
    python -m benchmarks.dynamics --parts free --n 10000
    python -m benchmarks.dynamics --parts solve          # where memory ends

Each part has a process of its own, so that its peak memory is its own.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import equintk as nt

from .table import aligned

# Arrays are float32 where nothing else is said; references need float64.
jax.config.update("jax_enable_x64", True)

EXAMPLES = {"dense": 20_000, "solve": 20_000, "free": 100_000}
SUBSET = 4_000
CLUSTERS, SPREAD = 100, 3


def main() -> int:
    """Run the parts asked for; the exit code is 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dynamics")
    parser.add_argument("--parts", default="dense,solve,free", help="some of them")
    parser.add_argument("--n", type=int, help="examples, instead of the full number")
    chosen = parser.parse_args()
    parts = chosen.parts.split(",")
    if unknown := set(parts) - set(EXAMPLES):
        parser.error(f"there is no part {unknown.pop()!r}: type dense, solve, free")
    if len(parts) == 1:
        n = chosen.n or EXAMPLES[parts[0]]
        return {"dense": dense, "solve": solve, "free": free}[parts[0]](n)
    size = ["--n", str(chosen.n)] if chosen.n else []
    command = [sys.executable, "-m", "benchmarks.dynamics", *size, "--parts"]
    return max([subprocess.call([*command, part]) for part in parts])


def dense(n: int) -> int:
    """A kernel in memory, ten outputs, a ridge; train and test, eleven times."""
    x, x_test, y, y_test = _mixture(n)
    model = eqx.nn.MLP(784, 1, 1024, 3, dtype=jnp.float32, key=jr.key(0))
    model = _parameterized(model, 784)
    ntk = lambda *x: nt.ntk(model, *x, batch_size=256, out="host", progress=True)
    kernel, test_kernel = ntk(x), ntk(x_test, x)
    before = _peak()
    largest = _largest(kernel)
    scaled = np.append(np.geomspace(1, 1e6, 10), np.inf)

    def fit(m: int) -> nt.predict.KrylovFlow:
        return nt.predict.KrylovFlow(
            kernel[:m, :m], y[:m], 0 * y[:m], ridge=1e-4 * largest, progress=True
        )

    def ask(flow: nt.predict.KrylovFlow, t: Any) -> Any:
        m = len(flow.problem.start.f_train)
        return flow.train(t), flow.test(t, test_kernel[:, :m], 0 * y_test)

    clock = _Clock()
    flow = clock("fit", lambda: fit(n))
    found = clock("ask at 11 times", lambda: ask(flow, scaled / largest))
    one = clock("ask at one time", lambda: ask(flow, np.inf))
    clock("ask at 50 times", lambda: ask(flow, np.geomspace(1, 1e6, 50) / largest))
    del one
    print(f"\nDense: {n} examples, {len(x_test)} to predict, 10 outputs, float32.")
    values = flow.problem.space.values / largest
    beyond = np.trace(kernel, dtype=np.float64) / largest - values.sum()
    print(
        f"effective rank {float(_effective_rank(kernel)):.0f}, degrees of freedom at "
        f"the ridge {np.sum(values / (values + 1e-4)):.0f} to "
        f"{np.sum(values / (values + 1e-4)) + beyond / 1e-4:.0f}; "
        f"{len(values)} vectors"
    )
    print(clock.table())
    print(
        f"(fit + 50 times) / (fit + one time): "
        f"{clock.ratio('ask at 50 times', 'ask at one time'):.3f}\n"
        f"memory: {before:.2f} GB at most before, {_peak():.2f} GB in the end"
    )
    m = min(n, SUBSET)
    flow = fit(m)
    exact = nt.predict.GradientFlow(kernel[:m, :m], y[:m], ridge=1e-4 * largest)
    times = scaled / largest
    right = (
        exact.train(times, 0 * y[:m]),
        exact.test(times, test_kernel[:, :m], 0 * y[:m], 0 * y_test),
    )
    print(f"\nAgainst the eigendecomposition of {m} examples:")
    del found
    return _compare(scaled, ask(flow, times), right, at_most=1e-5)


def solve(n: int) -> int:
    """The end of training with a small ridge, in less memory than a space needs."""
    x, y, model = _square(n)
    kernel = nt.ntk(model, x, batch_size=256, out="host", progress=True)
    largest = _largest(kernel)

    def fit(m: int) -> nt.predict.KrylovFlow:
        part = y[:m].astype(np.float64)
        return nt.predict.KrylovFlow(
            kernel[:m, :m], part, 0 * part, ridge=1e-5 * largest, tolerance=1e-7,
            max_bytes=2000.0 * m, progress=True,
        )  # fmt: skip

    clock = _Clock()
    flow = clock("fit", lambda: fit(n))
    found = clock("ask for the end", lambda: flow.train(np.inf))
    print(f"\nSolves: {n} examples, ridge 1e-5 of the largest eigenvalue.")
    print(f"{len(flow.problem.space.values)} vectors, peak {_peak():.2f} GB")
    print(clock.table())
    print(f"relative error below {float(found.error) / flow.problem.scale:.1e}")
    m = min(n, SUBSET)
    flow = fit(m)
    exact = nt.predict.GradientFlow(
        kernel[:m, :m], y[:m].astype(np.float64), ridge=1e-5 * largest
    )
    end = np.array([np.inf])
    print(f"\nAgainst the eigendecomposition of {m} examples:")
    solved = flow.problem.end is not None
    right = exact.train(end, 0 * y[:m])
    failed = _compare(end, (flow.train(end),), (right,), at_most=np.inf)
    print("solved for" if solved else "FAILED: the space was large enough")
    return failed | int(not solved)


def free(n: int) -> int:
    """Products of a network alone, three times; the error is that of a subset."""
    x, y, model = _square(n)
    scaled = np.array([10.0, 100.0, 1000.0])

    def operator(m: int) -> nt.NTKOperator:
        return nt.NTKOperator(model, x[:m], batch_size=256)

    def run(m: int) -> tuple[float, Any]:
        f0 = jax.vmap(model)(x[:m])
        largest = float(nt.top_eigenvalues(operator(m), 1, jr.key(2), 2).value[0])
        flow = nt.predict.KrylovFlow(
            operator(m), y[:m], f0, latest=scaled[-1] / largest, progress=True
        )
        return largest, (flow, flow.train(scaled / largest))

    clock = _Clock()
    _, (flow, found) = clock("three times", lambda: run(n))
    scale = flow.problem.scale
    print(f"\nMatrix-free: {n} examples, MLP 2-256-256-1, float32.")
    print(f"{len(flow.problem.space.values)} vectors, peak {_peak():.2f} GB")
    print(clock.table())
    for time_, error in zip(scaled, found.error, strict=True):
        print(f"t * largest {time_:6.0f}: relative error below {error / scale:.1e}")
    m = min(n, SUBSET)
    largest, (flow, found) = run(m)
    wide = jax.tree.map(
        lambda a: a.astype(jnp.float64) if eqx.is_inexact_array(a) else a, model
    )
    points = x[:m].astype(np.float64)
    exact = nt.predict.GradientFlow(nt.ntk_full(wide, points, batch_size=256), y[:m])
    right = exact.train(scaled / largest, jax.vmap(wide)(points))
    print(f"\nAgainst the eigendecomposition of {m} examples in float64:")
    return _compare(scaled, (found,), (right,), at_most=np.inf)


def _square(n: int) -> tuple[np.ndarray, np.ndarray, Any]:
    """Points in the square, a wave on them, and an MLP 2-256-256-1."""
    x = np.random.default_rng(0).uniform(-1, 1, (n, 2)).astype(np.float32)
    y = (np.sin(4 * x[:, :1]) * np.cos(3 * x[:, 1:])).astype(np.float32)
    model = eqx.nn.MLP(2, 1, 256, 2, dtype=jnp.float32, key=jr.key(0))
    return x, y, _parameterized(model, 2)


def _compare(scaled: Any, found: Any, right: Any, at_most: float) -> int:
    """The errors of answers beside what they return; 1 if one is above its bound."""
    lines: list[Any] = [("t * largest", "inputs", "error", "largest entry", "returned")]
    failed = 0
    for inputs, answer, reference in zip(("train", "test"), found, right, strict=False):
        for i, time_ in enumerate(scaled):
            off = np.asarray(answer.value[i], np.float64) - np.asarray(reference[i])
            rms, returned = np.sqrt(np.mean(off**2)), float(answer.error[i])
            # Values are float32, of a size of about one: so is their rounding.
            failed |= int(rms > returned + 1e-7 or np.abs(off).max() > at_most)
            entries = rms, np.abs(off).max(), returned
            lines.append((f"{time_:.3g}", inputs, *(f"{e:.1e}" for e in entries)))
    print(aligned(lines))
    print("FAILED" if failed else "all within what they return")
    return failed


def _mixture(n: int) -> tuple[np.ndarray, ...]:
    """Clusters on low-dimensional planes in 784 dimensions, and ten smooth targets."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CLUSTERS, 784))
    planes = 0.05 * rng.standard_normal((CLUSTERS, SPREAD, 784))
    directions = rng.standard_normal((784, 10)) / 28

    def draw(m: int) -> tuple[np.ndarray, np.ndarray]:
        which = rng.integers(CLUSTERS, size=m)
        inside = rng.standard_normal((m, SPREAD))
        x = centres[which] + np.einsum("mr,mrd->md", inside, planes[which])
        return x.astype(np.float32), np.sin(2 * x @ directions).astype(np.float32)

    (x, y), (x_test, y_test) = draw(n), draw(n // 10)
    return x, x_test, y, y_test


def _parameterized(model: Any, in_size: int) -> Any:
    example = jnp.zeros(in_size, jnp.float32)
    return nt.parameterize(model, example, jr.key(1), "ntk", W_std=1.4, b_std=0.1)


def _largest(kernel: np.ndarray) -> float:
    """The largest eigenvalue, by power iteration."""
    vector = np.ones(len(kernel), np.float32)
    for _ in range(30):
        vector = kernel @ (vector / np.linalg.norm(vector))
    return float(np.linalg.norm(vector))


def _effective_rank(kernel: np.ndarray) -> float:
    """As `nt.metrics.effective_rank`, row by row."""
    squares = sum(float(np.dot(row, row)) for row in kernel)
    return np.trace(kernel, dtype=np.float64) ** 2 / squares


def _peak() -> float:
    """GB of memory that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class _Clock:
    """Wall and CPU seconds of calls."""

    def __init__(self):
        self.seen: dict[str, tuple[float, float]] = {}

    def __call__(self, name: str, call: Callable[[], Any]) -> Any:
        """What the call gives, after what it computes is there."""
        wall, before = time.monotonic(), os.times()
        result = jax.block_until_ready(call())
        after = os.times()
        cpu = after.user + after.system - before.user - before.system
        self.seen[name] = time.monotonic() - wall, cpu
        return result

    def ratio(self, many: str, one: str) -> float:
        """Of CPU seconds, the fit included."""
        fit = self.seen["fit"][1]
        return (fit + self.seen[many][1]) / (fit + self.seen[one][1])

    def table(self) -> str:
        """Everything seen."""
        lines: list[Any] = [("", "wall s", "CPU s")]
        for name, seconds in self.seen.items():
            lines.append((name, *(f"{s:.1f}" for s in seconds)))
        return aligned(lines)


if __name__ == "__main__":
    sys.exit(main())
