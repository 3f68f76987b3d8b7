"""Loops, and functions that bring a derivative of their own."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import eval_jaxpr
from jax.extend.core import DropVar, JaxprEqn

from ..._trace.flatten import Flat, aval, evaluate, inlined, scan_parts, subjaxpr
from ..errors import NoLimitError
from ..nodes import Data
from ..reader import CUSTOM, Reader, rule
from .side_by_side import stacked


@rule(*CUSTOM)
def _custom(reader: Reader, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    name = next(n for n in ("call_jaxpr", "fun_jaxpr", "jaxpr") if n in eqn.params)
    jaxpr, consts = subjaxpr(eqn.params[name])
    flat = inlined(jaxpr, consts)
    _check_honest(eqn, flat, values)
    return reader.read(flat, values)


def _check_honest(eqn: JaxprEqn, flat: Flat, values: list[Any]) -> None:
    """Check that a gradient of its own is the derivative, which the limit needs."""
    rng = np.random.default_rng(0)
    points, floats = [], []
    for var, value in zip(eqn.invars, values, strict=True):
        shape, dtype = aval(var).shape, aval(var).dtype
        if isinstance(value, Data) and value.const is not None:
            points.append(jnp.broadcast_to(jnp.asarray(value.const), shape))
        elif jnp.issubdtype(dtype, jnp.floating):
            floats.append(len(points))
            points.append(jnp.asarray((rng.normal(size=shape) * 1.5).astype(dtype)))
        else:
            points.append(jnp.asarray(np.ones(shape, dtype)))

    def gradients(function: Callable[..., Any]) -> Any:
        def scalar(*args: Any) -> Any:
            operands = list(points)
            for i, a in zip(floats, args, strict=True):
                operands[i] = a
            results = [r for r in function(operands) if r is not None]
            return sum(
                jnp.sum(np.cos(np.arange(r.size)).astype(r.dtype).reshape(r.shape) * r)
                for r in results
                if jnp.issubdtype(r.dtype, jnp.floating)
            )

        return jax.grad(scalar, tuple(range(len(floats))))(*(points[i] for i in floats))

    def differ() -> bool:
        own = gradients(lambda x: evaluate(eqn, x))
        true = gradients(lambda x: eval_jaxpr(flat.jaxpr, flat.consts, *x))
        for a, b in zip(own, true, strict=True):
            eps = float(jnp.finfo(a.dtype).eps)
            if not np.allclose(a, b, rtol=1e4 * eps, atol=1e4 * eps, equal_nan=True):
                return True
        return False

    # A transformation of the caller's holds for his thread alone, and here numbers are
    # needed: rules of derivatives take no part in `jax.ensure_compile_time_eval`. So
    # does his precision, where he set it by `with jax.enable_x64`.
    wide = jax.dtypes.canonicalize_dtype(np.float64) == np.float64

    def in_precision() -> bool:
        with jax.enable_x64(wide):
            return differ()

    with ThreadPoolExecutor(1) as outside:
        if outside.submit(in_precision).result():
            raise NoLimitError(
                "a gradient of its own that is not the function's derivative, from "
                "which the limit of the tangent kernel would differ"
            )


@rule("scan")
def _scan(reader: Reader, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    body, n_consts, n_carry = scan_parts(eqn)
    consts, carry = values[:n_consts], values[n_consts : n_consts + n_carry]
    scanned = values[n_consts + n_carry :]
    length = eqn.params["length"]
    steps = range(length)
    if eqn.params["reverse"]:
        steps = reversed(steps)
    outs: list[Any] = [None] * length
    for i in steps:
        slices = [
            reader.traced(
                lambda a, i=i: jnp.reshape(
                    lax.slice_in_dim(a, i, i + 1, axis=0), a.shape[1:]
                ),
                x,
            )[0]
            for x in scanned
        ]
        results = reader.read(body, [*consts, *carry, *slices])
        carry, outs[i] = results[:n_carry], results[n_carry:]
    final: list[Any] = list(carry)
    for number, var in enumerate(eqn.outvars[n_carry:]):
        if isinstance(var, DropVar):
            final.append(None)
            continue
        each = [out[number] for out in outs]
        final.append(stacked(reader, each, 0))
    return final
