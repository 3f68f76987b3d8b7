"""Where a function does what no node of a quadrature sees.

A series knows a function at its nodes. One that is another number within an interval
between two of them is taken for what it is beside it, so such intervals are looked for:
on a grid that is finer than the nodes, and where the function's own operations compare,
which tells of intervals of any width.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr

from ..._trace.flatten import Environment, Flat, evaluate, flatten, inlined, subjaxpr
from .function import Function

_STEP = 2.0**-10
_REACH, _FAR = 8, 40
_CELL = 16  # steps of the grid
_PARTS = 64  # of a step, when looked at more closely
_LEVELS = 3
_GAP = 0.1  # in deviations; nodes are not further apart
_COMPARED = frozenset("gt ge lt le eq ne max min".split())


class Intervals(NamedTuple):
    """Where a function leaves what it is on either side.

    Attributes:
        low: where they begin.
        high: where they end.
        square: of how far it leaves that.
    """

    low: np.ndarray
    high: np.ndarray
    square: np.ndarray


_NONE = Intervals(np.zeros(0), np.zeros(0), np.zeros(0))


def unseen(function: Function, deviation: Any) -> Any:
    """How much of the mean square lies in intervals between the nodes of a quadrature.

    Args:
        function: of one number; its parameters are taken to be 1.
        deviation: of its argument.
    """
    low, high, square = narrow(function)
    total = jnp.zeros_like(deviation)
    for a, b, excess in zip(low, high, square, strict=True):
        scale = jnp.maximum(deviation, float(jnp.finfo(deviation.dtype).tiny))
        inside = ndtr(b / scale) - ndtr(a / scale)
        total += jnp.where(b - a < _GAP * deviation, excess * inside, 0)
    return total


@lru_cache(maxsize=4096)
def narrow(function: Function) -> Intervals:
    """The intervals of a function whose parameters are 1."""
    if function.slope is not None:
        return _NONE
    # Far out a function may overflow, of which nothing is said here.
    with jax.ensure_compile_time_eval(), np.errstate(invalid="ignore", over="ignore"):
        dtype = jnp.result_type(float)
        ones = jnp.ones(function.n_params, dtype)
        of_one = lambda z: function.call(z, *ones)
        flat = flatten(of_one, jax.ShapeDtypeStruct((), dtype))
        looked_at = jax.jit(jax.vmap(lambda z: _decisions(flat, z)))

        def values(z: np.ndarray) -> np.ndarray:
            found = looked_at(jnp.asarray(z, dtype))
            return np.asarray(jnp.stack(found), np.float64)

        grid = _grid()
        value, *decisions = values(grid)
        found = _cells(grid, value)
        for i, decision in enumerate(decisions):
            found += _hidden(
                grid, value, decision, lambda z, i=i: values(z)[[0, i + 1]]
            )
    return _merged(found)


def _grid() -> np.ndarray:
    near = np.arange(-_REACH, _REACH, _STEP)
    far = np.arange(_REACH, _FAR, 16 * _STEP)
    # The middle of steps: whole numbers, where functions like to change, lie between.
    return np.concatenate([-far[::-1], near, far]) + _STEP / 2


def _cells(z: np.ndarray, value: np.ndarray) -> list[tuple[float, float, float]]:
    """Cells of the grid in which the function leaves what it is two cells away."""
    n = len(z) // _CELL
    of_cells = value[: n * _CELL].reshape(n, _CELL)
    least, most = of_cells.min(1), of_cells.max(1)
    left, right, here = slice(0, -4), slice(4, None), slice(2, -2)
    slack = 4 * np.maximum((most - least)[left], (most - least)[right])
    lowest = np.minimum(least[left], least[right]) - slack
    highest = np.maximum(most[left], most[right]) + slack
    excess = np.maximum(most[here] - highest, lowest - least[here])
    at = np.flatnonzero(excess > 0)
    ends = z[: n * _CELL].reshape(n, _CELL)
    return [
        (float(ends[i + 2, 0]), float(ends[i + 2, -1]), float(excess[i] ** 2))
        for i in at
    ]


def _hidden(
    z: np.ndarray, value: np.ndarray, decision: np.ndarray, values: Any
) -> list[tuple[float, float, float]]:
    """Intervals within a step, about where a comparison may end in another way."""
    low, high = z[:-1], z[1:]
    d, slack = decision, 4 * np.maximum(*_beside(np.abs(np.diff(value))))
    ends = np.stack([value[:-1], value[1:]])
    found: list[tuple[float, float, float]] = []
    for _ in range(_LEVELS):
        steps = np.abs(np.diff(d, axis=-1))
        near = np.minimum(np.abs(d[..., :-1]), np.abs(d[..., 1:]))
        moves = np.maximum(steps, np.maximum(*_beside(steps)))
        at = np.flatnonzero((near < 2 * moves).ravel())
        most = len(z) // (_PARTS + 1)
        if len(at) == 0:
            break
        at = at[np.argsort(near.ravel()[at], kind="stable")[:most]]
        low, high = low.ravel()[at], high.ravel()[at]
        ends, slack = ends.reshape(2, -1)[:, at], slack.ravel()[at]
        finer = np.linspace(low, high, _PARTS + 1, axis=-1)
        padded = np.resize(finer.ravel(), len(z))
        inside, d = (v[: finer.size].reshape(finer.shape) for v in values(padded))
        over = inside - (ends.max(0) + slack)[:, None]
        under = (ends.min(0) - slack)[:, None] - inside
        excess = np.maximum(over, under)
        for i in np.flatnonzero(np.any(excess > 0, axis=1)):
            where, step = finer[i][excess[i] > 0], finer[i, 1] - finer[i, 0]
            square = float(np.max(excess[i]) ** 2)
            found.append((float(where[0] - step), float(where[-1] + step), square))
        low, high = finer[:, :-1], finer[:, 1:]
        ends = np.broadcast_to(ends[:, :, None], (2, *low.shape))
        slack = np.broadcast_to(slack[:, None], low.shape)
    return found


def _merged(found: list[tuple[float, float, float]]) -> Intervals:
    """Without overlaps."""
    apart: list[tuple[float, float, float]] = []
    for low, high, square in sorted(found):
        if apart and low <= apart[-1][1]:
            start, end, largest = apart.pop()
            low, high, square = start, max(end, high), max(largest, square)
        apart.append((low, high, square))
    return Intervals(*map(np.asarray, zip(*apart, strict=True))) if apart else _NONE


def _beside(steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What stands on either side."""
    width = [(0, 0)] * (steps.ndim - 1)
    return (
        np.pad(steps[..., :-1], [*width, (1, 0)], mode="edge"),
        np.pad(steps[..., 1:], [*width, (0, 1)], mode="edge"),
    )


def _decisions(flat: Flat, z: Any) -> list[Any]:
    """The function's value, and the differences by whose signs it decides."""
    found: list[Any] = []
    (value,) = _evaluated(flat, [z], found)
    return [value, *found]


def _evaluated(flat: Flat, given: list[Any], found: list[Any]) -> list[Any]:
    environment = Environment(flat, given)
    for eqn in flat.jaxpr.eqns:
        values = environment.read(eqn.invars)
        name = eqn.primitive.name
        inner = eqn.params.get("call_jaxpr") if name == "custom_jvp_call" else None
        if inner is not None:
            within = inlined(*subjaxpr(inner))
            results = _evaluated(within, list(values), found)
        else:
            found += _differences(name, values)
            results = evaluate(eqn, values)
        environment.write(eqn.outvars, results)
    return list(environment.read(flat.jaxpr.outvars))


def _differences(name: str, values: list[Any]) -> list[Any]:
    if not all(jnp.issubdtype(jnp.result_type(v), jnp.floating) for v in values):
        return []
    if name in _COMPARED:
        return [values[0] - values[1]]
    if name == "clamp":
        low, x, high = values
        return [x - low, x - high]
    return [values[0]] if name in ("abs", "sign") else []
