"""The types, units and ranges of every config value; `conf/` holds the values.

Imports no jax, so that `--help`, `--cfg job` and a refused value answer at once.
"""

import contextlib
import dataclasses
import difflib
import enum
import hashlib
import importlib.util
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from experiments import question
from experiments.question import AnalysisConfig


def between(low: float, high: float = math.inf, *, open_low: bool = False) -> Any:
    """A config value without a default whose range is checked before any run."""
    return field(
        default=MISSING, metadata={"low": low, "high": high, "open_low": open_low}
    )


def own_code() -> Any:
    """A function of the user's, as `module:function`; its file is part of identity."""
    return field(default=MISSING, metadata={"own": "code"})


def own_file() -> Any:
    """A file of the user's, whose content is part of identity."""
    return field(default=MISSING, metadata={"own": "file"})


Activation = enum.Enum("Activation", ["erf", "relu", "tanh", "gelu"])
Targets = enum.Enum("Targets", ["numbers", "classes"])
Pooling = enum.Enum("Pooling", ["mean", "flatten"])
Classifier = enum.Enum("Classifier", ["ntk", "nngp", "svm", "random_forest"])
Picture = enum.Enum("Picture", ["china", "flower"])
Scheme = enum.Enum("Scheme", ["equinox", "ntk", "standard", "mup", "mean_field"])
# Squared losses by their scale; cross-entropies, means over examples.
Loss = enum.Enum("Loss", ["sum", "mean_over_examples", "mean", "softmax", "logistic"])
Projection = enum.Enum("Projection", ["gaussian", "rademacher", "sketch"])
Dynamics = enum.Enum("Dynamics", ["descent", "flow"])
LearningRateUnit = enum.Enum("LearningRateUnit", ["absolute", "stability_bound"])


# Models and parameterizations are hashable, for the sake of compilations that runs
# share; nothing changes a config once it is typed.
@dataclass(unsafe_hash=True)
class ModelConfig:
    """What every model has."""

    name: str = MISSING
    width: int = between(1)  # units, or channels, of each hidden layer
    depth: int = between(1)  # number of hidden layers
    # The network is output_scale * f(x), or output_scale * (f(x) - f at its start).
    output_scale: float = field(
        default=1.0,
        kw_only=True,
        metadata={"low": 0, "high": math.inf, "open_low": True},
    )
    centred: bool = field(default=False, kw_only=True)


@dataclass(unsafe_hash=True)
class MLPConfig(ModelConfig):
    """A fully connected network."""

    activation: Activation = MISSING


@dataclass(unsafe_hash=True)
class CNNConfig(ModelConfig):
    """Convolutions of stride one, then a mean over pixels or a flattening."""

    activation: Activation = MISSING
    kernel_size: int = between(1)  # pixels
    pooling: Pooling = MISSING


@dataclass(unsafe_hash=True)
class SirenConfig(ModelConfig):
    """A coordinate network: sine activations, the first with a frequency of its own."""

    omega: float = between(0, open_low=True)  # radians per unit of the coordinates


@dataclass(unsafe_hash=True)
class ResidualMLPConfig(ModelConfig):
    """`h + activation(W h)` in every hidden layer."""

    activation: Activation = MISSING


@dataclass(unsafe_hash=True)
class CustomModelConfig(ModelConfig):
    """A network of the user's: `build(key, in_shape, out_dim, width)` returns it."""

    build: str = own_code()


@dataclass
class DatasetConfig:
    """What every data set has. Its seed splits the data; the run's seed does not."""

    name: str = MISSING
    seed: int = between(0)


@dataclass
class SplitConfig(DatasetConfig):
    """A data set of which `n_train` + `n_test` examples are drawn."""

    n_train: int = between(1)
    n_test: int = between(1)


@dataclass
class DigitsConfig(SplitConfig):
    """scikit-learn's 8x8 digits: two classes give targets +-1, more one column each."""

    classes: list[int] = MISSING


