"""The command that hands finished runs to other tools.

    python -m experiments.export parquet outputs/width_scaling

Runs are only read; whatever is written can be deleted and written again.
"""  # noqa: D208

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.exports import latex, mlflow, parquet, tensorboard
from experiments.exports.missing import MissingExtraError
from experiments.reading import InputError
from experiments.study import Study, read_study


class _Format(NamedTuple):
    write: Callable[[Study, Path], list[Path]]
    place: str  # in the study's directory, unless --out says otherwise
    what: str


FORMATS = {
    "parquet": _Format(
        parquet.write, "_export/parquet", "the tables, with their types: a file each"
    ),
    "latex": _Format(
        latex.write, "_export/latex", "means, slopes, verdicts: booktabs, a file each"
    ),
    "tensorboard": _Format(
        tensorboard.write, "_export/tensorboard", "curves: an event file per run"
    ),
    "mlflow": _Format(
        mlflow.write, "_export/mlflow.db", "configs and curves: one SQLite file"
    ),
}


def export(study: Study, form: str, out: Path | None = None) -> list[Path]:
    """Write a study in one of the `FORMATS`; returns the files to look at.

    Raises:
        MissingExtraError: with the line that installs what the format needs.
    """
    chosen = FORMATS[form]
    return chosen.write(study, study.path / chosen.place if out is None else out)


def main(
    arguments: Sequence[str] | None = None,
    prog: str = "python -m experiments.export",
) -> int:
    """Run the command; returns its exit code, 2 when it cannot be answered."""
    listed = "\n".join(f"  {name:<12} {f.what}" for name, f in FORMATS.items())
    parser = argparse.ArgumentParser(
        prog=prog,
        description="""  %(prog)s parquet outputs/width_scaling
  %(prog)s latex outputs/width_scaling --out paper/tables
  %(prog)s tensorboard outputs/width_scaling
  %(prog)s mlflow outputs/width_scaling

Hands finished runs to other tools.""",
        epilog=f"""formats, written to DIR/_export:
{listed}""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("format", choices=list(FORMATS), help="see below")
    parser.add_argument("dir", metavar="DIR", help="a study, or a directory of studies")
    parser.add_argument(
        "--out", metavar="PATH", type=Path, help="a directory; for mlflow a file"
    )
    given = parser.parse_args(arguments)
    try:
        paths = export(read_study(given.dir), given.format, given.out)
    except (InputError, MissingExtraError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    for path in paths:
        print(f"Wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
