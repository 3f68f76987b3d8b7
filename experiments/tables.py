"""The columns of every table, declared once with their units; finished runs read back.

The writers take the names from here. pandas is imported where a table is read, so that
they still start at once.
"""

import csv
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments.schema import IDENTITY

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Column:
    """A column: its dtype for pandas, what it holds, its name in figures."""

    dtype: str
    meaning: str
    unit: str = ""  # empty for names and counts, "1" for pure ratios
    label: str = ""


@dataclass(frozen=True)
class Metric:
    """A measurement of `curves.csv`; at the last step, a column of `summary.csv`."""

    splits: tuple[str, ...]
    meaning: str
    unit: str
    label: str
    formula: str = ""  # for matplotlib
    per_layer: bool = False  # named "<metric>/<layer>"


TRAIN, TEST, PARAMETERS = SPLITS = ("train", "test", "parameters")
# Which parameters were trained; as a layer's name, all parameters taken together.
ALL_LAYERS, READOUT = NETWORKS = ("all", "readout")

CURVE_COLUMNS = {
    "run": Column("str", "the run's id: `r` and 12 hexadecimal digits"),
    "seed": Column("int64", "draws the initial parameters and the kernel's probes"),
    "kernel": Column("str", "which kernel predicted: `kernel.name` of the config"),
    "network": Column("str", "which parameters were trained: `all` or `readout`"),
    "step": Column("int64", "gradient steps taken", "steps", "training step"),
    "time": Column(
        "float64",
        "flow time: learning rate times steps",
        "learning rate x steps",
        "flow time",
    ),
    "split": Column("str", "`train` or `test` examples, or the `parameters`"),
    "metric": Column("str", "what was measured; the metrics are listed below"),
    "value": Column("float64", "the measurement, in the unit of its metric"),
}

_BOTH = (TRAIN, TEST)
METRICS = {
    "relative_divergence": Metric(
        _BOTH,
        "||f_s - p_s|| / ||f_T - f_0||: network minus prediction at this step, over "
        "the distance that the network moves in all; norms over examples and outputs",
        "1",
        "relative divergence",
        r"$\|f-p\|\;/\;\|f_T-f_0\|$",
    ),
    "rmse": Metric(
        _BOTH,
        "root mean square, over examples and outputs, of network minus prediction",
        "outputs",
        "RMSE",
    ),
    "loss_network": Metric(
        _BOTH, "the network's loss, c/2 * sum (f - y)^2", "outputs^2 x c", "loss"
    ),
    "loss_prediction": Metric(
        _BOTH, "the prediction's loss", "outputs^2 x c", "predicted loss"
    ),
    "accuracy_network": Metric(
        _BOTH, "fraction of examples that the network classifies right", "1", "accuracy"
    ),
    "accuracy_prediction": Metric(
        _BOTH,
        "fraction of examples that the prediction classifies right",
        "1",
        "predicted accuracy",
    ),
    "kernel_drift": Metric(
        (TRAIN,),
        "||K_s - K_0|| / ||K_0||, Frobenius, of the train-train kernel averaged over "
        "outputs",
        "1",
        "kernel drift",
        r"$\|K_T-K_0\|\;/\;\|K_0\|$",
    ),
    "movement_relative": Metric(
        (PARAMETERS,),
        "||theta_s - theta_0|| / ||theta_0|| of one layer, or of `all`",
        "1",
        "relative movement",
        r"$\|\theta_T-\theta_0\|\;/\;\|\theta_0\|$",
        per_layer=True,
    ),
    "movement_absolute": Metric(
        (PARAMETERS,),
        "||theta_s - theta_0|| of one layer, or of `all`",
        "parameters",
        "absolute movement",
        r"$\|\theta_T-\theta_0\|$",
        per_layer=True,
    ),
}

