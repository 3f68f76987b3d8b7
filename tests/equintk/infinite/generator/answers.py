"""What becomes of a random model: it is refused, or it agrees with wide networks."""

from typing import Any, NamedTuple

import equinox as eqx
import jax.random as jr
import jax.tree_util as jtu
import numpy as np

import equintk as nt
from equintk._infinite.functions.arccos import rectified
from equintk._infinite.reader import DUALS
from equintk._trace.roles import roles

from . import primitives
from .grammar import Sentence, shorter
from .operations import opaque_abs
from .wide import FEW, STD, Comparison, verdicts

REASONS = (
    "No infinite-width kernel",
    "output of the model is deterministic",
    "entries of the output itself",
    "no role that can be read",
    "is used with the roles",
    "Hermite series",
    "share something random",
    "dependent Gaussians",
    "no parameter",
    "not finite",
)
"""Of refusals: what else is raised is no answer."""
Plan = tuple[tuple[int, int], ...]
FULL: Plan = ((256, 400), (1024, 400), (1024, 1000))
OF_IMAGES: Plan = ((64, 400), (128, 1000))  # whose weights are many
QUICK: Plan = ((128, 100), (512, 100))


class Answer(NamedTuple):
    """What was found.

    Attributes:
        kind: `"refused"`, `"agrees"`, `"unclear"`, `"differs"` or `"broken"`.
        text: the reason, or the distances.
    """

    kind: str
    text: str


def examples(whole: Sentence) -> Any:
    """Three random ones, and the opposite of the first."""
    x = jr.normal(jr.key(1), (3, *whole.shape))
    return np.concatenate([x, -x[:1]])


def limit(whole: Sentence, n: int, x: Any) -> Any:
    """Its kernels at infinite width, read from the model of a width.

    Where places are left, the means over them, and of those that networks have.
    """
    model = whole.build(n, jr.key(0), False)
    paths = _paths(model)
    finite = [path for path, i in paths.items() if i in whole.finite]
    nt.dual_function(opaque_abs)(
        lambda q1, q2, k: 2 * (rectified(1, 1, q1, q2, k) + rectified(1, 1, q1, q2, -k))
    )
    try:
        with primitives.known():
            found = nt.infinite_kernels(
                model, x, parameterization=whole.scheme, W_std=STD[0], b_std=STD[1],
                learning_rate={p: whole.rates[i] for p, i in paths.items()}
                if whole.rates else None,
                finite=finite, roles=_roles(whole, n, x),
            )  # fmt: skip
    finally:
        DUALS.pop(opaque_abs)
    if found.nngp.ndim == 2:
        return found[:2]
    nngp, ntk = (np.einsum("ijaa->ija", k) for k in found[:2])
    return nngp.mean(axis=2), ntk[:, :, :FEW].mean(axis=2)


def _paths(model: Any) -> dict[str, int]:
    """By the paths of a model's parameters, the numbers of their layers."""
    params = jtu.tree_flatten_with_path(eqx.filter(model, eqx.is_inexact_array))[0]
    return {jtu.keystr(path): path[1].idx for path, _ in params}  # `.layers[i]`


def _roles(whole: Sentence, n: int, x: Any) -> dict[str, int | str]:
    """What parameters are, which cannot be read beside primitives of one's own."""
    read = roles(whole.build(n, jr.key(0)), x[0])
    return {p: r.fan_in if r.kind == "weight" else r.kind for p, r in read.items()}


def refusal(whole: Sentence, n: int = 256) -> str | None:
    """Why a model is refused, if it is.

    Raises:
        Exception: if what is raised is none of the reasons.
    """
    try:
        limit(whole, n, examples(whole))
    except (nt.NoLimitError, ValueError) as error:
        text = str(error)
        if not any(reason in text for reason in REASONS):
            raise
        return text
    return None


def of(whole: Sentence, plan: Plan | None = None, noise: float = 0.0075) -> Answer:
    """What becomes of a model, by networks of these widths and as many draws."""
    try:
        reason = refusal(whole)
    except Exception as error:  # whatever a user would have to make sense of
        return Answer("broken", f"{type(error).__name__}: {error}"[:300])
    if reason is not None:
        return Answer("refused", reason[:160].replace("\n", " "))
    x = examples(whole)
    both = lambda n: tuple(limit(whole, n, x))[:2]
    plan = plan or (OF_IMAGES if whole.is_image else FULL)
    try:
        found = verdicts(both, whole.build, whole.scheme, x, plan, noise, whole.rates)
    except Exception as error:
        return Answer("broken", f"networks: {type(error).__name__}: {error}"[:300])
    return Answer(_kind(found, noise), " ".join(_text(c) for c in found))


def _kind(found: list[Comparison], noise: float) -> str:
    if all(c.agrees(noise) for c in found):
        return "agrees"
    return "differs" if any(c.differs for c in found) else "unclear"


def _text(found: Comparison) -> str:
    return f"{found.distance:.3f}±{found.noise:.4f}@{found.width}"


def shortest(whole: Sentence, kind: str, plan: Plan, noise: float) -> Sentence:
    """The shortest model found on the way to which all were answered like this one."""
    for less in shorter(whole):
        if len(str(less)) < len(str(whole)) and of(less, plan, noise).kind == kind:
            return shortest(less, kind, plan, noise)
    return whole