@dataclass
class TeacherConfig(SplitConfig):
    """A random tanh network of one hidden layer labels Gaussian inputs."""

    in_dim: int = between(1)
    teacher_width: int = between(1)


@dataclass
class ImageConfig(DatasetConfig):
    """Colours of a picture at its pixels: a checkerboard trains, the rest tests."""

    picture: Picture = MISSING
    size: int = between(2, 512)  # pixels along each side


@dataclass
class OwnDataConfig(SplitConfig):
    """A data set of the user's, of which examples are drawn."""

    targets: Targets = MISSING
    standardise: bool = MISSING  # inputs, and numbers as targets, by the training set


@dataclass
class FileConfig(OwnDataConfig):
    """An .npz file with the arrays x and y, or a .csv file with named columns."""

    path: str = own_file()
    columns: list[str] = MISSING  # of a .csv file: which are the targets


@dataclass
class OpenMLConfig(OwnDataConfig):
    """A data set of openml.org, which is fetched once and kept by scikit-learn."""

    openml: str = MISSING
    version: int = between(1)


@dataclass
class CustomDatasetConfig(OwnDataConfig):
    """A function of the user's: `build(n, seed)` returns x and y of n examples."""

    build: str = own_code()


@dataclass
class TaskConfig:
    """What a run does with its data set: `training` compares network and kernel."""

    name: str = MISSING


@dataclass
class ClassificationConfig(TaskConfig):
    """A classifier, tuned on halves and judged by cross-validation; no network."""

    classifier: Classifier = MISSING
    n_folds: int = between(2)
    max_depth: int = between(1)  # of the networks whose kernels are tried


@dataclass
class KernelConfig:
    """What every kernel has."""

    name: str = MISSING
    batch_size: int = between(1)  # examples whose Jacobians are held at once
    # Compute how far the network's kernel is from that of infinite width, too.
    measure_limit: bool = field(default=False, kw_only=True)


@dataclass
class ExactConfig(KernelConfig):
    """The network's own tangent kernel at initialisation."""

    coupled: bool = MISSING  # the full kernel over outputs, or its average


@dataclass
class MonteCarloConfig(ExactConfig):
    """The tangent kernel estimated from random projections of the gradients."""

    proj_dim: int = between(1)  # error falls as 1/sqrt(proj_dim)
    method: Projection = MISSING  # how gradients are projected
    measure_error: bool = MISSING  # compute the exact kernel too


@dataclass
class NNGPConfig(KernelConfig):
    """The covariance of the outputs over initialisations: the readout trains alone."""

    n_samples: int = between(1)  # error falls as 1/sqrt(n_samples)
    measure_error: bool = MISSING  # compute the infinite width's NNGP too


@dataclass
class InfiniteConfig(KernelConfig):
    """The tangent kernel of the network's architecture at infinite width."""


@dataclass
class CustomKernelConfig(KernelConfig):
    """A function of the user's: `build(model, key, x_train, x_test)`.

    It returns the train-train and the test-train kernel.
    """

    build: str = own_code()


@dataclass(unsafe_hash=True)
class ParameterizationConfig:
    """How weights are drawn and multiplied; `equinox` leaves the model alone."""

    scheme: Scheme = MISSING


@dataclass(unsafe_hash=True)
class ScaledConfig(ParameterizationConfig):
    """A scheme of `equintk.parameterize`."""

    weight_variance: float = between(0, open_low=True)  # W_std squared
    bias_variance: float = between(0)  # b_std squared


@dataclass
class TimeGridConfig:
    """At which training steps everything is measured; 0 and `steps` always are."""

    name: str = MISSING
    steps: int = between(1)
    n_times: int = between(1)  # at most so many steps after 0


@dataclass
class OptimizerConfig:
    """Full-batch gradient descent."""

    name: str = MISSING
    learning_rate: float = between(0, open_low=True)
    learning_rate_unit: LearningRateUnit = MISSING


