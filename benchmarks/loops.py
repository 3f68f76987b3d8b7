"""What a loop takes to compile, in our environment and in the incumbent's.

    python -m benchmarks.loops

XLA writes a loop for whatever is no product: for adding a bias, for a copy in another
order, for a step of a scan. A kernel's first call compiles dozens of them. The last
line is the forward and backward pass of workload d by itself, which every way to its
kernel has: no gradient by a weight, no kernel.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

from .kernels import environment
from .kernels.rounds import ROOT
from .table import aligned

ROUNDS = 5

# Imports JAX only, of either version. Of `one` loop and of `many`, the CPU seconds of
# compiling; shapes differ, since equal loops are compiled once.
_CODE = """
import json, time
import jax, jax.numpy as jnp
KINDS = {
    "x + 1": lambda x: x + 1,
    "maximum(x, 0)": lambda x: jnp.maximum(x, 0),
    "pad(x)": lambda x: jnp.pad(x, 1),
    "concatenate(x, x)": lambda x: jnp.concatenate([x, x[:4]]),
    "x @ x.T": lambda x: x @ x.T,
}
def seconds(of, n, first):
    shapes = [jax.ShapeDtypeStruct((first + i, 1024), jnp.float32) for i in range(n)]
    lowered = jax.jit(lambda *xs: [of(x) for x in xs]).lower(*shapes)
    start = time.process_time()
    lowered.compile()
    return time.process_time() - start
def network(weights, x):
    for weight, stride in zip(weights, (1, 2, 2)):
        x = jax.lax.conv_general_dilated(x[None], weight, (stride, stride), "SAME")[0]
        x = jnp.maximum(x + 1, 0)
    return weights[-1] @ jnp.mean(x, axis=(1, 2))
def both_passes():
    sizes = (32, 1, 3, 3), (64, 32, 3, 3), (64, 64, 3, 3), (10, 64)
    shapes = [jax.ShapeDtypeStruct(size, jnp.float32) for size in sizes]
    x = jax.ShapeDtypeStruct((64, 1, 28, 28), jnp.float32)
    by_input = jax.vmap(jax.jacrev(network, 1), (None, 0))
    lowered = jax.jit(by_input).lower(shapes, x)
    start = time.process_time()
    lowered.compile()
    return time.process_time() - start
ONE, MANY = 1, 9
found, first = {}, 8
for name, of in KINDS.items():
    seconds(of, ONE, first)
    one = seconds(of, ONE, first + 1)
    many = seconds(of, MANY, first + 2)
    found[name] = (many - one) / (MANY - ONE)
    first += 16
found["d, both passes"] = both_passes()
print(json.dumps({"jax": jax.__version__, "seconds": found}))
"""


def measure(python: str) -> tuple[str, dict[str, float]]:
    """The version of JAX, and CPU seconds of one more loop of each kind."""
    # What is found on disk is not compiled.
    anew = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run(
        [python, "-c", _CODE], capture_output=True, text=True, check=True, env=anew
    )
    answer = json.loads(done.stdout)
    return answer["jax"], answer["seconds"]


def main() -> None:
    """Alternate, then print medians."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.loops",
        description="CPU time of compiling one more loop, ours and the incumbent's.",
    )
    parser.add_argument(
        "--venv", type=Path, default=ROOT / "benchmarks" / ".venvs" / "incumbent",
        help="the incumbent's environment, built if missing (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--python", help="a Python 3.11 to build it with")
    options = parser.parse_args()
    theirs = str(environment.ensure(options.venv.absolute(), options.python))
    rounds = [[measure(python) for python in (sys.executable, theirs)]
              for _ in range(ROUNDS)]  # fmt: skip
    lines = [["CPU ms", *(f"jax {version}" for version, _ in rounds[0])]]
    for kind in rounds[0][0][1]:
        columns = zip(*([s[kind] for _, s in both] for both in rounds), strict=True)
        lines.append([kind, *(f"{1e3 * median(column):.1f}" for column in columns)])
    print(aligned(lines))


if __name__ == "__main__":
    main()
