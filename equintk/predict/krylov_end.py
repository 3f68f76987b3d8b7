"""The end of training with a ridge, where memory ends before a Krylov space does."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .._matrix_free.conjugate_gradients import nystrom_of, solve
from .._matrix_free.host import HostProducts
from .._matrix_free.krylov import KrylovSpace
from .residual_bound import Pace, Spectrum, filtered, on_test

# Products beyond what the condition of the kernel without a preconditioner explains.
_SLACK = 100


class KrylovEnd(NamedTuple):
    """The coefficients at the end of training.

    Attributes:
        coefficients: `(n, p)`, of what is to be learnt, solved for.
        moved: `(n, p)`, their product with the kernel.
        residual: the norm of what they leave of what is to be learnt.
    """

    coefficients: np.ndarray
    moved: np.ndarray
    residual: float


def krylov_end(
    products: HostProducts,
    space: KrylovSpace,
    spectrum: Spectrum,
    residual: np.ndarray,
    *,
    pace: Pace,
    goal: float,
    report: Callable[[int, int], object],
) -> KrylovEnd:
    """Solve for the coefficients, preconditioned by the space and starting in it.

    Args:
        products: of the kernel.
        space: grown from `residual`.
        spectrum: of the kernel; its shift is above its floor.
        residual: what is to be learnt, `(n, p)`.
        pace: how training goes.
        goal: the norm of the error of outputs that is good enough.
        report: of how many products were made, and how many are expected.
    """
    inside = space.rotation @ filtered(space, spectrum, pace, math.inf)
    factor = on_test(spectrum, 0.0, ended=True) * math.sqrt(spectrum.diagonal)
    allowed = goal / max(1.0, factor)
    condition = math.sqrt(1 + spectrum.largest / spectrum.shift)
    digits = math.log(2 * condition * float(np.linalg.norm(residual)) / allowed)
    solved = solve(
        products,
        spectrum.shift,
        residual,
        space.vectors.T @ inside,
        precondition=nystrom_of(space, spectrum.shift, products.eps),
        # What the rounding of products leaves no further step can mend.
        goal=lambda x: max(allowed, spectrum.noise * float(np.linalg.norm(x))),
        most=_SLACK + math.ceil(condition * digits),
        report=report,
    )
    return KrylovEnd(solved.value, solved.image, solved.residual)