@dataclass
class MomentumConfig(OptimizerConfig):
    """Full-batch gradient descent with heavy-ball momentum."""

    momentum: float = between(0, 0.999)  # velocity = momentum * velocity + gradient


@dataclass
class MinibatchConfig(MomentumConfig):
    """Steps on a part of the examples each, in an order drawn by the run's seed."""

    batch_size: int = between(1)  # examples of a step


@dataclass
class PrecisionConfig:
    """The precision of network and kernel; eigenproblems are solved in float64."""

    x64: bool = MISSING


@dataclass
class ClaimsConfig:
    """How sweeps that run at once agree on who computes what."""

    heartbeat: float = between(0, open_low=True)  # seconds between signs of life
    stale: float = between(0, open_low=True)  # seconds of silence until a run is free


# JAX keeps 32 bits of a seed in single precision: 2**32 would draw what 0 draws.
_LARGEST_SEED = 2**32 - 1


@dataclass
class Config:
    """A job: `seeds` runs that differ in their seed alone."""

    task: TaskConfig = MISSING
    model: ModelConfig = MISSING
    dataset: DatasetConfig = MISSING
    kernel: KernelConfig = MISSING
    parameterization: ParameterizationConfig = MISSING
    time_grid: TimeGridConfig = MISSING
    optimizer: OptimizerConfig = MISSING
    precision: PrecisionConfig = MISSING
    # c/2 * sum (f - y)^2 with c = 1, 1/n_train, 1/(n_train*out), or a cross-entropy
    loss: Loss = MISSING
    dynamics: Dynamics = (
        MISSING  # of the prediction: steps of gradient descent, or flow
    )
    ridge: float = between(0)  # ridge/2 * |theta - theta_0|^2 is added to the loss
    seed: int = between(0, _LARGEST_SEED)
    # Short names that the groups above refer to, so that sweeps stay short.
    width: int = between(1)
    depth: int = between(1)
    proj_dim: int = between(1)
    n_samples: int = between(1)
    n_train: int = between(1)
    n_test: int = between(1)
    steps: int = between(1)
    # Where results go, and what is done with them.
    seeds: int = between(1)
    study: str = MISSING
    output_dir: str = MISSING
    force: bool = MISSING  # run again what is already there
    retry: bool = MISSING  # run again what failed
    dry_run: bool = MISSING  # say what would run, and run nothing
    objective: str | None = MISSING  # summary column that a search makes small
    compilation_cache: bool = MISSING  # keep compiled programs on disk
    claims: ClaimsConfig = MISSING
    analysis: AnalysisConfig = MISSING


# What decides a run's results: the groups hold whatever short names they use.
IDENTITY = (
    "task", "model", "dataset", "kernel", "parameterization", "time_grid", "optimizer",
    "precision", "loss", "dynamics", "ridge", "seed",
)  # fmt: skip

# What a task does without makes no other run of it.
_USED = {
    "training": IDENTITY,
    "classification": ("task", "dataset", "seed"),
}

CHOICES: dict[str, dict[str, type]] = {
    "task": {"training": TaskConfig, "classification": ClassificationConfig},
    "model": {
        "mlp": MLPConfig,
        "cnn": CNNConfig,
        "siren": SirenConfig,
        "residual_mlp": ResidualMLPConfig,
        "custom": CustomModelConfig,
    },
    "dataset": {
        "digits": DigitsConfig,
        "bundled": SplitConfig,
        "teacher": TeacherConfig,
        "image": ImageConfig,
        "file": FileConfig,
        "openml": OpenMLConfig,
        "custom": CustomDatasetConfig,
    },
    "kernel": {
        "exact": ExactConfig,
        "mc": MonteCarloConfig,
        "nngp": NNGPConfig,
        "infinite": InfiniteConfig,
        "custom": CustomKernelConfig,
    },
    "parameterization": {"equinox": ParameterizationConfig, "scaled": ScaledConfig},
    "time_grid": {"log": TimeGridConfig, "linear": TimeGridConfig},
    "optimizer": {
        "sgd": OptimizerConfig,
        "momentum": MomentumConfig,
        "minibatch": MinibatchConfig,
    },
    "precision": {"any": PrecisionConfig},
}


