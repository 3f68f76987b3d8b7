"""The kernels that predict a network's training, and the networks that they predict."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

import equintk as nt
from experiments import imports, models
from experiments.schema import (
    ConfigError,
    CustomKernelConfig,
    ExactConfig,
    InfiniteConfig,
    KernelConfig,
    MonteCarloConfig,
    NNGPConfig,
)
from experiments.tables import ALL_LAYERS, READOUT


@dataclass(frozen=True)
class Kernels:
    """A kernel on the data.

    Attributes:
        train_train: `(n, n)`, or `(n, n, *out, *out)` where outputs are coupled.
        test_train: `(m, n)`, or `(m, n, *out, *out)`.
        tangent: the tangent kernel of all parameters on the training inputs, which
            decides what learning rate is stable.
        networks: which networks to train, the one that the kernel predicts first:
            all parameters, or the readout alone.
    """

    train_train: Array
    test_train: Array
    tangent: Array
    networks: tuple[str, ...] = (ALL_LAYERS,)


def build(
    config: KernelConfig,
    model: Any,
    model_fn: Callable[[Any], eqx.Module],
    key: Any,
    x_train: Array,
    x_test: Array,
    progress: Callable[[int, int], object],
) -> Kernels:
    """The kernel that a config names, at initialisation.

    Args:
        config: which kernel, and what it costs.
        model: the network whose training is predicted.
        model_fn: draws networks like it.
        key: draws the projections, or the networks.
        x_train: `(n, in_dim)`.
        x_test: `(m, in_dim)`.
        progress: called with the parts done and the parts in all.
    """
    match config:
        case MonteCarloConfig():
            return _monte_carlo(config, model, key, x_train, x_test, progress)
        case ExactConfig():
            return _exact(config, model, x_train, x_test, progress)
        case NNGPConfig():
            return _nngp(config, model, model_fn, key, x_train, x_test, progress)
        case InfiniteConfig():
            return _infinite(config, model, x_train, x_test, progress)
        case CustomKernelConfig():
            return _custom(config, model, key, x_train, x_test)
    raise ValueError(
        f"There is no kernel `{config.name}`. Type kernel= one of exact, mc, nngp, "
        "infinite, custom."
    )


def _exact(config: ExactConfig, model, x_train, x_test, progress) -> Kernels:
    kernel = nt.ntk_full if config.coupled else nt.ntk
    k_tt = kernel(model, x_train, batch_size=config.batch_size, progress=progress)
    k_st = kernel(model, x_test, x_train, batch_size=config.batch_size)
    return Kernels(k_tt, k_st, k_tt)


def _monte_carlo(
    config: MonteCarloConfig, model, key, x_train, x_test, progress
) -> Kernels:
    # One draw for both: the test-train kernel must lie in the train-train one's span.
    both = nt.ntk_features(
        model, key, jnp.concatenate([x_train, x_test]), config.proj_dim,
        config.method.name, batch_size=config.batch_size, progress=progress,
    )  # fmt: skip
    n, out = len(x_train), both.shape[1:-1]
    z = both.reshape(len(both), -1, config.proj_dim)
    if config.coupled:
        k = jnp.einsum("iap,jbp->ijab", z, z[:n], precision="highest") * z.shape[1]
        k = k.reshape(k.shape[:2] + out + out)
    else:
        k = jnp.einsum("iap,jap->ij", z, z[:n], precision="highest")
    return Kernels(k[:n], k[n:], k[:n])


def _nngp(
    config: NNGPConfig, model, model_fn, key, x_train, x_test, progress
) -> Kernels:
    both = jnp.concatenate([x_train, x_test])
    k = nt.nngp(
        model_fn, key, both, x_train, config.n_samples,
        batch_size=config.batch_size, progress=progress,
    )  # fmt: skip
    n = len(x_train)
    # The network that is trained as a whole moves faster than its readout alone.
    tangent = nt.ntk_full(model, x_train, batch_size=config.batch_size)
    return Kernels(k[:n], k[n:], tangent, (READOUT, ALL_LAYERS))


def limit(
    model: Any, x1: Array, x2: Array | None = None, progress: Any = False
) -> Array:
    """The tangent kernel of a configured network's architecture at infinite width.

    Args:
        model: the network, in the parameterization that it was drawn in.
        x1: `(n1, in_dim)`.
        x2: `(n2, in_dim)`; `None` means `x1` again.
        progress: called with the parts done and the parts in all.

    Raises:
        NoLimitError: if the limit is not known.
        ValueError: if how parameters are drawn is not known, or an expectation cannot
            be computed to the tolerance.
    """
    if isinstance(model, models.Rescaled):
        # What is subtracted is fixed: no parameter moves it.
        return model.scale**2 * limit(model.module, x1, x2, progress)
    return nt.infinite_ntk(model, x1, x2, progress=progress)


def _infinite(config: InfiniteConfig, model, x_train, x_test, progress) -> Kernels:
    both = jnp.concatenate([x_train, x_test])
    try:
        k = limit(model, both, x_train, progress)
    except (nt.NoLimitError, ValueError) as error:  # none, or not to its tolerance
        raise ConfigError(
            f"kernel=infinite needs a model with a limit. {error} Type kernel=exact "
            "for the kernel of the network as it is."
        ) from error
    n = len(x_train)
    # The network that is trained has this width, and its own largest stable step.
    tangent = nt.ntk_full(model, x_train, batch_size=config.batch_size)
    return Kernels(k[:n], k[n:], tangent)


def _custom(config: CustomKernelConfig, model, key, x_train, x_test) -> Kernels:
    build = imports.function("kernel.build", config.build)
    k_tt, k_st = (jnp.asarray(k) for k in build(model, key, x_train, x_test))
    n, m = len(x_train), len(x_test)
    if k_tt.shape[:2] != (n, n) or k_st.shape != (m, *k_tt.shape[1:]):
        raise ConfigError(
            f"kernel.build={config.build} must return the train-train and the "
            f"test-train kernel, of shapes ({n}, {n}) and ({m}, {n}), or with output "
            f"axes behind, but they have {k_tt.shape} and {k_st.shape}."
        )
    return Kernels(
        k_tt, k_st, nt.ntk_full(model, x_train, batch_size=config.batch_size)
    )
