"""Numbers that describe a kernel, or compare two."""

import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from . import _checks, _inputs
from ._compiled import jit
from ._linalg import flatten_kernel, rounding


def kernel_drift(k: Any, k0: Any) -> Float[Array, ""]:
    """How far a kernel moved in training: ||k - k0|| / ||k0||, Frobenius norms.

    Args:
        k: the averaged train-train kernel after some training, `(n, n)`.
        k0: the same before training.

    Returns:
        0 where the network trains as its linearisation; of order 1/width in the NTK
        parameterization, of order 1 in muP.

    Raises:
        ValueError: for shapes other than this, NaN or infinity, or a kernel of zeros.
    """
    k = _square("k", k)
    k0 = _square("k0", k0)
    return _relative(k, k0, ("k", "k0"))


def relative_distance(k: Any, reference: Any) -> Float[Array, ""]:
    """||k - reference|| / ||reference||, with all axes in the norm.

    Args:
        k: an array of any shape, such as a kernel or outputs.
        reference: an array of the same shape.

    Raises:
        ValueError: for two shapes, NaN or infinity, or a reference of zeros.
    """
    names = ("k", "reference")
    return _relative(_array("k", k), _array("reference", reference), names)


def centred_alignment(k1: Any, k2: Any) -> Float[Array, ""]:
    """The cosine between two kernels on the same inputs, after centring their features.

    Args:
        k1: `(n, n)`.
        k2: `(n, n)`.

    Returns:
        1 for kernels that agree up to scale and to functions constant over the inputs;
        at least 0 for positive semi-definite kernels.

    Raises:
        ValueError: for shapes other than this, NaN or infinity, or a kernel that is the
            same for all pairs of inputs, of which centring leaves nothing.

    Source: Cortes, Mohri and Rostamizadeh, JMLR 13 (2012), definition 4.
    """
    k1, k2 = _square("k1", k1), _square("k2", k2)
    _same_shape(k1, k2, ("k1", "k2"))
    return _cosine(_centred("k1", k1), _centred("k2", k2))


def target_alignment(k: Any, y: Any) -> Float[Array, ""]:
    """The cosine between a kernel and the targets' own kernel, `y y^T`; not centred.

    Args:
        k: `(n, n)`.
        y: targets, `(n, *out)`; `y y^T` sums over the outputs.

    Raises:
        ValueError: for shapes other than this, NaN or infinity, or zeros only.

    Source: Cristianini, Shawe-Taylor, Elisseeff and Kandola, NIPS 2001, definition 3.
    """
    k, y = _square("k", k), _array("y", y)
    if y.ndim == 0 or len(y) != len(k):
        raise ValueError(
            f"`y` must hold one target for each of the {len(k)} rows of `k`, of shape "
            f"({len(k)}, *out), but it has shape {y.shape}."
        )
    return _cosine(_nonzero("k", k), _own_kernel(_nonzero("y", y)))


def effective_rank(k: Any) -> Float[Array, ""]:
    """trace(k)^2 / ||k||^2: how many eigenvalues of one size would be as spread.

    Args:
        k: `(n, n)`.

    Returns:
        Between 1 and n for a positive semi-definite kernel. It decides how many random
        projections a kernel of one output needs: the relative error of `nt.mc_ntk` is
        sqrt((1 + effective_rank) / proj_dim).

    Raises:
        ValueError: for a shape other than this, NaN or infinity, or a kernel of zeros.

    Source: R_0 in Bartlett, Long, Lugosi and Tsigler, arXiv:1906.11300, definition 3.
    """
    return _spread(_nonzero("k", _square("k", k)))


def max_learning_rate(
    kernel: Any, *, c: Any = 1.0, momentum: Any = 0.0
) -> Float[Array, ""]:
    """The learning rate below which full-batch gradient descent is stable.

    Args:
        kernel: the train-train kernel, `(n, n)` (averaged: one for each output) or
            `(n, n, *out, *out)` (coupled).
        c: the loss is (c/2) * sum (f - y)^2; `nt.loss_scale` gives it by name.
        momentum: of heavy ball, in [0, 1): v <- momentum v + gradient.

    Returns:
        2 (1 + momentum) / (c * largest eigenvalue). A ridge lowers it to
        2 (1 + momentum) / (c * largest eigenvalue + ridge).

    Raises:
        ValueError: for a shape other than this, NaN or infinity, `c <= 0`, a momentum
            outside [0, 1), or a kernel without positive eigenvalues.

    Source: Polyak, USSR Comput. Math. Math. Phys. 4 (1964), section 2.
    """
    kernel = _array("kernel", kernel)
    n_out_axes, odd = divmod(kernel.ndim - 2, 2)
    out = kernel.shape[2 : 2 + n_out_axes]
    if kernel.ndim < 2 or odd or kernel.shape != (len(kernel),) * 2 + out + out:
        raise ValueError(
            "`kernel` must be a train-train kernel of shape (n, n) or (n, n, *out, "
            f"*out), but it has shape {kernel.shape}."
        )
    c = _checks.positive("c", c)
    momentum = _checks.non_negative("momentum", momentum)
    if not _checks.is_traced(momentum) and momentum >= 1:
        raise ValueError(f"`momentum` must be below 1, but it is {momentum!r}.")
    dtype = kernel.dtype
    matrix = flatten_kernel(_nonzero("kernel", kernel), n_out_axes)
    largest = _largest(_symmetric(matrix))
    c, momentum = (jnp.asarray(a, dtype) for a in (c, momentum))
    return 2 * (1 + momentum) / (c * jnp.asarray(largest, dtype))


