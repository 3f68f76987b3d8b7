"""One run, from config to tables: the file to read first.

data, network ──> kernel ──> prediction ─┐
            └──────────────> training ───┴──> comparison ──> rows
"""  # noqa: D208

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array

import equintk as nt
from experiments import compare, console, datasets, kernels, models, times, training
from experiments.compare import Measurement
from experiments.datasets import Dataset
from experiments.kernels import Kernels
from experiments.schema import (
    Config,
    ConfigError,
    Dynamics,
    ModelConfig,
    NNGPConfig,
    ParameterizationConfig,
    ScaledConfig,
)
from experiments.tables import ALL_LAYERS, TEST, summary_column
from experiments.trajectory import Trajectory


class Results(NamedTuple):
    """What a run found: rows of `curves.csv`, and the scalars of `summary.csv`."""

    curves: list[tuple[Any, ...]]
    summary: dict[str, Any]


def run(config: Config, run_id: str) -> Results:
    """Compute a run; nothing is written.

    Raises:
        ConfigError: if the data shows that the config cannot run.
        FloatingPointError: if training diverges.
    """
    began = time.monotonic()
    jax.config.update("jax_enable_x64", config.precision.x64)
    # Accelerators round products of float32 to fewer digits by default.
    jax.config.update("jax_default_matmul_precision", "highest")
    dataset = datasets.build(config.dataset)
    _refuse_rank(config, dataset)
    x_train, y_train, x_test = (
        jnp.asarray(a, jnp.result_type(float))
        for a in (dataset.x_train, dataset.y_train, dataset.x_test)
    )
    draw = _network(config, dataset)
    model_key, kernel_key = jr.split(jr.key(config.seed))
    model = draw(model_key)

    with console.progress(f"{config.kernel.name} kernel") as progress:
        kernel = kernels.build(
            config.kernel, model, draw, kernel_key, x_train, x_test, progress
        )
    c = nt.loss_scale(config.loss.name, y_train)
    largest = 2 / nt.metrics.max_learning_rate(kernel.tangent)
    bound = 2 / (c * float(largest) + config.ridge)
    learning_rate = times.learning_rate(config.optimizer, bound)
    steps = times.build(config.time_grid)

    curves: list[tuple[Any, ...]] = []
    summary: dict[str, Any] = {
        "n_params": sum(a.size for a in jtu.tree_leaves(models.layers(model))),
        "learning_rate": learning_rate,
        "largest_eigenvalue": float(largest),
        "stability_bound": bound,
    }
    if isinstance(config.kernel, NNGPConfig):
        summary |= _posterior(config, kernel, dataset, y_train, c)
    for network in kernel.networks:
        trainable = eqx.is_inexact_array
        if network != ALL_LAYERS:
            trainable = models.readout_only(model)
        watch = _Watch(model, x_train, trainable, config.kernel.batch_size)
        with console.progress("training") as progress:
            trained = training.train(
                model, x_train, y_train, x_test, steps,
                learning_rate=learning_rate, c=c, ridge=config.ridge,
                trainable=trainable, on_time=watch, progress=progress,
            )  # fmt: skip
        predicted = _predict(config, kernel, y_train, trained, c, learning_rate)
        measured = [*compare.trajectories(trained, predicted, dataset, c), *watch.seen]
        flow_times = times.flow_time(steps, learning_rate)
        when = dict(zip(steps.tolist(), flow_times, strict=True))
        curves += [
            (run_id, config.seed, config.kernel.name, network,
             m.step, when[m.step], m.split, m.metric, m.value)
            for m in measured
        ]  # fmt: skip
        secondary = None if network == kernel.networks[0] else network
        summary |= {
            summary_column(m.metric, m.split, secondary): m.value
            for m in measured
            if m.step == steps[-1]
        }
    summary["seconds"] = round(time.monotonic() - began, 3)
    return Results(curves, summary)


def _network(config: Config, dataset: Dataset) -> Callable[[Any], eqx.Module]:
    """Draws the configured network, in the configured parameterization, from a key."""
    shapes = (dataset.x_train.shape[1], dataset.y_train.shape[1], dataset.image_shape)
    return lambda key: _draw(config.model, config.parameterization, *shapes, key)


