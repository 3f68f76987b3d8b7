"""The types, units and ranges of every config value; `conf/` holds the values.

`validation` holds configs to them, `identity` says which decide a run. Imports no jax,
so that `--help`, `--cfg job` and a refused value answer at once.
"""

import enum
import math
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

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
LARGEST_SEED = 2**32 - 1


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
    seed: int = between(0, LARGEST_SEED)
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