# The fixed columns of summary.csv; between them stand the config values, after them the
# metrics of the last step.
SUMMARY_COLUMNS = {
    "run": CURVE_COLUMNS["run"],
    "seed": CURVE_COLUMNS["seed"],
    "n_params": Column(
        "int64", "trained parameters", "", "number of trained parameters"
    ),
    "learning_rate": Column(
        "float64", "flow time per step, as used", "parameters^2 / loss", "learning rate"
    ),
    "largest_eigenvalue": Column(
        "float64",
        "of the train-train kernel at initialisation",
        "outputs^2 / parameters^2",
        "largest eigenvalue",
    ),
    "stability_bound": Column(
        "float64",
        "2 / (c * largest_eigenvalue + ridge): descent on the kernel diverges above it",
        "parameters^2 / loss",
        "largest stable learning rate",
    ),
    "posterior_rmse_test": Column(
        "float64",
        "of the posterior mean of the Gaussian process, against the test targets; "
        "kernel=nngp only",
        "outputs",
        "RMSE of the posterior mean",
    ),
    "posterior_accuracy_test": Column(
        "float64",
        "fraction of test examples that the posterior mean classifies right; "
        "kernel=nngp only",
        "1",
        "accuracy of the posterior mean",
    ),
    "seconds": Column("float64", "wall time of the run", "s", "seconds"),
}

# What stands before these in aggregate.csv and slopes.csv are the config values that
# tell the rows apart.
AGGREGATE_COLUMNS = {
    "metric": Column("str", "the column of runs.csv that was averaged"),
    "n_seeds": Column("int64", "runs that have a value"),
    "mean": Column("float64", "over seeds", "the metric's"),
    "std": Column("float64", "over seeds, with n_seeds - 1", "the metric's"),
    "low": Column("float64", "lower end of the mean's 95 % interval", "the metric's"),
    "high": Column("float64", "upper end of the mean's 95 % interval", "the metric's"),
}
SLOPE_COLUMNS = {
    "metric": Column("str", "the column of runs.csv fitted as intercept * x^slope"),
    "x": Column("str", "the column of runs.csv along which it was fitted"),
    "x_from": Column("float64", "only runs with x at or above this were fitted"),
    "x_min": Column("float64", "smallest x fitted"),
    "x_max": Column("float64", "largest x fitted"),
    "n_points": Column("int64", "runs fitted"),
    "n_excluded": Column("int64", "runs left out: value missing, infinite or <= 0"),
    "slope": Column("float64", "of log(metric) on log(x), least squares", "1"),
    "low": Column("float64", "lower end of the slope's 95 % interval", "1"),
    "high": Column("float64", "upper end of the slope's 95 % interval", "1"),
    "intercept": Column("float64", "log(metric) at x = 1", "log of the metric's"),
    "n_points_all": Column("int64", "the same with no lower limit on x"),
    "slope_all": Column("float64", "the same with no lower limit on x", "1"),
    "low_all": Column("float64", "the same with no lower limit on x", "1"),
    "high_all": Column("float64", "the same with no lower limit on x", "1"),
    "band_low": Column("float64", "lowest slope expected", "1"),
    "band_high": Column("float64", "highest slope expected", "1"),
    "verdict": Column(
        "str", "whether slope lies in the band: `met`, `not met`, `no band`, `no fit`"
    ),
    "note": Column("str", "why there is no fit, or what was left out of it"),
}

_CONFIG_LABELS = {
    "model.width": "width (units per hidden layer)",
    "model.depth": "depth (hidden layers)",
    "kernel.proj_dim": "random projections",
    "kernel.n_samples": "initialisations sampled",
    "dataset.n_train": "training examples",
    "optimizer.learning_rate": "learning rate",
}


class InputError(ValueError):
    """A request that the runs on disk cannot answer; its text is for the user."""


class Skipped(NamedTuple):
    """A run directory that is in no table, and why."""

    directory: Path
    state: str  # "failed", "incomplete" or "repeated"
    reason: str


