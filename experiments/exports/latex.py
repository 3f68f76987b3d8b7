"""What a study answers as LaTeX tables, for documents that load booktabs."""

import re
from pathlib import Path

from experiments import answers
from experiments.files import replace
from experiments.screen import Table
from experiments.study import Study

_ESCAPED = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#",
    "_": r"\_", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$", "<": "$<$", ">": "$>$",
}  # fmt: skip
_NUMBER = re.compile(r"-?\d[\d.]*(?:e[+-]?\d+)?")


def write(study: Study, out: Path) -> list[Path]:
    """Write `means.tex`, and where there are any `slopes.tex` and `verdicts.tex`."""
    tables = {"means": answers.means(study, intervals=True)}
    if study.slopes_matter:
        tables["slopes"] = answers.slopes(study)
    if len(study.verdicts):
        tables["verdicts"] = answers.verdicts(study)
    paths = []
    for name, table in tables.items():
        paths.append(out / f"{name}.tex")
        replace(paths[-1], tabular(table))
    return paths


def tabular(table: Table) -> str:
    """A table as a `tabular`: words to the left, numbers to the right."""
    columns = "".join("l" if i in table.left else "r" for i in range(len(table.header)))
    lines = [
        f"% {table.title}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        _row(table.header),
        r"\midrule",
        *map(_row, table.rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _row(cells: list[str]) -> str:
    return " & ".join(map(_cell, cells)) + r" \\"


def _cell(text: str) -> str:
    """Text with LaTeX's own characters escaped, and numbers in mathematics."""
    parts, end = [], 0
    for found in _NUMBER.finditer(text) if _is_numeric(text) else ():
        parts.append(_escaped(text[end : found.start()]) + _power(found[0]))
        end = found.end()
    whole = "".join([*parts, _escaped(text[end:])])
    # a bracket that begins a row would be an option of the row break before it
    return whole.replace("[", "{[}").replace("]", "{]}")


def _is_numeric(text: str) -> bool:
    return re.fullmatch(r"[-\d.e+\[\], ±]+", text) is not None


def _power(number: str) -> str:
    mantissa, _, exponent = number.partition("e")
    if not exponent:
        return f"${number}$"
    return rf"${mantissa} \cdot 10^{{{int(exponent)}}}$"


def _escaped(text: str) -> str:
    return "".join(_ESCAPED.get(letter, letter) for letter in text)
