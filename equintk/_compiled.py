"""`jax.jit` and `eqx.filter_jit` without fusions that XLA gets wrong on a processor.

XLA hands products of float32 matrices, together with what stands around them, to the
library YNNPACK. With jaxlib 0.10 to 0.12 such programs now and then give wrong numbers,
or the memory as it was found: derivatives of attention over 256 units, and products of
constants. Each product handed over by itself is right, and as fast.
"""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jax.errors import JaxRuntimeError
from jax.extend.core import get_opaque_trace_state

from ._checks import is_traced

_OPTION = "xla_cpu_experimental_ynn_fusion_type"
_APART = {_OPTION: "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}

# The option, once a version of XLA that does not know it has said so.
_refused: set[str] = set()

# Where nothing is transformed.
_OUTSIDE = get_opaque_trace_state()


def jit(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """`jax.jit`, without fusions that XLA gets wrong on a processor.

    For training and evaluating a network that is compared with its kernel. With jaxlib
    0.10 to 0.12 `jax.jit` on a CPU now and then compiles products of float32 matrices
    wrongly: the Jacobian by its inputs of attention over 256 units, for 17 examples, is
    off by some percent. The kernels and predictions of this library are compiled so,
    too. Elsewhere, and where the compiler does not know the option, it is `jax.jit`.

    Args:
        function: as for `jax.jit`.
        options: the same.

    Returns:
        The compiled function, to be called; it has no `lower`. Inside a function that
        the caller transforms, whoever compiles that one chooses how.
    """
    return _chosen(function, functools.partial(jax.jit, function, **options))


def filter_jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """`eqx.filter_jit`, without fusions that XLA gets wrong on a processor: see `jit`.

    Args:
        function: as for `eqx.filter_jit`.

    Returns:
        The compiled function, to be called.
    """
    return _chosen(function, functools.partial(eqx.filter_jit, function))


def _chosen(
    function: Callable[..., Any], compiled: Callable[..., Any]
) -> Callable[..., Any]:
    inside, apart = compiled(), compiled(compiler_options=_APART)

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        if (
            _is_inside(args, kwargs)
            or _OPTION in _refused
            or jax.default_backend() != "cpu"
        ):
            return inside(*args, **kwargs)
        try:
            return apart(*args, **kwargs)
        except ValueError as error:
            # It closes over something that is traced, which only JAX can see.
            if "can only be passed to top-level `jax.jit`" not in str(error):
                raise
        except JaxRuntimeError as error:
            # Found out by trying: to ask first would be one more compilation.
            if _OPTION not in str(error):
                raise
            _refused.add(_OPTION)
        return inside(*args, **kwargs)

    return called


def _is_inside(*args: Any) -> bool:
    """Whether the program is part of one that the caller compiles."""
    if get_opaque_trace_state() == _OUTSIDE:
        return False
    # What does not depend on what `vmap` and `grad` transform is computed at once.
    return is_traced(args) or is_traced(jax.device_put(0))