class Runs(NamedTuple):
    """Finished runs: one row of `summaries` and many of `curves` each."""

    summaries: "pd.DataFrame"
    curves: "pd.DataFrame"
    directories: list[Path]  # in the order of the rows of `summaries`
    skipped: list[Skipped]


def summary_column(metric: str, split: str, network: str | None = None) -> str:
    """The column of `summary.csv` for a metric of `curves.csv` at the last step.

    Args:
        metric: as in `curves.csv`, with its layer: `rmse`, `movement_relative/input`.
        split: one of `SPLITS`.
        network: for a run's secondary network only, one of `NETWORKS`.

    Raises:
        ValueError: if no such metric is declared for this split.
    """
    declared = METRICS.get(metric.split("/", 1)[0])
    if declared is None or split not in declared.splits:
        known = {name: list(metric.splits) for name, metric in METRICS.items()}
        raise ValueError(
            f"The metric {metric!r} is not declared for the split {split!r}. Declared "
            f"are {known}; add it to `METRICS` in experiments/tables.py."
        )
    column = f"{metric}_{split}" if declared.splits == _BOTH else metric
    return column if network is None else f"{column}@{network}"


def is_config_column(column: str) -> bool:
    """Whether a column of `summary.csv` is a config value; a seed counts as none."""
    return column != "seed" and column.split(".", 1)[0] in IDENTITY


def describe(column: str) -> Column:
    """What any column of `summary.csv` holds.

    Raises:
        ValueError: if the column is not declared here.
    """
    if column in SUMMARY_COLUMNS:
        return SUMMARY_COLUMNS[column]
    if is_config_column(column):
        words = column.rsplit(".", 1)[-1].replace("_", " ")
        label = _CONFIG_LABELS.get(column, words)
        return Column("infer", f"config value `{column}`", label=label)
    name, _, network = column.partition("@")
    where = f", {network} trained" if network else ""
    for key, metric in METRICS.items():
        if metric.per_layer and name.startswith(f"{key}/"):
            layer = name.removeprefix(f"{key}/")
            label = f"{metric.label}, {layer}{where}"
            return Column("float64", metric.meaning, metric.unit, label)
        for split in metric.splits:
            if not metric.per_layer and name == summary_column(key, split):
                also = f", {split}" if metric.splits == _BOTH else ""
                label = f"{metric.label}{also}{where}"
                return Column("float64", metric.meaning, metric.unit, label)
    raise ValueError(
        f"The column {column!r} of summary.csv is not declared. Add it to "
        "`SUMMARY_COLUMNS` or `METRICS` in experiments/tables.py."
    )


def load_runs(*paths: str | os.PathLike) -> tuple["pd.DataFrame", "pd.DataFrame"]:
    """All finished runs at or below some directories, as two tables with right types.

    Args:
        paths: run directories, study directories, or directories of studies.

    Returns:
        summaries, one row per run, and curves, one row per measurement. Integer columns
        that some runs lack are `Int64`; text never turns into a number or a NaN.

    Raises:
        InputError: if a path is no directory, or no finished run lies below them.

    Says on stderr which run directories were skipped, and why.
    """
    runs = read_runs(*paths)
    for line in skipped_lines(runs.skipped):
        print(line, file=sys.stderr)
    return runs.summaries, runs.curves


def read_runs(*paths: str | os.PathLike) -> Runs:
    """As `load_runs`, but with the directories read and those skipped, silently."""
    rows, curves, directories, skipped = [], [], [], []
    read: dict[str, Path] = {}
    for directory in _run_directories([Path(path) for path in paths]):
        try:
            row, curve = _read_run(directory)
        except _Unfinished as why:
            skipped.append(Skipped(directory, why.state, why.reason))
            continue
        if row["run"] in read:
            # the same config, swept in two studies: counting it twice would
            # shrink every interval
            reason = f"the same run as {read[row['run']]}"
            skipped.append(Skipped(directory, "repeated", reason))
            continue
        read[row["run"]] = directory
        rows.append(row)
        curves.append(curve)
        directories.append(directory)
    if not rows:
        raise InputError(_nothing_finished(paths, skipped))

    import pandas as pd

    return Runs(
        _typed(rows), pd.concat(curves, ignore_index=True), directories, skipped
    )