# Compiled, since drawing layer by layer costs more than what is done with small
# networks; all seeds share the compilation.
@eqx.filter_jit
def _draw(
    config: ModelConfig,
    parameterization: ParameterizationConfig,
    in_dim: int,
    out_dim: int,
    image_shape: tuple[int, int, int] | None,
    key: Any,
) -> eqx.Module:
    model = models.build(config, in_dim, out_dim, image_shape, key)
    if not isinstance(parameterization, ScaledConfig):
        return model
    return nt.parameterize(
        model,
        jax.ShapeDtypeStruct((in_dim,), jnp.result_type(float)),
        key,
        parameterization.scheme.name,
        W_std=parameterization.weight_variance**0.5,
        b_std=parameterization.bias_variance**0.5,
    )


def _predict(
    config: Config,
    kernel: Kernels,
    y_train: Array,
    trained: Trajectory,
    c: float,
    learning_rate: float,
) -> Trajectory:
    """Outputs that the kernel predicts, from the network's own at the start."""
    given = {"c": c, "ridge": config.ridge}
    if config.dynamics is Dynamics.flow:
        dynamics = nt.predict.GradientFlow(kernel.train_train, y_train, **given)
        when = times.flow_time(trained.steps, learning_rate)
    else:
        dynamics = nt.predict.GradientDescent(
            kernel.train_train, y_train, learning_rate=learning_rate, **given
        )
        when = trained.steps
    f0_train, f0_test = trained.train[0], trained.test[0]
    return Trajectory(
        trained.steps,
        np.asarray(dynamics.train(when, f0_train)),
        np.asarray(dynamics.test(when, kernel.test_train, f0_train, f0_test)),
    )


def _posterior(
    config: Config, kernel: Kernels, dataset: Dataset, y_train: Array, c: float
) -> dict[str, float]:
    """The Gaussian process posterior mean on the test inputs, against their targets."""
    flow = nt.predict.GradientFlow(kernel.train_train, y_train, c=c, ridge=config.ridge)
    zeros = (jnp.zeros_like(y_train), jnp.zeros_like(dataset.y_test, y_train.dtype))
    mean = np.asarray(flow.test(jnp.inf, kernel.test_train, *zeros))
    rmse = np.sqrt(np.mean((mean - dataset.y_test) ** 2))
    found = {"posterior_rmse_test": float(rmse)}
    accuracy = dataset.accuracy(mean, TEST)
    if accuracy is not None:
        found["posterior_accuracy_test"] = float(accuracy)
    return found


class _Watch:
    """Measures a network at each recorded step: kernel drift and parameter movement."""

    def __init__(self, model: eqx.Module, x: Array, trainable: Any, batch_size: int):
        self.seen: list[Measurement] = []
        self._kernel = lambda model: nt.ntk(
            model, x, batch_size=batch_size, trainable=trainable
        )
        self._k0: Array | None = None
        self._start = _host(models.layers(model))

    def __call__(self, step: int, model: eqx.Module) -> None:
        kernel = self._kernel(model)
        self._k0 = kernel if self._k0 is None else self._k0
        drift = float(nt.metrics.kernel_drift(kernel, self._k0))
        self.seen.append(compare.kernel_drift(step, drift))
        self.seen += compare.movement(step, self._start, _host(models.layers(model)))


def _host(layers: dict[str, list[Array]]) -> dict[str, list[np.ndarray]]:
    return {name: [np.asarray(a) for a in arrays] for name, arrays in layers.items()}


def _refuse_rank(config: Config, dataset: Dataset) -> None:
    """A sampled NNGP of too low a rank cannot fit the training set."""
    if not isinstance(config.kernel, NNGPConfig) or config.ridge > 0:
        return
    n_train, out_dim = dataset.y_train.shape
    n_samples = config.kernel.n_samples
    rank = n_samples * out_dim
    if rank < n_train:
        raise ConfigError(
            f"kernel=nngp with n_samples={n_samples} has rank {rank} at most, but "
            f"there are {n_train} training examples and no ridge. Type n_samples="
            f"{-(-n_train // out_dim)} or more, or ridge=1e-3."
        )
