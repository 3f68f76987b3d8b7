"""How long `import equintk` takes, beside importing what it stands on.

    python -m benchmarks.imports --repeats 11

Fresh processes in turn; the clock starts after the interpreter has.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

from .table import aligned

STATEMENTS = ("import jax, equinox", "import equintk")
_CODE = """
import time
cpu, wall = time.process_time(), time.perf_counter()
{statement}
print(time.process_time() - cpu, time.perf_counter() - wall)
"""


def seconds(statement: str) -> tuple[float, float]:
    """CPU and wall seconds of a statement in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", _CODE.format(statement=statement)],
        cwd=Path(__file__).parent.parent, env=_environment(),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    cpu, wall = done.stdout.split()
    return float(cpu), float(wall)


def _environment() -> dict[str, str]:
    """As after installing: bytecode is kept, whatever the caller's shell says."""
    return {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}


def summary(base: list[tuple[float, float]], ours: list[tuple[float, float]]) -> str:
    """Medians of both, and the median over rounds of their ratio."""
    lines = [["", "CPU s", "wall s"]]
    for statement, times in zip(STATEMENTS, (base, ours), strict=True):
        columns = zip(*times, strict=True)
        lines.append([statement, *(f"{median(column):.3f}" for column in columns)])
    ratios = [
        [b / a for a, b in zip(one, two, strict=True)]
        for one, two in zip(base, ours, strict=True)
    ]
    columns = zip(*ratios, strict=True)
    lines.append(["ratio", *(f"{median(column):.2f}x" for column in columns)])
    return aligned(lines)


def main():
    """Alternate, then print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.imports",
        description="Time `import equintk` beside importing jax and equinox.",
    )
    parser.add_argument("--repeats", type=int, default=11, help="rounds (11)")
    repeats = max(parser.parse_args().repeats, 1)
    for statement in STATEMENTS:  # compiled bytecode and a warm disk cache for both
        seconds(statement)
    times = {statement: [] for statement in STATEMENTS}
    for i in range(repeats):  # neither is always the first
        for statement in STATEMENTS[:: 1 if i % 2 else -1]:
            times[statement].append(seconds(statement))
    print(summary(*times.values()))


if __name__ == "__main__":
    main()
