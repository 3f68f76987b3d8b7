"""The command that writes a study's page: question, verdict, tables, figures, origin.

    python -m experiments.report outputs/width_scaling

One file that opens from an e-mail: pictures are inside it, and nothing is fetched.
"""  # noqa: D208

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.analyze import analyze
from experiments.files import replace
from experiments.reading import InputError
from experiments.verdicts import overall


def main(
    arguments: Sequence[str] | None = None,
    prog: str = "python -m experiments.report",
) -> int:
    """Run the command; returns its exit code, 2 when it cannot be answered."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="""  %(prog)s outputs/width_scaling
  %(prog)s outputs/width_scaling --out width.html

Writes a study's page, one file that needs no server and no other file. Tables and
figures are made anew.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dir", metavar="DIR", help="a study, or a directory of studies")
    parser.add_argument(
        "--out", metavar="FILE", type=Path, help="default: DIR/report.html"
    )
    given = parser.parse_args(arguments)
    try:
        analysis = analyze(given.dir)
    except InputError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    made = Path(given.dir) / "report.html"
    if given.out is not None and given.out.resolve() != made.resolve():
        replace(given.out, made.read_text(encoding="utf-8"))
        made = given.out
    verdict = overall(analysis.study.verdicts)
    print(f"Wrote {made}" + (f": {verdict}" if verdict else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
