"""Numbers that say in one word what happened on the way: scalars of `summary.csv`."""

from collections.abc import Iterable

from experiments.compare import Measurement
from experiments.tables import TRAIN


def of(measured: Iterable[Measurement]) -> dict[str, float]:
    """What curves passed through, at the steps recorded.

    Args:
        measured: everything measured of one network.
    """
    curves: dict[str, dict[int, float]] = {}
    for row in measured:
        if row.split == TRAIN:
            curves.setdefault(row.metric, {})[row.step] = row.value
    loss, drift = curves["loss_network"], curves["kernel_drift"]
    found = {"loss_peak": max(loss.values()) / loss[0]} if loss[0] > 0 else {}
    last = max(drift)
    if drift[last] > 0:
        halfway = min(step for step in drift if drift[step] >= drift[last] / 2)
        found["drift_halfway"] = halfway / last
    alignment = curves.get("target_alignment")
    if alignment:
        found["target_alignment_gain"] = alignment[last] - alignment[0]
    return found
