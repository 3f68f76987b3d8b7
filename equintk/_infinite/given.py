"""What users give: rules for primitives, and expectations of functions."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .._types import Text
from .arrays.data import POINTWISE
from .arrays.drawer import Drawer
from .functions.hermite import plane
from .nodes import Atoms
from .reader import DUALS, GIVEN, RULES, Reader

Spelling = Callable[..., Any]
Dual = Callable[[Any, Any, Any], Any]


def infinite_rule(primitive: Text) -> Callable[[Spelling], Spelling]:
    """Say what a primitive does, for infinite width, in operations that are known.

    ```python
    @nt.infinite_rule("fast_gelu")
    def _(x, *, approximate):
        return jax.nn.gelu(x, approximate=approximate)
    ```

    Args:
        primitive: its name, which `NoLimitError` gives.

    Returns:
        A decorator of a function of the primitive's operands, with its parameters by
        keyword, that returns its result, or a sequence of its results. It is read like
        the model's own code: its values and derivatives must be the primitive's.

    Raises:
        ValueError: if there is a rule for the primitive here.
    """
    if primitive in RULES or primitive in POINTWISE:
        raise ValueError(
            f"The primitive {primitive!r} has a rule of its own. Where that raises, "
            "the limit is not known whatever the spelling."
        )

    def register(function: Spelling) -> Spelling:
        GIVEN[primitive] = function
        return function

    return register


def dual_function(function: Spelling) -> Callable[[Dual], Dual]:
    """Give the expectation of a product of one function of two Gaussians.

    ```python
    @nt.dual_function(my_activation)
    def _(q1, q2, k):
        return ...  # E[f(u) f(v)], for variances q1 and q2 and covariance k
    ```

    It is used wherever a model has this function of a number, or of a multiple of it,
    in place of closed forms and series; the model need not be changed. Means, and
    products with other functions, stay as they are.

    Args:
        function: of an array, entry by entry, as the model calls it.

    Returns:
        A decorator of a function of three arrays of one shape and dtype, that returns
        the expectations, written in JAX. It must be right at correlation one and at
        variance zero; its derivatives give the tangent kernel. Giving another replaces
        the first.

    Raises:
        NoLimitError: if the function is not understood as one of a single number.
        ValueError: where the expectation or its derivative by `k`, which is the
            expectation of the product of the function's derivatives, differs from an
            integral by more than 1 % at one of three points, one of which has
            correlation one. A function that jumps has a derivative of zero there, as
            JAX takes it.
    """
    dtype = jnp.result_type(float)
    nobody: frozenset[int] = frozenset()
    atoms = Atoms()
    drawer = Drawer(atoms, [], [], nobody, nobody, nobody, nobody)
    spelt = Reader(atoms, drawer).function(function, dtype)
    if spelt.slope is not None:
        raise ValueError("The function is linear, whose expectations need no rule.")

    def slope(z: Any) -> Any:
        return jax.jvp(function, (z,), (jnp.ones_like(z),))[1]

    def register(dual: Dual) -> Dual:
        for point in _POINTS:
            q1, q2, k = (jnp.full((1,), a, dtype) for a in point)
            by_k = lambda k, q1=q1, q2=q2: dual(q1, q2, k)
            found = jax.jvp(by_k, (k,), (jnp.ones_like(k),))
            for what, got, f in zip(_CHECKED, found, (function, slope), strict=True):
                _checked(what, point, jnp.asarray(got), f)
        DUALS[function] = dual
        return dual

    return register


_POINTS = ((1.2, 1.2, 1.2), (0.7, 1.3, 0.4), (1.5, 0.6, -0.5))
_CHECKED = ("expectation", "derivative by `k`")
_OFF = 0.01  # of the mean square; what an integral may be off of functions that jump


def _checked(what: str, point: Any, got: Any, function: Spelling) -> None:
    q1, q2, k = point
    expected, size = (float(plane(function, *at)) for at in (point, (max(q1, q2),) * 3))
    if got.shape != (1,) or not bool(jnp.abs(got[0] - expected) <= _OFF * size):
        raise ValueError(
            f"For q1={q1}, q2={q2}, k={k} the {what} given is {got}, but by an "
            f"integral it is {expected:.6g}: return E[f(u) f(v)], an array of the "
            "shape of `q1`, differentiable as the function is."
        )
