"""Tables of text: drawn on a terminal, aligned with spaces elsewhere."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Table:
    """A table of text; the columns in `left` are words, the others numbers."""

    title: str
    header: list[str]
    rows: list[list[str]]
    left: frozenset[int] = field(default_factory=frozenset)


# Cells that a terminal colours.
GOOD, BAD = frozenset({"met"}), frozenset({"NOT met", "NO ANSWER"})


def text(parts: Iterable["Table | str"]) -> str:
    """The parts as plain text, tables aligned with spaces."""
    return "\n".join(
        _aligned(part) if isinstance(part, Table) else part for part in parts
    )


def show(parts: Iterable["Table | str"]) -> None:
    """Print the parts."""
    if not sys.stdout.isatty():
        print(text(parts))
        return
    from rich.console import Console

    # wide: a narrow terminal's own line breaks are easier to read than torn numbers
    console = Console(width=240)
    for part in parts:
        drawn = _drawn(part) if isinstance(part, Table) else part
        console.print(drawn, markup=False, highlight=False, soft_wrap=True)


def number(value: Any) -> str:
    """A value in a few digits; a dash where there is none."""
    if value is None or value != value:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _aligned(table: Table) -> str:
    headings = zip(*map(_heading, table.header), strict=True)
    lines = [*headings, *table.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = [
        "  ".join(
            cell.ljust(width) if i in table.left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([table.title, "", *filter(None, aligned), ""])


def _heading(name: str) -> tuple[str, str]:
    """A column's name on two lines, broken where a long one has a joint."""
    joint = max(name.rfind(mark) for mark in "_./") + 1
    return (name[:joint], name[joint:]) if len(name) > 14 else ("", name)


def _drawn(table: Table) -> Any:
    from rich import box, table as rich_table
    from rich.text import Text

    drawn = rich_table.Table(
        title=table.title, title_justify="left", box=box.SIMPLE_HEAD
    )
    for i, name in enumerate(table.header):
        justify = "left" if i in table.left else "right"
        heading = Text("\n".join(filter(None, _heading(name))))
        drawn.add_column(heading, justify=justify, vertical="bottom")
    for row in table.rows:
        # as Text: rich would take the [ of an interval for markup
        drawn.add_row(*(Text(cell, _style(cell)) for cell in row))
    return drawn


def _style(cell: str) -> str:
    return "green" if cell in GOOD else "red" if cell in BAD else ""
