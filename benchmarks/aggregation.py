"""How long a thousand finished runs take to gather.

    python -m experiments.run experiment=width_scaling
    python -m benchmarks.aggregation outputs/width_scaling --runs 1000

Copies of a study's runs, each with a seed and an id of its own, are read and analysed
in fresh processes; the clock starts after the interpreter has.
"""  # noqa: D208

import argparse
import csv
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from .table import aligned

STAGES = {
    "runs -> typed tables": (
        "from experiments.reading import read_runs\nread_runs(path)"
    ),
    "and means, slopes, verdicts": (
        "from experiments.study import read_study\nread_study(path)"
    ),
    "all of analyze: files, figures, page": (
        "from experiments.analyze import analyze\nanalyze(path)"
    ),
}
_CODE = """
import sys, time
path = sys.argv[1]
cpu, wall = time.process_time(), time.perf_counter()
{statement}
print(time.process_time() - cpu, time.perf_counter() - wall)
"""


def copies(study: Path, n_runs: int, out: Path) -> None:
    """Fill `out` with runs that differ from those of a study in seed and id."""
    runs = sorted(path.parent for path in study.glob("r*/summary.csv"))
    if not runs:
        sys.exit(f"There are no finished runs in {study}.")
    for i in range(n_runs):
        source = runs[i % len(runs)]
        name = f"r{i:012x}"
        shutil.copytree(source, out / name)
        for file in ("summary.csv", "curves.csv"):
            text = (source / file).read_text(encoding="utf-8")
            (out / name / file).write_text(text.replace(source.name, name))
        _reseed(out / name / "summary.csv", i // len(runs))


def _reseed(path: Path, seed: int) -> None:
    with open(path, newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        writer.writeheader()
        writer.writerow(row | {"seed": str(seed)})


def main() -> None:
    """Print CPU and wall seconds of each stage."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.aggregation", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("study", type=Path, help="a directory with finished runs")
    parser.add_argument("--runs", type=int, default=1000, help="how many to gather")
    parser.add_argument("--repeats", type=int, default=3, help="processes per stage")
    given = parser.parse_args()
    lines = [["", "CPU s", "wall s"]]
    with tempfile.TemporaryDirectory() as directory:
        copies(given.study, given.runs, Path(directory))
        for stage, statement in STAGES.items():
            times = []
            for _ in range(given.repeats):
                code = _CODE.format(statement=statement)
                done = subprocess.run(
                    [sys.executable, "-c", code, directory],
                    cwd=Path(__file__).parent.parent,
                    capture_output=True, text=True, check=True,
                )  # fmt: skip
                times.append([float(word) for word in done.stdout.split()[-2:]])
            cpu, wall = (median(column) for column in zip(*times, strict=True))
            lines.append([stage, f"{cpu:.2f}", f"{wall:.2f}"])
    print(f"{given.runs} runs, medians of {given.repeats} processes")
    print(aligned(lines))


if __name__ == "__main__":
    main()
