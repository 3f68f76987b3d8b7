"""How far an estimated kernel is from what it estimates, and how far it should be."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Array

import equintk as nt
from experiments.kernels import Kernels, limit
from experiments.schema import (
    InfiniteConfig,
    KernelConfig,
    MonteCarloConfig,
    NNGPConfig,
)


def measure(
    config: KernelConfig, kernel: Kernels, model: Any, x_train: Array
) -> dict[str, float]:
    """Relative error of the train-train kernel, averaged over outputs; and its law.

    Args:
        config: how it was estimated.
        kernel: the estimate.
        model: the network whose kernel it is.
        x_train: the training inputs.

    Returns:
        columns of `summary.csv`; nothing for kernels that are exact, and for the
        sampled NNGP only where `measure_error` asks for its limit.
    """
    match config:
        case MonteCarloConfig() if config.measure_error:
            full = nt.ntk_full(model, x_train, batch_size=config.batch_size)
            full = np.asarray(full, np.float64)
            exact = _averaged(full)
            law = projection_law(full, config.proj_dim)
        case NNGPConfig() if config.measure_error:
            exact = np.asarray(nt.infinite_nngp(model, x_train), np.float64)
            out_dim = jax.eval_shape(model, x_train[0]).size
            law = sampling_law(exact, config.n_samples * out_dim)
        case _:
            return {}
    distance = np.linalg.norm(_averaged(np.asarray(kernel.train_train)) - exact)
    return {
        "kernel_error": float(distance / np.linalg.norm(exact)),
        "kernel_error_law": law,
    }


def to_the_limit(
    config: KernelConfig, kernel: Kernels, model: Any, x_train: Array
) -> dict[str, float | str]:
    """How far the network's kernel is from that of infinite width, at initialisation.

    Args:
        config: which kernel predicts, and whether this distance is asked for.
        kernel: what it gave.
        model: the network.
        x_train: the training inputs.

    Returns:
        columns of `summary.csv`: the distance, or why there is none.
    """
    if not config.measure_limit:
        return {}
    if isinstance(config, InfiniteConfig):
        infinite = kernel.train_train
    else:
        try:
            infinite = limit(model, x_train)
        except (nt.NoLimitError, ValueError) as error:  # none, or not to its tolerance
            return {"limit_distance": "", "limit_missing": str(error)}
    infinite = _averaged(np.asarray(infinite, np.float64))
    own = np.asarray(nt.ntk(model, x_train, batch_size=config.batch_size))
    distance = np.linalg.norm(own - infinite) / np.linalg.norm(infinite)
    return {"limit_distance": float(distance), "limit_missing": ""}


def projection_law(full: np.ndarray, proj_dim: int) -> float:
    """Root mean square relative error of Gaussian projections, by their variance.

    Args:
        full: the exact kernel with outputs coupled, `(n, n, out, out)`.
        proj_dim: how many projections.

    Source: Isserlis' theorem for `z_i^a . z_j^b`, products of Gaussian vectors.
    """
    own = np.einsum("iiab->iab", full)
    variance = np.einsum("iab,jab->", own, own) + np.einsum("ijab,ijba->", full, full)
    n_out = full.shape[2]
    exact = np.linalg.norm(_averaged(full))
    return float(np.sqrt(variance / proj_dim) / n_out / exact)


def sampling_law(exact: np.ndarray, n_outputs: int) -> float:
    """Root mean square relative error of products of Gaussian outputs.

    Args:
        exact: the NNGP kernel, `(n, n)`.
        n_outputs: independent outputs averaged over: networks times outputs.
    """
    spread = np.trace(exact) ** 2 / np.sum(exact**2)
    return float(np.sqrt((1 + spread) / n_outputs))


def _averaged(kernel: np.ndarray) -> np.ndarray:
    """`(n, n)`, the average over outputs where they are coupled."""
    if kernel.ndim == 2:
        return kernel
    return np.einsum("ijaa->ij", kernel) / kernel.shape[2]
