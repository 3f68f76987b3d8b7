"""Time exact kernels, ours and others'.

python -m benchmarks.kernels --workloads a,d
"""

import argparse
import csv
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from . import environment, report
from .counts import PRODUCT_OPERATIONS, operations
from .rounds import ROOT, Measured, Timing, Worker, measure
from .workloads import INCUMBENT, LARGE, WORKLOADS, Workload, resized, select, without


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line, with its workloads looked up."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kernels",
        description="Time exact empirical kernels: equintk beside its peers.",
    )
    add = parser.add_argument
    add("--workloads", default=",".join(w.name for w in WORKLOADS), metavar="A,B",
        help="names or letters, of: %(default)s")  # fmt: skip
    add("--without", default="", metavar="PEERS",
        help="peers to leave out, such as: structured,vector products")  # fmt: skip
    add("--repeats", type=_positive, default=7, help="warm calls of each method (7)")
    add("--n", type=_positive, help="examples, instead of each workload's own number")
    add("--batch-size", type=_positive, help="our block, instead of each workload's")
    add("--large", type=_positive, nargs="?", const=LARGE.n, metavar="N",
        help=f"only one kernel of N ({LARGE.n}) examples, once")  # fmt: skip
    add("--limit", type=_positive, default=600, help="seconds for one call (600)")
    add("--venv", type=Path, default=ROOT / "benchmarks" / ".venvs" / "incumbent",
        help="the incumbent's environment, built if missing (%(default)s)")  # fmt: skip
    add("--python", help="a Python 3.11 to build it with; looked for by default")
    add("--out", type=Path, help="the CSV file (benchmarks/results/<time>.csv)")
    options = parser.parse_args(arguments)
    try:
        chosen = [without(one, options.without) for one in select(options.workloads)]
    except ValueError as error:
        parser.error(str(error))
    options.repeats = 0 if options.large else options.repeats
    options.workloads = [
        resized(workload, options.large or options.n, options.batch_size)
        for workload in ([LARGE] if options.large else chosen)
    ]
    return options


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def main(arguments: list[str]) -> int:
    """Measure, print and write; 1 if a method failed or values do not agree."""
    options = parse(arguments)
    methods = {method for one in options.workloads for method in one.methods}
    pythons = dict.fromkeys(methods, sys.executable)
    if methods & set(INCUMBENT):
        incumbent = str(environment.ensure(options.venv.absolute(), options.python))
        pythons |= dict.fromkeys(methods & set(INCUMBENT), incumbent)
    name = datetime.now(UTC).strftime("kernels-%Y%m%d-%H%M%S.csv")
    path = options.out or ROOT / "benchmarks" / "results" / name

    rate = Worker(sys.executable, options.workloads[0], "rate", options.limit)
    rate.ask(do="time")  # compiles
    found: list[report.Row] = []
    try:
        for workload in options.workloads:
            measured, products = measure(
                workload, pythons, rate, options.repeats, options.limit
            )
            found += _show(workload, measured, products)
            _write(path, found)
    finally:
        rate.close()
    print(
        "", *sorted({str(r["versions"]) for r in found if r.get("versions")}), sep="\n"
    )
    print(f"Written to {path}")
    return 1 if report.complaints(found) else 0


def _show(
    workload: Workload, measured: list[Measured], products: list[Timing]
) -> list[report.Row]:
    """Print one workload's measurements, and give them as rows."""
    rows = report.rows(
        workload,
        measured,
        operations(workload.net, workload.n, workload.full),
        products,
        PRODUCT_OPERATIONS,
    )
    print("\n" + report.text(workload, rows))
    if workload.name == LARGE.name:
        print(report.large(rows[0]))
    rate = min(products, key=lambda one: one.cpu)
    print(
        f"{PRODUCT_OPERATIONS / rate.cpu / 1e9:.0f} GFLOP per CPU second, "
        f"{PRODUCT_OPERATIONS / rate.wall / 1e9:.0f} per wall second; load "
        f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores",
        flush=True,
    )
    return rows


def _write(path: Path, found: list[report.Row]):
    """All rows so far, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    with unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, report.COLUMNS)
        writer.writeheader()
        writer.writerows(found)
    unfinished.replace(path)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
