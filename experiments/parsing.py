"""The text of tables, with a type for each column.

Types come from `experiments.tables`, never from what the text looks like: an id such as
`1234e5` is no number, and a kernel named `NA` is no gap.
"""

import io
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from experiments.tables import (
    CURVE_COLUMNS,
    SUMMARY_COLUMNS,
    describe,
    is_config_column,
)

if TYPE_CHECKING:
    import pandas as pd


def curves(texts: Iterable[str]) -> "pd.DataFrame":
    """The texts of many `curves.csv` as one table of `CURVE_COLUMNS`.

    One call of pandas for all of a header: a call for each of a thousand runs takes
    seconds.

    Raises:
        ValueError: if a text is cut short, or does not hold these columns.
    """
    import pandas as pd

    bodies: dict[str, list[str]] = {}
    for text in texts:
        header, newline, body = text.partition("\n")
        if not newline or (body and not body.endswith("\n")):
            raise ValueError("it is cut short: its last line has no end")
        bodies.setdefault(header.rstrip("\r"), []).append(body)
    numbers = [n for n, column in CURVE_COLUMNS.items() if column.dtype == "float64"]
    types: Any = {name: column.dtype for name, column in CURVE_COLUMNS.items()}
    empty = pd.DataFrame(columns=list(CURVE_COLUMNS)).astype(types)
    tables = [
        pd.read_csv(
            io.StringIO("".join([header, "\n", *same])),
            usecols=list(CURVE_COLUMNS),
            dtype=types,
            keep_default_na=False,
            na_values={name: ["", "nan", "NaN"] for name in numbers},
        ).reindex(columns=list(CURVE_COLUMNS))
        for header, same in bodies.items()
    ]
    return pd.concat(tables, ignore_index=True) if tables else empty


def summaries(rows: list[dict[str, str]]) -> "pd.DataFrame":
    """Rows of `summary.csv` as text, with a type for each column.

    Args:
        rows: by column; an empty cell is no value, and rows may lack columns.
    """
    import pandas as pd

    columns = list(dict.fromkeys(name for row in rows for name in row))
    columns.sort(key=_place)
    table = {}
    for name in columns:
        cells = [row.get(name) or None for row in rows]
        table[name] = pd.Series(_parsed(cells, _dtype(name)))
    return pd.DataFrame(table)


def _place(column: str) -> int:
    """Ids, config values, scalars, metrics: the runs differ in which they have."""
    if column in ("run", "seed"):
        return 0
    return 1 if is_config_column(column) else 2 if column in SUMMARY_COLUMNS else 3


def _dtype(column: str) -> str:
    try:
        return describe(column).dtype
    except ValueError:  # of a newer version
        return "infer"


def _parsed(cells: list[str | None], dtype: str) -> Any:
    """The cells as an array of this dtype, or of the narrowest that holds them all."""
    import pandas as pd

    present = [cell for cell in cells if cell is not None]
    gaps = len(present) < len(cells)

    def array(parse, plain: str, nullable: str) -> Any:
        values = [None if cell is None else parse(cell) for cell in cells]
        return pd.array(values, dtype=nullable if gaps else plain)  # type: ignore

    if dtype == "infer" and present and {*present} <= _BOOLEANS.keys():
        return array(_BOOLEANS.__getitem__, "bool", "boolean")
    if dtype in ("infer", "int64") and all(map(_INTEGER.fullmatch, present)):
        return array(int, "int64", "Int64")
    if dtype in ("infer", "int64", "float64") and all(map(_NUMBER.fullmatch, present)):
        numbers = [float("nan") if cell is None else float(cell) for cell in cells]
        return pd.Series(numbers, dtype="float64")
    return pd.array(cells, dtype="str")  # type: ignore


_BOOLEANS: Mapping[str, bool] = {
    "True": True, "False": False, "true": True, "false": False,
}  # fmt: skip
_INTEGER = re.compile(r"[+-]?\d{1,18}")
_NUMBER = re.compile(
    r"[+-]?(\d+\.?\d*(e[+-]?\d+)?|\.\d+(e[+-]?\d+)?|inf|nan)", re.IGNORECASE
)