def register() -> None:
    """Tell Hydra the schemas; called once, before a config is composed."""
    store = ConfigStore.instance()
    store.store(group="schema", name="config", node=Config, package="_global_")
    for group, choices in CHOICES.items():
        for name, node in choices.items():
            store.store(name, node, group=f"schema/{group}", package=group)


class ConfigError(ValueError):
    """A config that can be composed but not run; says every problem at once."""


def typed(config: DictConfig) -> Config:
    """The config as dataclasses, checked.

    Raises:
        ConfigError: naming each value out of its range, the range, and what to type.
    """
    found = OmegaConf.to_object(config)
    assert isinstance(found, Config)
    problems = [*_out_of_range(found, ""), *_contradictions(found)]
    # A short name is repeated in the group that refers to it: once is enough.
    problems = [p for p in problems if not any(p.endswith(f".{q}") for q in problems)]
    if problems:
        raise ConfigError("\n".join(problems))
    return found


def identity(config: Config) -> dict[str, Any]:
    """What decides a run's results, as plain values."""
    found = {key: _plain(getattr(config, key)) for key in _USED[config.task.name]}
    for key in found:
        node = getattr(config, key)
        for f in dataclasses.fields(node) if dataclasses.is_dataclass(node) else ():
            if "own" in f.metadata:
                digest = _digest(getattr(node, f.name), f.metadata["own"])
                found[key][f"{f.name}_digest"] = digest
    return found


def plain(config: Config) -> dict[str, Any]:
    """The whole config as plain values."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def nearest_key(wrong: str) -> str | None:
    """The config key that a mistyped one most likely meant."""
    keys = {f.name for f in dataclasses.fields(Config)}
    for group, choices in CHOICES.items():
        for node in choices.values():
            keys |= {f"{group}.{f.name}" for f in dataclasses.fields(node)}
    for group, node in (("analysis", AnalysisConfig), ("claims", ClaimsConfig)):
        keys |= {f"{group}.{f.name}" for f in dataclasses.fields(node)}
    wrong = wrong.lstrip("+~")
    if wrong in keys or wrong.startswith(("hydra", "experiment")):
        return None
    close = difflib.get_close_matches(wrong, sorted(keys), n=1, cutoff=0.6)
    return close[0] if close else None


def _out_of_range(node: Any, prefix: str) -> Iterator[str]:
    """One line for each number below `node` that is outside its range."""
    for f in dataclasses.fields(node):
        value, name = getattr(node, f.name), f"{prefix}{f.name}"
        if dataclasses.is_dataclass(value):
            yield from _out_of_range(value, f"{name}.")
        elif "low" in f.metadata:
            low, high = f.metadata["low"], f.metadata["high"]
            too_low = value <= low if f.metadata["open_low"] else value < low
            if too_low or value > high or not math.isfinite(value):
                least = "above" if f.metadata["open_low"] else "at least"
                most = "" if math.isinf(high) else f" and at most {high}"
                yield f"{name}={value} is out of range: it must be {least} {low}{most}."


def _contradictions(config: Config) -> Iterator[str]:
    """One line for each pair of values that cannot go together."""
    for group, choices in CHOICES.items():
        node = getattr(config, group)
        if choices.get(getattr(node, "name", ""), type(node)) is not type(node):
            yield (
                f"{group}.name={node.name} does not fit the other values of `{group}`. "
                f"Type {group}={node.name}, which brings its own."
            )
    scheme = config.parameterization.scheme
    if config.kernel.name == "nngp" and scheme is not Scheme.ntk:
        yield (
            "kernel=nngp predicts the training of the last layer alone, whose tangent "
            "kernel is the NNGP kernel in the ntk parameterization only. Type "
            "parameterization=ntk, or kernel=exact."
        )
    yield from question.problems(config.analysis)
    if scheme is Scheme.mean_field and config.model.depth != 1:
        yield (
            f"parameterization=mean_field is that of one hidden layer, but the model "
            f"has depth={config.model.depth}. Type depth=1, or parameterization=mup."
        )
    yield from _no_regime(config)
    yield from _not_given(config)
    last = config.seed + config.seeds - 1
    if config.seed <= _LARGEST_SEED < last:
        yield (
            f"seed={config.seed} with seeds={config.seeds} goes up to {last}, but "
            f"{_LARGEST_SEED} is the largest seed. Type a smaller seed."
        )
    if config.claims.stale < 3 * config.claims.heartbeat:
        yield (
            f"claims.stale={config.claims.stale} is so close to claims.heartbeat="
            f"{config.claims.heartbeat} that a busy run would be taken for a dead one. "
            f"Type claims.stale={3 * config.claims.heartbeat:g} or more."
        )
    for name in ("study", "output_dir"):
        if not getattr(config, name).strip():
            yield f"{name} is empty; give a name such as {name}=default."
    if any(part[:1] in ("_", ".") for part in config.study.split("/") if part):
        yield (
            f"study={config.study} would not be found again: names that start with `_` "
            "or `.` are not runs. Type another name, or output_dir= for another place."
        )


def _not_given(config: Config) -> Iterator[str]:
    """One line for each function or file of the user's that has no name yet."""
    for group in CHOICES:
        node = getattr(config, group)
        for f in dataclasses.fields(node):
            value = getattr(node, f.name)
            if f.metadata.get("own") == "code" and not _names_a_function(value):
                yield (
                    f"{group}.{f.name}={value} must name a function of yours, as "
                    f"{group}.{f.name}=my_module:{f.name}."
                )
            elif f.metadata.get("own") == "file" and not value:
                yield f"{group}.{f.name} is empty; type {group}.{f.name}=FILE."