def _symmetric(kernel: Array) -> Array:
    """The kernel itself, of which the solver reads one triangle."""
    skew = jnp.max(jnp.abs(kernel - kernel.T))
    floor = rounding(len(kernel), kernel.dtype) * jnp.max(jnp.abs(kernel))
    return _refuse(
        kernel,
        skew > floor,
        "`kernel` is not symmetric beyond rounding. Pass a train-train kernel, such as "
        "`nt.ntk_full(model, x)`.",
    )


def _largest(kernel: Any) -> Any:
    """The largest eigenvalue, from the host in float64 where the kernel is concrete."""
    text = "`kernel` has no positive eigenvalue, so any learning rate is stable"
    if _checks.is_traced(kernel):
        largest = jnp.linalg.eigvalsh(kernel)[-1]
        return eqx.error_if(largest, largest <= 0, text + ".")
    largest = np.linalg.eigvalsh(np.asarray(kernel, np.float64))[-1]
    if largest <= 0:
        raise ValueError(
            f"{text}: its largest is {largest:.3g}. Pass a positive semi-definite one."
        )
    return largest


def _relative(k: Array, reference: Array, names: tuple[str, str]) -> Array:
    _same_shape(k, reference, names)
    return _distance(k, _nonzero(names[1], reference))


# Each is scaled by its largest entry: squares of large or small ones leave the range of
# single precision.


@jit
def _distance(k: Array, reference: Array) -> Array:
    scale = jnp.max(jnp.abs(reference))
    return _norm((k - reference) / scale) / _norm(reference / scale)


@jit
def _cosine(a: Array, b: Array) -> Array:
    a, b = a / jnp.max(jnp.abs(a)), b / jnp.max(jnp.abs(b))
    return jnp.sum(a * b) / (_norm(a) * _norm(b))


@jit
def _spread(k: Array) -> Array:
    k = k / jnp.max(jnp.abs(k))
    return jnp.trace(k) ** 2 / jnp.sum(k * k)


@jit
def _own_kernel(y: Array) -> Array:
    y = (y / jnp.max(jnp.abs(y))).reshape(len(y), -1)
    return jnp.matmul(y, y.T, precision="highest")


def _norm(a: Array) -> Array:
    """The Frobenius norm; its derivative at 0 is 0 instead of NaN."""
    squares = jnp.sum(a * a)
    zero = squares == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, squares)))


def _centred(name: str, k: Array) -> Array:
    centred, nothing_left = _centre(k)
    return _refuse(
        centred,
        nothing_left,
        f"`{name}` is constant up to rounding, so that centring leaves nothing to "
        "compare. Pass a kernel that tells inputs apart.",
    )


@jit
def _centre(k: Array) -> tuple[Array, Array]:
    """The kernel of centred features, and whether it is only rounding."""
    centred = k - jnp.mean(k, 0, keepdims=True)
    centred = centred - jnp.mean(centred, 1, keepdims=True)
    floor = rounding(len(k), k.dtype) * jnp.max(jnp.abs(k))
    return centred, jnp.max(jnp.abs(centred)) <= floor


def _array(name: str, value: Any) -> Array:
    """Finite real numbers, as a JAX array of floating point."""
    value = jnp.asarray(_inputs.real(name, value))
    if value.dtype.itemsize < 4:  # squares and sums leave the range of half precision
        value = value.astype(jnp.float32)
    if math.prod(value.shape) == 0:
        raise ValueError(f"`{name}` is empty: it has shape {value.shape}.")
    return _checks.finite(name, value)


def _square(name: str, value: Any) -> Array:
    k = _array(name, value)
    if k.ndim != 2 or k.shape[0] != k.shape[1]:
        raise ValueError(
            f"`{name}` must be a train-train kernel of shape (n, n), but it has shape "
            f"{k.shape}. Of a network with several outputs pass `nt.ntk(model, x)`, "
            "averaged over outputs."
        )
    return k


def _same_shape(a: Array, b: Array, names: tuple[str, str]) -> None:
    if a.shape != b.shape:
        raise ValueError(
            f"`{names[0]}` and `{names[1]}` must have one shape, on the same inputs, "
            f"but they have {a.shape} and {b.shape}."
        )


def _nonzero(name: str, a: Array) -> Array:
    text = f"`{name}` holds only zeros, and nothing can be compared with it."
    xp = jnp if _checks.is_traced(a) else np
    # Below the smallest normal number is zero too: its square and inverse are.
    tiny = float(jnp.finfo(a.dtype).tiny)
    return _refuse(a, xp.all(xp.abs(xp.asarray(a)) < tiny), text)


def _refuse(value: Array, wrong: Any, text: str) -> Array:
    if _checks.is_traced(wrong):
        return eqx.error_if(value, wrong, text)
    if wrong:
        raise ValueError(text)
    return value
