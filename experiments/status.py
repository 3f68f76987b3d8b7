"""The command that says where sweeps stand, from any terminal that sees their disk.

    python -m experiments.status                           all studies in outputs
    python -m experiments.status outputs/width_scaling -w  one, until it has ended

Reads only; imports no jax.
"""  # noqa: D208

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments import claims, progress, store
from experiments.progress import Record, Survey

_SECONDS_BETWEEN_LOOKS = 2.0
_MOST_LINES = 20


def main(
    arguments: Sequence[str] | None = None,
    prog: str = "python -m experiments.status",
) -> int:
    """Run the command; 1 if there is nothing to tell of."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="""  %(prog)s                           all studies in outputs
  %(prog)s outputs/width_scaling -w  one, until it has ended

Says where sweeps stand, from any terminal that sees their disk. Reads only.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "path", nargs="*", default=[Path("outputs")], type=Path,
        help="a study, or a directory of studies; outputs if none is given",
    )  # fmt: skip
    parser.add_argument(
        "-w", "--watch", action="store_true", help="look again until all sweeps ended"
    )
    given = parser.parse_args(arguments)
    missing = [path for path in given.path if not path.is_dir()]
    if missing:
        print(
            f"`{missing[0]}` is no directory. Give that of a study, such as "
            "outputs/default, or one of studies.",
            file=sys.stderr,
        )
        return 1
    if given.watch:
        return _watch(given.path)
    lines = list(_lines(given.path))
    if not lines:
        where = ", ".join(map(str, given.path))
        print(f"There are no runs in {where}. `equintk run` makes one.")
        return 1
    print("\n".join(lines))
    return 0


def studies(paths: Sequence[Path]) -> list[Path]:
    """The directories at or below some paths that hold runs or sweeps."""
    found = []
    for root in paths:
        below = (p for p in root.rglob("*") if p.is_dir() and _visible(p, root))
        found += [
            p for p in (root, *below) if (p / "_sweeps").is_dir() or any(_runs(p))
        ]
    return sorted(set(found))


def _watch(paths: Sequence[Path]) -> int:
    """Show the lines anew until no sweep goes on."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with Live(console=Console(), auto_refresh=False) as live:
        while True:
            live.update(Text("\n".join(_lines(paths))), refresh=True)
            going = [r for study in studies(paths) for r in progress.records(study)]
            if not any(record.goes_on for record in going):
                return 0
            time.sleep(_SECONDS_BETWEEN_LOOKS)


def _lines(paths: Sequence[Path]) -> Iterator[str]:
    """What there is to say, study by study."""
    for study in studies(paths):
        ended = Counter(store.status(place) for place in _runs(study))
        total = ", ".join(f"{n} {(how or 'unreadable').lower()}" for how, n in sorted(
            ended.items(), key=str))  # fmt: skip
        yield f"{study}: {total or 'no run has ended'}"
        records = progress.records(study)
        # Sweeps that go on, and the last one in any case.
        shown = [record for record in records[:-1] if record.goes_on]
        for record in [*shown, *records[-1:]]:
            yield from _sweep(record)


def _sweep(record: Record) -> Iterator[str]:
    survey = Survey(record)
    how = record.ended or ("going on" if record.goes_on else "killed")
    yield f"  sweep of {progress.since(record)}, {record.engine}, {how}: {survey.line}"
    stale = record.stale
    told = 0
    for run, state in zip(record.runs, survey.states, strict=True):
        if state in ("done", "waiting"):
            continue
        told += 1
        if told > _MOST_LINES:
            continue
        line = f"    {state:<11}  {run.label}"
        owner = claims.owner(run.place, stale)
        if state == "failed":
            line += f"  {run.place / 'error.txt'}"
        elif owner is not None:
            host, process = owner.about.get("host"), owner.about.get("pid")
            sign = f"last sign {progress.duration(owner.silent)} ago"
            line += f"  {host}, process {process}, {sign}"
        yield line
    if told > _MOST_LINES:
        yield f"    and {told - _MOST_LINES} more"


def _runs(study: Path) -> Iterator[Path]:
    return (p.parent for p in study.glob("r*/status.json"))


def _visible(path: Path, root: Path) -> bool:
    """Whether no directory on the way from the root is the experiments' own."""
    return not any(part[0] in "._" for part in path.relative_to(root).parts)


if __name__ == "__main__":
    sys.exit(main())