def _names_a_function(text: str) -> bool:
    module, _, name = text.partition(":")
    return name.isidentifier() and all(p.isidentifier() for p in module.split("."))


def _digest(name: str, kind: str) -> str:
    """Of a user's file: when it changes, so do the results."""
    try:
        if kind == "code":
            # As `python -m` does, but also from a console script.
            with _importable_from_here():
                spec = importlib.util.find_spec(name.partition(":")[0])
            path = Path(spec.origin) if spec and spec.origin else None
        else:
            path = Path(name)
        content = path.read_bytes() if path else b""
    except (OSError, ImportError, ValueError):
        return "missing"  # which the run will say
    return "d" + hashlib.sha256(content).hexdigest()[:12]


@contextlib.contextmanager
def _importable_from_here() -> Iterator[None]:
    sys.path.insert(0, os.getcwd())
    try:
        yield
    finally:
        sys.path.remove(os.getcwd())


_REGRESSIONS = ("diabetes", "teacher", "image")


def _no_regime(config: Config) -> Iterator[str]:
    """One line for each reason why nothing predicts what is asked for."""
    if config.dynamics is Dynamics.flow and config.optimizer.name != "sgd":
        yield (
            f"optimizer={config.optimizer.name} takes steps that no gradient flow "
            "follows. Type dynamics=descent, or optimizer=sgd."
        )
    if config.loss not in (Loss.softmax, Loss.logistic):
        return
    dataset = config.dataset
    if isinstance(dataset, DigitsConfig):
        wanted = Loss.logistic if len(dataset.classes) == 2 else Loss.softmax
        if config.loss is not wanted:
            yield (
                f"loss={config.loss.name} does not fit the {len(dataset.classes)} "
                f"classes of dataset.classes={list(dataset.classes)}. Type loss="
                f"{wanted.name}."
            )
    elif dataset.name in _REGRESSIONS:
        yield (
            f"loss={config.loss.name} needs classes, but dataset={dataset.name} is a "
            "regression. Type loss=mean, or dataset=digits_3v8 or dataset=digits10."
        )


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {
            f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)
        }
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
