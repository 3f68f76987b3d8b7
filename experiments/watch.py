"""What is measured of a network as it trains: its kernel, and how far it moved."""

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array

import equintk as nt
from experiments import compare, models
from experiments.compare import Measurement
from experiments.regimes import Regime
from experiments.tables import N_EIGENVALUES, TRAIN


class Watch:
    """Called with each recorded step and the network then; keeps what it measured."""

    def __init__(
        self,
        model: eqx.Module,
        x_train: Array,
        y_train: np.ndarray,
        regime: Regime,
        trainable: Any,
        batch_size: int,
    ):
        """Start measuring.

        Args:
            model: the network before training.
            x_train: the training inputs.
            y_train: their targets as numbers, `(n_train, out_dim)`.
            regime: how it is trained.
            trainable: which parameters train.
            batch_size: examples whose Jacobians are held at once.
        """
        self.seen: list[Measurement] = []
        self._kernel = lambda model: nt.ntk(
            model, x_train, batch_size=batch_size, trainable=trainable
        )
        self._y, self._regime = y_train, regime
        self._k0: Array | None = None
        self._largest0 = 0.0
        self._start = _host(models.layers(model))

    def __call__(self, step: int, model: eqx.Module) -> None:
        """Measure the network at this step."""
        kernel = self._kernel(model)
        values = np.linalg.eigvalsh(np.asarray(kernel, np.float64))[::-1]
        if self._k0 is None:
            self._k0, self._largest0 = kernel, float(values[0])
        found = {
            "kernel_drift": float(nt.metrics.kernel_drift(kernel, self._k0)),
            "effective_rank": float(nt.metrics.effective_rank(kernel)),
            "edge_of_stability": self._regime.learning_rate
            / self._regime.stability_bound
            * float(values[0])
            / self._largest0,
        }
        if np.any(self._y):  # nothing aligns with targets that are all zero
            alignment = nt.metrics.target_alignment(kernel, self._y)
            found["target_alignment"] = float(alignment)
        for k, value in enumerate(values[:N_EIGENVALUES], start=1):
            found[f"eigenvalue/{k}"] = float(value)
        self.seen += [Measurement(m, TRAIN, step, value) for m, value in found.items()]
        self.seen += compare.movement(step, self._start, _host(models.layers(model)))


def _host(layers: dict[str, list[Array]]) -> dict[str, list[np.ndarray]]:
    return {name: [np.asarray(a) for a in arrays] for name, arrays in layers.items()}
