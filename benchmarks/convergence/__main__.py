"""Compare the kernels of wide networks with their limit.

python -m benchmarks.convergence
"""

import argparse
import os
import sys
import time

from benchmarks.table import aligned

from .measure import EXPECTED, MOST, Mean, Measured, measure
from .networks import NETWORKS

HEADER = (
    "architecture", "stax", "slope", "95 % interval", "error", "NTK, s.e.", "of",
    "NNGP, s.e.", "of", "",
)  # fmt: skip


def main(arguments: list[str]) -> int:
    """Measure and print; 1 if a kernel does not approach its limit."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.convergence",
        description="The kernels of wide networks beside their limit.",
    )
    add = parser.add_argument
    add("--networks", default=",".join(NETWORKS), help="some of %(default)s")
    add("--widths", default="64,128,256,512,1024", help="(%(default)s)")
    add("--seeds", type=int, default=16, help="draws of each width (16)")
    add("--at", type=int, default=512, help="the width of the mean of many draws (512)")
    add("--draws", type=int, default=1000, help="how many draws that is of (1000)")
    options = parser.parse_args(arguments)
    names = options.networks.split(",")
    if unknown := set(names) - set(NETWORKS):
        parser.error(f"there is no network {unknown.pop()!r}: {', '.join(NETWORKS)}")
    widths = [int(width) for width in options.widths.split(",")]
    lines: list[tuple[str, ...]] = [HEADER]
    failed = False
    for name in names:
        start = time.process_time()
        found = measure(
            NETWORKS[name], widths, options.seeds, options.at, options.draws
        )
        failed |= not found.ok
        lines.append(_row(name, found))
        # Rows as they come: the whole takes a while.
        spent = time.process_time() - start
        print(f"{spent:.0f} CPU-s:", "  ".join(lines[-1]), file=sys.stderr, flush=True)
    print(
        f"Widths {options.widths}, {options.seeds} draws each; means of "
        f"{options.draws} draws at width {options.at}.\nA slope's interval must meet "
        f"{EXPECTED}; a mean may differ by {MOST:g} standard errors (s.e.).\n"
    )
    print(aligned(lines))
    print(f"\nload {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    return int(failed)


def _row(name: str, found: Measured) -> tuple[str, ...]:
    law, errors = found.law, list(found.errors.values())
    return (
        NETWORKS[name].title,
        "yes" if NETWORKS[name].stax else "no",
        f"{law.slope:.2f}",
        f"{law.low:.2f} to {law.high:.2f}",
        f"{errors[0]:.1%} to {errors[-1]:.1%}",
        *_mean(found.ntk),
        *_mean(found.nngp),
        "" if found.ok else "FAILED",
    )


def _mean(mean: Mean | None) -> tuple[str, str]:
    if mean is None:
        return "-", "-"
    return f"{mean.deviation:.1f}", f"{mean.noise:.2%}"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
