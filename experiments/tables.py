"""The columns of every table, declared once with their units.

Imports neither pandas nor jax, so that whoever writes tables still starts at once.
"""

from dataclasses import dataclass

from experiments.identity import IDENTITY


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
    per_layer: bool = False  # named "<metric>/<layer>", or by a number


TRAIN, TEST, PARAMETERS = SPLITS = ("train", "test", "parameters")
# Which parameters were trained; as a layer's name, all parameters taken together.
N_EIGENVALUES = 8  # of the kernel, followed through training
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
        _BOTH,
        "the network's loss: c/2 * sum (f - y)^2, or c * the sum of cross-entropies",
        "outputs^2 x c, or nats x c",
        "loss",
    ),
    "loss_prediction": Metric(
        _BOTH, "the prediction's loss", "outputs^2 x c, or nats x c", "predicted loss"
    ),
    "error_network": Metric(
        _BOTH,
        "root mean square of the network minus the targets; squared losses only",
        "outputs",
        "RMSE against the targets",
    ),
    "error_prediction": Metric(
        _BOTH,
        "root mean square of the prediction minus the targets; squared losses only",
        "outputs",
        "predicted RMSE against the targets",
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
    "target_alignment": Metric(
        (TRAIN,),
        "cosine between the train-train kernel averaged over outputs and y y^T",
        "1",
        "alignment with the targets",
        r"$\langle K_s, yy^T\rangle\;/\;\|K_s\|\|yy^T\|$",
    ),
    "effective_rank": Metric(
        (TRAIN,),
        "trace^2 / Frobenius norm^2 of the train-train kernel averaged over outputs",
        "1",
        "effective rank",
        r"$(\mathrm{tr}\,K_s)^2\;/\;\|K_s\|^2$",
    ),
    "edge_of_stability": Metric(
        (TRAIN,),
        "learning rate over stability bound, times the kernel's largest eigenvalue "
        "over its start: above 1, descent on the present kernel diverges",
        "1",
        "learning rate / largest stable one",
    ),
    "eigenvalue": Metric(
        (TRAIN,),
        "the k-th largest of the train-train kernel averaged over outputs, k from 1 to "
        f"{N_EIGENVALUES}",
        "outputs^2 / parameters^2",
        "eigenvalue",
        per_layer=True,
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
        "2 (1 + momentum) / (c * curvature * largest_eigenvalue + ridge), with the "
        "largest curvature of the loss by an output (squared 1, softmax 1/2, logistic "
        "1/4): full-batch descent on the kernel is stable below it",
        "parameters^2 / loss",
        "largest stable learning rate",
    ),
    "kernel_error": Column(
        "float64",
        "||K - exact|| / ||exact||, Frobenius, of the estimated train-train kernel "
        "averaged over outputs; kernel.measure_error=true only",
        "1",
        "error of the kernel",
    ),
    "kernel_error_law": Column(
        "float64",
        "the root mean square of kernel_error over draws, by the exact kernel",
        "1",
        "expected error of the kernel",
    ),
    "limit_distance": Column(
        "float64",
        "||K - K_inf|| / ||K_inf||, Frobenius, of the network's train-train kernel "
        "averaged over outputs, at initialisation, and the infinite-width one at the "
        "same parameterization, in equinox's at the same width and of Gaussian "
        "weights; kernel.measure_limit=true only",
        "1",
        "distance to the infinite-width kernel",
    ),
    "limit_missing": Column("str", "why limit_distance is empty"),
    "loss_peak": Column(
        "float64",
        "largest training loss at a recorded step over that at the start",
        "1",
        "peak of the training loss / its start",
    ),
    "drift_halfway": Column(
        "float64",
        "first recorded step by which kernel_drift is half of its last value, over "
        "all steps",
        "1",
        "fraction of training until half of the kernel's drift",
    ),
    "target_alignment_gain": Column(
        "float64",
        "target_alignment at the last step minus that at the start",
        "1",
        "gain of alignment with the targets",
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
    "accuracy_folds": Column(
        "float64",
        "mean over the folds of a cross-validation of the fraction classified right; "
        "task=classification only",
        "1",
        "accuracy",
    ),
    "tuned": Column(
        "str", "what was chosen on halves of the data; task=classification only"
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
    "interval": Column("str", "`t`, `bootstrap`, or `none` for a single value"),
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
    "note": Column("str", "why there is no fit, or what was left out of it"),
}
# What the study expects, a row for each combination of values it is expected of.
VERDICT_COLUMNS = {
    "expectation": Column("str", "its name in the study's `analysis.expect`"),
    "metric": Column("str", "the column of runs.csv, or column / column"),
    "quantity": Column("str", "`slope`, `value`, `ratio` or `difference`"),
    "x": Column("str", "for a slope: the column of runs.csv along which it was fitted"),
    "where": Column("str", "the runs it is about, as `column=value`"),
    "versus": Column("str", "what differs in the runs they are compared with"),
    "n_runs": Column("int64", "runs it is about"),
    "measured": Column("float64", "the quantity", "1 for slope and ratio"),
    "low": Column("float64", "lower end of its 95 % interval", "as measured"),
    "high": Column("float64", "upper end of its 95 % interval", "as measured"),
    "interval": Column("str", "`t`, `bootstrap`, or `none` for a single value"),
    "band_low": Column("float64", "lowest value expected", "as measured"),
    "band_high": Column("float64", "highest value expected", "as measured"),
    "published": Column("str", "what theory or a paper says"),
    "verdict": Column(
        "str",
        "whether measured lies in the band: `met`, `not met`; "
        "`no answer` when these runs do not say",
    ),
    "note": Column("str", "why there is no answer, or what was left out"),
}

# Of two sets of runs, after the config values that both swept.
COMPARISON_COLUMNS = {
    "metric": Column("str", "the column of runs.csv"),
    "n_first": Column("int64", "runs of the first side"),
    "first": Column("float64", "their mean", "the metric's"),
    "n_second": Column("int64", "runs of the second side"),
    "second": Column("float64", "their mean", "the metric's"),
    "difference": Column("float64", "second minus first", "the metric's"),
    "low": Column("float64", "lower end of its 95 % interval", "the metric's"),
    "high": Column("float64", "upper end of its 95 % interval", "the metric's"),
    "ratio": Column("float64", "second over first", "1"),
}

_CONFIG_LABELS = {
    "model.output_scale": "output scale",
    "parameterization.scheme": "parameterization",
    "model.width": "width (units per hidden layer)",
    "model.depth": "depth (hidden layers)",
    "kernel.proj_dim": "random projections",
    "kernel.n_samples": "initialisations sampled",
    "dataset.n_train": "training examples",
    "optimizer.learning_rate": "learning rate",
}


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