def skipped_lines(skipped: list[Skipped], at_most: int = 5) -> list[str]:
    """Lines of text that say which run directories were skipped, and why."""
    if not skipped:
        return []
    lines = [f"Skipped {_count(skipped)}:"]
    lines += [f"  {run.directory}: {run.reason}" for run in skipped[:at_most]]
    if len(skipped) > at_most:
        lines.append(f"  and {len(skipped) - at_most} more")
    return lines


def varying_columns(summaries: "pd.DataFrame") -> list[str]:
    """The config columns in which runs differ; having no value is a value."""
    return [
        column
        for column in summaries.columns
        if is_config_column(column) and len(summaries[[column]].drop_duplicates()) > 1
    ]


def key_columns(summaries: "pd.DataFrame", first: Iterable[str] = ()) -> list[str]:
    """As few of the varying columns as tell apart what all of them tell apart.

    Args:
        summaries: one row per run.
        first: columns to take before any other, such as the x of a figure.
    """
    first = list(first)
    varying = [column for column in varying_columns(summaries) if column not in first]
    varying.sort(key=lambda column: not column.endswith(".name"))  # stable
    keys, n_groups = [], 1
    for column in first + varying:
        n = len(summaries[[*keys, column]].drop_duplicates())
        if n > n_groups or column in first:
            keys, n_groups = [*keys, column], n
    return keys


def groups(
    frame: "pd.DataFrame", by: list[str]
) -> Iterator[tuple[tuple[Any, ...], "pd.DataFrame"]]:
    """The rows that agree in the columns `by`, in their order; `None` is no value."""
    import pandas as pd

    if not by:
        yield (), frame
        return
    values: Any
    for values, group in frame.groupby(by, dropna=False, sort=True):
        yield tuple(None if bool(pd.isna(v)) else v for v in values), group


def aggregate(summaries: "pd.DataFrame") -> "pd.DataFrame":
    """Mean and 95 % t-interval over seeds of everything measured, one row per metric.

    Args:
        summaries: one row per run.

    Returns:
        the config columns that vary between runs, then `AGGREGATE_COLUMNS`. A metric
        that a group of runs lacks has no row; one seed has no std and no interval.
    """
    import numpy as np
    import pandas as pd
    from scipy import stats

    by = varying_columns(summaries)
    rows = []
    for values, group in groups(summaries, by):
        for metric in measured_columns(summaries):
            sample = group[metric].dropna().to_numpy(float)
            n = len(sample)
            if n == 0:
                continue
            with np.errstate(invalid="ignore"):  # a diverged run is infinite
                mean = sample.mean()
                std = sample.std(ddof=1) if n > 1 else np.nan
                half = stats.t.ppf(0.975, n - 1) * std / np.sqrt(n) if n > 1 else np.nan
                rows.append((*values, metric, n, mean, std, mean - half, mean + half))
    table = pd.DataFrame(rows, columns=[*by, *AGGREGATE_COLUMNS])
    return table.astype({column: summaries[column].dtype for column in by})


def measured_columns(summaries: "pd.DataFrame") -> list[str]:
    """The numeric columns that a run measured: no ids and no config values."""
    from pandas.api.types import is_numeric_dtype

    return [
        column
        for column in summaries.columns
        if column not in ("run", "seed")
        and not is_config_column(column)
        and is_numeric_dtype(summaries[column])
    ]


class _Unfinished(Exception):
    """A run directory without finished tables."""

    def __init__(self, state: str, reason: str):
        self.state, self.reason = state, reason


