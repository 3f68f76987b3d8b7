"""Time the matrix products of a kernel by themselves, at the shapes that they have.

    python -m benchmarks.products --workload a64

No way to the kernel that makes these products by JAX takes less than their sum. The
floor of `benchmarks.kernels` is lower: it takes all of them to run like a product of
two square matrices.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from statistics import median

import jax
import jax.numpy as jnp

from .kernels.counts import PRODUCT_OPERATIONS, PRODUCT_SIZE
from .kernels.workloads import WORKLOADS, Workload, by_name
from .table import aligned

TURN = 0.2  # seconds of one product at a time
ROUNDS = 7


def products(workload: Workload) -> Iterator[tuple[str, tuple[int, ...], float, str]]:
    """Each product: what it is of, `(rows, inner, columns)`, its share, how it lies.

    Of a product of something with itself half is needed.
    """
    n, k = workload.n, workload.net.out_size
    for number, layer in enumerate(workload.net.layers, 1):
        i, o = layer.fan_in, layer.fan_out
        yield f"forward {number}", (n, i, o), 1.0, "nt"
        yield f"activations {number}", (n, i, n), 0.5, "nt"
        if layer.is_output:
            continue
        if not layer.reads_x:
            yield f"backward {number}", (n * k, o, i), 1.0, "nn"
        rows, inner = (n * k, o) if workload.full else (n, k * o)
        yield f"derivatives {number}", (rows, inner, rows), 0.5, "nt"


def _timed(shape: tuple[int, ...], how: str) -> Callable[[], float]:
    """CPU seconds of one product, asked for again and again."""
    rows, inner, columns = shape
    one = jnp.ones((rows, inner))
    two = jnp.ones((inner, columns) if how == "nn" else (columns, inner))
    contract = (1,), (0 if how == "nn" else 1,)
    product = jax.jit(
        lambda one, two: jax.lax.dot_general(one, two, (contract, ((), ())))
    )

    def once() -> float:
        jax.block_until_ready(product(one, two))
        cpu, start, calls = time.process_time(), time.perf_counter(), 0
        while not calls or time.perf_counter() - start < TURN:
            jax.block_until_ready(product(one, two))
            calls += 1
        return (time.process_time() - cpu) / calls

    return once


def main() -> None:
    """Print each product, their sum, and the same operations in square ones."""
    dense = [
        w.name for w in WORKLOADS if all(layer.positions == 1 for layer in w.net.layers)
    ]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.products")
    parser.add_argument("--workload", choices=dense, default="a64")
    workload = by_name(parser.parse_args().workload)
    listed = list(products(workload))
    square = _timed((PRODUCT_SIZE,) * 3, "nn")
    timers = [_timed(shape, how) for _, shape, _, how in listed]
    rounds = [[square(), *(timer() for timer in timers)] for _ in range(ROUNDS)]
    rate = PRODUCT_OPERATIONS / median(one[0] for one in rounds)
    lines = [["product", "shape", "GFLOP", "CPU ms", "GFLOP / CPU s"]]
    total = operations = 0.0
    for number, (name, (rows, inner, columns), share, _) in enumerate(listed, 1):
        seconds = share * median(one[number] for one in rounds)
        count = share * 2.0 * rows * inner * columns
        total, operations = total + seconds, operations + count
        lines.append(_line(name, f"{rows} x {inner} x {columns}", count, seconds))
    lines.append(_line("sum", "", operations, total))
    lines.append(_line("in square products", "", operations, operations / rate))
    print(f"{workload.name}: {workload.title}, N={workload.n}")
    print(aligned(lines))


def _line(name: str, shape: str, operations: float, seconds: float) -> list[str]:
    rate = operations / seconds / 1e9
    return [
        name,
        shape,
        f"{operations / 1e9:.3g}",
        f"{seconds * 1e3:.3g}",
        f"{rate:.0f}",
    ]


if __name__ == "__main__":
    main()
