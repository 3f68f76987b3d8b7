"""One run, from config to tables: the file to read first.

data, network ──> kernel ──> prediction ─┐
            └──────────────> training ───┴──> comparison ──> rows
"""  # noqa: D208

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np

import equintk as nt
from experiments import (
    classification,
    compare,
    console,
    datasets,
    kernel_errors,
    kernels,
    landmarks,
    losses,
    models,
    regimes,
    times,
    training,
)
from experiments.datasets import Dataset
from experiments.kernels import Kernels
from experiments.schema import (
    ClassificationConfig,
    Config,
    ConfigError,
    CustomModelConfig,
    ModelConfig,
    NNGPConfig,
    ParameterizationConfig,
    ScaledConfig,
)
from experiments.tables import ALL_LAYERS, TEST, summary_column
from experiments.watch import Watch


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
    if isinstance(config.task, ClassificationConfig):
        return Results([], classification.run(config))
    began = time.monotonic()
    jax.config.update("jax_enable_x64", config.precision.x64)
    # Accelerators round products of float32 to fewer digits by default.
    jax.config.update("jax_default_matmul_precision", "highest")
    dataset = datasets.build(config.dataset)
    _refuse_rank(config, dataset)
    objective = losses.build(config.loss, dataset)
    x_train, x_test = (
        jnp.asarray(a, jnp.result_type(float))
        for a in (dataset.x_train, dataset.x_test)
    )
    draw = _network(config, dataset)
    model_key, kernel_key = jr.split(jr.key(config.seed))
    model = draw(model_key)

    with console.progress(f"{config.kernel.name} kernel") as progress:
        kernel = kernels.build(
            config.kernel, model, draw, kernel_key, x_train, x_test, progress
        )
    largest = 2 / float(nt.metrics.max_learning_rate(kernel.tangent))
    regime = regimes.build(config, objective, largest)
    steps = times.build(config.time_grid)

    curves: list[tuple[Any, ...]] = []
    summary: dict[str, Any] = {
        "n_params": sum(a.size for a in jtu.tree_leaves(models.layers(model))),
        "learning_rate": regime.learning_rate,
        "largest_eigenvalue": largest,
        "stability_bound": regime.stability_bound,
        **kernel_errors.measure(config.kernel, kernel, model, x_train),
        **kernel_errors.to_the_limit(config.kernel, kernel, model, x_train),
    }
    if isinstance(config.kernel, NNGPConfig) and objective.is_squared:
        summary |= _posterior(config, kernel, dataset, objective.c)
    for network in kernel.networks:
        trainable = eqx.is_inexact_array
        if network != ALL_LAYERS:
            trainable = models.readout_only(model, x_train[0])
        watch = Watch(
            model, x_train, dataset.y_train, regime, trainable, config.kernel.batch_size
        )
        with console.progress("training") as progress:
            trained = training.train(
                model, regime, x_train, x_test, steps,
                trainable=trainable, on_time=watch, progress=progress,
            )  # fmt: skip
        predicted = regime.predict(kernel.train_train, kernel.test_train, trained)
        measured = [
            *compare.trajectories(trained, predicted, dataset, objective),
            *watch.seen,
        ]
        flow_times = times.flow_time(steps, regime.learning_rate)
        when = dict(zip(steps.tolist(), flow_times, strict=True))
        curves += [
            (run_id, config.seed, config.kernel.name, network,
             m.step, when[m.step], m.split, m.metric, m.value)
            for m in measured
        ]  # fmt: skip
        secondary = None if network == kernel.networks[0] else network
        if secondary is None:
            summary |= landmarks.of(measured)
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
    # A user's code may change while the process lives, unseen by a compilation.
    own = isinstance(config.model, CustomModelConfig)
    draw = _drawn if own else _compiled_draw
    # all scales share the compilation of what is scaled
    bare = dataclasses.replace(config.model, output_scale=1.0, centred=False)
    return lambda key: models.rescaled(
        config.model, draw(bare, config.parameterization, *shapes, key)
    )


def _drawn(
    config: ModelConfig,
    parameterization: ParameterizationConfig,
    in_dim: int,
    out_dim: int,
    image_shape: tuple[int, int, int] | None,
    key: Any,
) -> eqx.Module:
    model = models.build(config, in_dim, out_dim, image_shape, key)
    if isinstance(parameterization, ScaledConfig):
        model = nt.parameterize(
            model,
            jax.ShapeDtypeStruct((in_dim,), jnp.result_type(float)),
            key,
            parameterization.scheme.name,
            W_std=parameterization.weight_variance**0.5,
            b_std=parameterization.bias_variance**0.5,
        )
    return model


# Compiled, since drawing layer by layer costs more than what is done with small
# networks; all seeds share the compilation.
_compiled_draw = nt.filter_jit(_drawn)


def _posterior(
    config: Config, kernel: Kernels, dataset: Dataset, c: float
) -> dict[str, float]:
    """The Gaussian process posterior mean on the test inputs, against their targets."""
    y = dataset.y_train
    flow = nt.predict.GradientFlow(kernel.train_train, y, c=c, ridge=config.ridge)
    zeros = (np.zeros_like(a, kernel.train_train.dtype) for a in (y, dataset.y_test))
    mean = np.asarray(flow.test(jnp.inf, kernel.test_train, *zeros))
    rmse = np.sqrt(np.mean((mean - dataset.y_test) ** 2))
    found = {"posterior_rmse_test": float(rmse)}
    accuracy = dataset.accuracy(mean, TEST)
    if accuracy is not None:
        found["posterior_accuracy_test"] = float(accuracy)
    return found


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
