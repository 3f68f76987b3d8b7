"""Time kernels at infinite width, ours and the incumbent's.

python -m benchmarks.infinite
"""

import argparse
import os
import sys
from pathlib import Path
from statistics import median

from benchmarks.kernels import environment
from benchmarks.kernels.report import AGREE, number
from benchmarks.kernels.rounds import ROOT, Measured, Worker, measure
from benchmarks.kernels.workloads import OURS, Workload, by_name
from benchmarks.table import aligned

from .workloads import ASKED, PEER, WORKLOADS


def main(arguments: list[str]) -> int:
    """Measure and print; 1 if a side failed or the two do not agree."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.infinite",
        description="Time kernels at infinite width: equintk beside neural-tangents.",
    )
    add = parser.add_argument
    add("--repeats", type=int, default=7, help="warm calls of each side (7)")
    add("--limit", type=float, default=600, help="seconds for one call (600)")
    add("--venv", type=Path, default=ROOT / "benchmarks" / ".venvs" / "incumbent",
        help="the incumbent's environment, built if missing (%(default)s)")  # fmt: skip
    add("--python", help="a Python 3.11 to build it with; looked for by default")
    options = parser.parse_args(arguments)
    incumbent = str(environment.ensure(options.venv.absolute(), options.python))
    pythons = {OURS: sys.executable, PEER: incumbent}
    rate = Worker(sys.executable, by_name("a64"), "rate", options.limit)
    rate.ask(do="time")  # compiles
    failed = False
    try:
        for workload in WORKLOADS:
            measured, _ = measure(
                workload, pythons, rate, options.repeats, options.limit
            )
            print("\n" + text(workload, measured), flush=True)
            failed |= any(
                one.failure or (one.difference or 0) > AGREE for one in measured
            )
    finally:
        rate.close()
    print(f"\nload {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    return int(failed)


def text(workload: Workload, measured: list[Measured]) -> str:
    """One workload as a heading and a table."""
    ours = measured[0]
    base = None if ours.failure else median(one.cpu for one in ours.warm)
    header = (
        "method", "CPU s", "min..max", "/ours", "asked", "wall s", "first CPU s", "GB",
        "differs",
    )  # fmt: skip
    lines: list[tuple[str, ...]] = [header]
    for one in measured:
        if one.failure or one.first is None:
            lines.append((one.method, f"FAILED: {one.failure}", *[""] * 7))
            continue
        cpu = [call.cpu for call in one.warm]
        asked = "" if one is ours else f"{ASKED[workload.name]}x"
        lines.append((
            one.method, number(median(cpu)), f"{number(min(cpu))}..{number(max(cpu))}",
            "-" if base is None else f"{median(cpu) / base:.2f}x", asked,
            number(median(call.wall for call in one.warm)), number(one.first.cpu),
            number(one.peak_bytes, 1e9), number(one.difference),
        ))  # fmt: skip
    return f"{workload.name}: {workload.title}, N={workload.n}\n{aligned(lines)}"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
