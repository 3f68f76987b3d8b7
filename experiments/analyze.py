"""The command from runs to tables, verdicts, figures and a page.

    python -m experiments.analyze outputs/width_scaling

What was computed is only read: everything written here can be deleted and made again.
"""  # noqa: D208

import argparse
import io
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from experiments import answers, claims, declaration, files, screen, study_page
from experiments.files import replacing
from experiments.question import AnalysisConfig
from experiments.reading import InputError
from experiments.screen import Table
from experiments.study import Study, read_study
from experiments.verdicts import overall

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Analysis:
    """A study and the files that were written for it."""

    study: Study
    paths: list[Path]

    @property
    def text(self) -> str:
        """What the command prints, as plain aligned text."""
        return screen.text(self.parts)

    @property
    def parts(self) -> list[Table | str]:
        """What the command prints."""
        return list(_said(self))


def analyze(
    path: str | os.PathLike,
    x: str | None = None,
    x_from: float | None = None,
    declared: AnalysisConfig | None = None,
) -> Analysis:
    """Gather the runs below a directory; write tables, figures and a page into it.

    Args:
        path: the directory of a study, or of several.
        x: the summary column that slopes and figures go along; `None` takes the one
            declared, or else the only number swept over three values.
        x_from: where laws are expected to hold from; `None` takes the value declared.
        declared: what a sweep asks; it is left in the study's directory for the
            analyses that follow. `None` takes what is there.

    Returns:
        the tables; `_tables/`, `_figures/` and `report.html` in `path` hold them.

    Raises:
        InputError: if there is no finished run, or nothing varies along x.
    """
    path = Path(path)
    if path.is_dir():
        claims.recover(path)
        if declared is not None:
            declaration.write(path, declared)
    study = read_study(path, x, x_from)
    from experiments import figures

    paths = []
    for name, table in study.tables.items():
        paths.append(path / "_tables" / f"{name}.csv")
        with replacing(paths[-1]) as temporary:
            table.to_csv(temporary, index=False)
    pictures = []
    old = set((path / "_figures").glob("*.png"))
    for name, figure in figures.draw(study).items():
        paths.append(path / "_figures" / f"{name.replace(' ', '_')}.png")
        pictures.append(_picture(name, figure))
        with replacing(paths[-1]) as temporary:
            temporary.write_bytes(pictures[-1].png)
    for stale in old - set(paths):  # drawn from other runs, it contradicts the tables
        stale.unlink(missing_ok=True)
    paths.append(path / "report.html")
    files.replace(paths[-1], study_page.page_of(study, pictures))
    return Analysis(study, paths)


def main(
    arguments: Sequence[str] | None = None,
    prog: str = "python -m experiments.analyze",
) -> int:
    """Run the command; returns its exit code, 2 when it cannot be answered."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="""  %(prog)s outputs/width_scaling
  %(prog)s outputs --x model.width --from 128

Gathers runs into tables, verdicts, slopes, figures and a page.""",
        epilog="""writes DIR/_tables/{runs,curves,aggregate,slopes,verdicts}.csv and
DIR/_figures/*.png and DIR/report.html; outputs/README.md describes each column.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dir", metavar="DIR", help="a study, or a directory of studies")
    parser.add_argument(
        "--x",
        metavar="COLUMN",
        help="numeric column along which to fit power laws, e.g. model.width (default: "
        "that of the study, or the only number swept over three values)",
    )
    parser.add_argument(
        "--from",
        dest="x_from",
        metavar="VALUE",
        type=float,
        help="expect laws to hold from this x up (default: as the study declares)",
    )
    given = parser.parse_args(arguments)
    try:
        analysis = analyze(given.dir, given.x, given.x_from)
    except InputError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    screen.show(analysis.parts)
    return 0


def _picture(name: str, figure: "Figure") -> study_page.Picture:
    """A figure as bytes; its description is made of the titles of its panels."""
    png = io.BytesIO()
    figure.savefig(png, format="png")
    panels = [axes.get_title() for axes in figure.axes if axes.get_title()]
    width = round(100 * figure.get_figwidth())
    return study_page.Picture(
        png.getvalue(), width, name, f"{name}: {'; '.join(panels)}"
    )


def _said(analysis: Analysis) -> Iterator[Table | str]:
    """What the command says."""
    study = analysis.study
    if study.asked.question:
        yield study.asked.question.strip() + "\n"
    yield answers.means(study, intervals=False)
    if study.slopes_matter:
        yield answers.slopes(study)
    if len(study.verdicts):
        yield answers.verdicts(study)
        yield f"Verdict: {overall(study.verdicts)}.\n"
    yield from answers.notes(study)
    for path in analysis.paths:
        yield f"Wrote {path}"


if __name__ == "__main__":
    sys.exit(main())