def _run_directories(roots: list[Path]) -> Iterator[Path]:
    """Each run directory at or below the roots once, in the order of their paths."""
    seen = set()
    for root in roots:
        if not root.is_dir():
            what = "is a file" if root.exists() else "does not exist"
            raise InputError(
                f"`{root}` {what}. Give the directory of a study, e.g. "
                "`outputs/default`, or `outputs` for all of them; "
                "`python -m experiments.run` makes a run."
            )
        for path, names, files in os.walk(root):
            directory = Path(path)
            if _is_run(directory.resolve().name) or "status.json" in files:
                names.clear()
                if directory.resolve() not in seen:
                    seen.add(directory.resolve())
                    yield directory
            # half-written runs, tables and figures
            names[:] = sorted(name for name in names if name[0] not in "_.")


def _is_run(name: str) -> bool:
    return re.fullmatch(r"r[0-9a-f]{12}", name) is not None


def _read_run(directory: Path) -> tuple[dict[str, str], "pd.DataFrame"]:
    """One finished run: its summary as text by column, its curves."""
    status = _status(directory)
    if status != "DONE":
        state = "failed" if status == "FAILED" else "incomplete"
        raise _Unfinished(state, _last_error(directory) or f"its status is {status}")
    try:
        with open(directory / "summary.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise _Unfinished("incomplete", _cannot_read("summary.csv", error)) from error
    if len(rows) != 1:
        reason = f"summary.csv has {len(rows)} rows, not one"
        raise _Unfinished("incomplete", reason)
    row = rows[0]
    # csv fills a cut row with None and collects surplus cells under the key None
    if None in row or None in row.values() or not {"run", "seed"} <= row.keys():
        raise _Unfinished("incomplete", "summary.csv is cut short or lacks run, seed")
    return row, _read_curves(directory)


def _status(directory: Path) -> str:
    try:
        text = (directory / "status.json").read_text(encoding="utf-8")
        return str(json.loads(text)["status"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _Unfinished("incomplete", _cannot_read("status.json", error)) from error


def _last_error(directory: Path) -> str:
    """The last line of `error.txt`, where a traceback names its error."""
    path = directory / "error.txt"
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"failed, see {path.name}: {last[:120]}"


def _read_curves(directory: Path) -> "pd.DataFrame":
    import pandas as pd

    numbers = [n for n, column in CURVE_COLUMNS.items() if column.dtype == "float64"]
    try:
        table = pd.read_csv(
            directory / "curves.csv",
            usecols=list(CURVE_COLUMNS),
            dtype={name: column.dtype for name, column in CURVE_COLUMNS.items()},
            # a kernel named "NA" is text
            keep_default_na=False,
            na_values={name: ["", "nan", "NaN"] for name in numbers},
        )
    except (OSError, ValueError) as error:
        raise _Unfinished("incomplete", _cannot_read("curves.csv", error)) from error
    return table.reindex(columns=list(CURVE_COLUMNS))


def _cannot_read(name: str, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{name} is missing"
    return f"{name} cannot be read: {type(error).__name__}: {error}"


def _typed(rows: list[dict[str, str]]) -> "pd.DataFrame":
    """Summaries as text, with a type for each column; an empty cell is no value."""
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


def _nothing_finished(paths: Iterable, skipped: list[Skipped]) -> str:
    where = ", ".join(f"`{path}`" for path in paths)
    if not skipped:
        return (
            f"There are no runs in {where}: no directory named r and 12 hexadecimal "
            "digits. Give the directory that `experiments.run` wrote to, e.g. "
            "`outputs/default`; `python -m experiments.run` makes a run."
        )
    first = skipped[0]
    error = first.directory / "error.txt"
    see = error if error.exists() else first.directory
    return (
        f"No run in {where} is finished: found {_count(skipped)}. The first is "
        f"{see}: {first.reason}. Remove the cause and give the command of the runs "
        "again; it repeats those that are not finished."
    )


def _count(skipped: list[Skipped]) -> str:
    by_state = Counter(run.state for run in skipped)
    return ", ".join(
        f"{n} {state} run{'s' if n > 1 else ''}" for state, n in by_state.items()
    )
