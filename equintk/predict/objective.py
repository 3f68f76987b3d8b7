"""A loss of any kind on the training examples, seen from their outputs."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .. import _checks
from .._linalg import flatten_kernel, require_semidefinite
from . import arguments, losses
from .problem import times_matrix
from .state import State


class Objective(eqx.Module):
    """`sum_i scale_i loss(f_i, y_i) + ridge/2 |theta - theta_0|^2`, by the outputs f.

    The parameters only ever move along the gradients of the training outputs, so that
    one coefficient for each output says where they are, and gradient descent on the
    parameters of the linearised network is an iteration of these coefficients.

    Attributes:
        kernel: `(n, n)`, or, coupled, `(n*out, n*out)`.
        y_train: targets, `(n, ...)`; without a label any valid one.
        scales: what multiplies the loss of each example, `(n_batches, n)`.
        out: the shape of an output where the kernel is coupled, else `None`.
    """

    kernel: Any
    y_train: Any
    scales: Any
    ridge: Any
    loss: Callable[..., Any]
    out: tuple[int, ...] | None = eqx.field(static=True)

    def __init__(
        self,
        k_train_train: Any,
        y_train: Any,
        *,
        loss: Any,
        c: Any,
        ridge: Any,
        weights: Any,
        labelled: Any,
        batches: Any = None,
    ):
        """Check the arguments."""
        kernel = arguments.array("k_train_train", k_train_train)
        n = kernel.shape[0] if kernel.ndim else 0
        n_out_axes, odd = divmod(kernel.ndim - 2, 2)
        out = kernel.shape[2 : 2 + n_out_axes]
        if n == 0 or odd or kernel.ndim < 2 or kernel.shape != (n, n, *out, *out):
            raise ValueError(
                f"`k_train_train` has shape {kernel.shape}, but must have (n, n) "
                "(`ntk`, averaged over outputs) or (n, n, *out, *out) (`ntk_full`)."
            )
        self.out = out or None
        self.kernel = flatten_kernel(kernel, n_out_axes)
        require_semidefinite(self.kernel)
        labelled = _mask(labelled, n)
        self.y_train = _targets(y_train, n, labelled)
        self.scales = _scales(c, weights, labelled, batches, n)
        self.ridge = arguments.number(_checks.non_negative("ridge", ridge))
        if not callable(loss):
            raise ValueError(
                f"`loss` must be a function of one output and one target, but it is "
                f"{loss!r}. Type one of `nt.predict.losses`, or your own."
            )
        self.loss = loss

    @property
    def n(self) -> int:
        """How many training examples there are."""
        return self.y_train.shape[0]

    def start(self, f0_train: Any) -> State:
        """The state to start from, in the precision to work in."""
        given = f0_train.f_train if isinstance(f0_train, State) else f0_train
        if self.out is None:
            shape = (self.n, *np.shape(given)[1:])
        else:
            shape = (self.n, *self.out)
        state = arguments.start(f0_train, shape)
        dtype = np.result_type(state.f_train.dtype, self.kernel.dtype, np.float32)
        dtype = jax.dtypes.canonicalize_dtype(dtype)
        state = State(*(jnp.asarray(a, dtype) for a in jax.tree.leaves(state)))
        _check_scalar(self.loss, state.f_train, self._targets_like(state.f_train))
        if not _checks.is_traced(self.y_train):
            _check_domain(self.loss, state.f_train, np.asarray(self.y_train))
        return state

    def multiply(self, kernel: Any, coefficients: Any) -> Any:
        """How far outputs move with coefficients, by a flat kernel."""
        out = coefficients.shape[1:]
        columns = (-1, 1) if self.out is not None else (coefficients.shape[0], -1)
        kernel = jnp.asarray(kernel, coefficients.dtype)
        moved = times_matrix(kernel, coefficients.reshape(columns))
        return moved.reshape(-1, *out)

    def outputs(self, start: State, way: Any) -> Any:
        """Outputs on the training inputs after the coefficients went some way."""
        return start.f_train + self.multiply(self.kernel, way)

    def value(self, f: Any, scale: Any) -> Any:
        """The loss alone."""
        per_example = jax.vmap(self.loss)(f, self._targets_like(f))
        return jnp.sum(scale * per_example)

    def gradient(self, f: Any, scale: Any) -> Any:
        """The gradient of the loss by the outputs, zero without a label."""
        gradients = jax.vmap(jax.grad(self.loss))(f, self._targets_like(f))
        scale = scale.reshape(-1, *[1] * (f.ndim - 1))
        return scale * gradients

    def curvatures(self, f: Any, scale: Any) -> Any:
        """The Hessian of each example's loss, `(n, out_size, out_size)`."""
        flat = f.reshape(self.n, -1)
        loss = lambda row, y: self.loss(row.reshape(f.shape[1:]), y)
        hessians = jax.vmap(jax.hessian(loss))(flat, self._targets_like(f))
        scale = scale.reshape(-1, 1, 1)
        return scale * hessians

    def scale(self, step: Any, dtype: Any) -> Any:
        """What multiplies the examples' losses in one step."""
        scales = jnp.asarray(self.scales, dtype)
        return scales[step % len(scales)]

    def _targets_like(self, f: Any) -> Any:
        y = jnp.asarray(self.y_train)
        return y.astype(f.dtype) if jnp.issubdtype(y.dtype, jnp.floating) else y


def _mask(labelled: Any, n: int) -> np.ndarray:
    mask = np.ones(n, bool) if labelled is None else np.asarray(labelled)
    if mask.shape != (n,) or mask.dtype != bool or not mask.any():
        raise ValueError(
            f"`labelled` must say of each of the {n} training examples whether it has "
            f"a label, and of one at least that it has: bools of shape ({n},). But it "
            f"has shape {mask.shape}, dtype {mask.dtype} and {int(mask.sum())} labels."
        )
    return mask


def _targets(y_train: Any, n: int, labelled: np.ndarray) -> Any:
    """Targets, where those without a label are some that the loss can take."""
    y = y_train
    if not hasattr(y, "dtype"):
        y = (jnp if _checks.is_traced(y) else np).asarray(y)
    if y.ndim == 0 or y.shape[0] != n:
        raise ValueError(
            f"`y_train` must hold one target for each of the {n} training examples "
            f"along its first axis, but it has shape {y.shape}."
        )
    if not labelled.all():
        y = y[np.where(labelled, np.arange(n), np.argmax(labelled))]
    return y if jnp.issubdtype(y.dtype, jnp.integer) else arguments.array("y_train", y)


def _scales(c: Any, weights: Any, labelled: Any, batches: Any, n: int) -> Any:
    """What multiplies each example's loss in each step, `(n_batches, n)`."""
    members = np.ones((1, n)) if batches is None else _members(batches, n)
    if weights is not None:
        weights = arguments.array("weights", weights)
        if weights.shape != (n,):
            raise ValueError(
                f"`weights` must hold one number of at least 0 for each of the {n} "
                f"training examples, but it has shape {weights.shape}."
            )
        weights = _at_least_zero("weights", weights)
    if batches is not None and np.ndim(c) == 1:
        c = arguments.array("c", c)
        if c.shape != (len(members),):
            raise ValueError(
                f"`c` must be one number, or one for each of the {len(members)} "
                f"`batches`, but it has shape {c.shape}."
            )
        c = _at_least_zero("c", c)[:, None]
    else:
        c = arguments.number(_checks.positive("c", c))
    traced = _checks.is_traced(c, weights)
    xp = jnp if traced else np
    scales = xp.asarray(members * labelled, dtype=jnp.result_type(float))
    if weights is not None:
        scales = scales * xp.asarray(weights, dtype=scales.dtype)[None]
    return scales * (c if isinstance(c, float) else xp.asarray(c, dtype=scales.dtype))


def _members(batches: Any, n: int) -> np.ndarray:
    """How often each example is in each batch."""
    needed = (
        "`batches` must hold, for each step, the indices of its examples, such as "
        f"[[0, 1, 2], [3, 4]], from 0 to {n - 1}"
    )
    batches = [np.asarray(batch) for batch in batches]
    if not batches:
        raise ValueError(f"{needed}, but there are none.")
    members = np.zeros((len(batches), n))
    for i, batch in enumerate(batches):
        right = batch.ndim == 1 and batch.size and batch.dtype.kind in "iu"
        if not right or batch.min() < 0 or batch.max() >= n:
            raise ValueError(f"{needed}, but the one of step {i} is {batch}.")
        np.add.at(members[i], batch, 1)
    return members


def _at_least_zero(name: str, value: Any) -> Any:
    text = f"`{name}` must hold numbers of at least 0."
    if _checks.is_traced(value):
        return eqx.error_if(value, jnp.any(value < 0), text)
    if (np.asarray(value) < 0).any():
        raise ValueError(f"{text} Its smallest is {np.min(value):g}.")
    return value


def _check_scalar(loss: Any, f: Any, y: Any) -> None:
    got = jax.eval_shape(loss, f[0], y[0])
    if getattr(got, "shape", None) != () or not jnp.issubdtype(got.dtype, jnp.floating):
        raise ValueError(
            "`loss` must give one number for one output and its target, of shapes "
            f"{f.shape[1:]} and {y.shape[1:]}, but it gives {got}."
        )


def _check_domain(loss: Any, f: Any, y: np.ndarray) -> None:
    """Labels that a loss of ours would take for others."""
    if isinstance(loss, functools.partial):
        loss = loss.func
    if loss is losses.logistic and ((y < 0) | (y > 1)).any():
        raise ValueError(
            "`logistic` needs targets of 1 for yes and 0 for no, but they go from "
            f"{y.min():g} to {y.max():g}. Of -1 and 1 type `(y + 1) / 2`."
        )
    if loss is losses.softmax_cross_entropy and y.dtype.kind in "iu":
        classes = f.shape[-1]
        if y.min() < 0 or y.max() >= classes:
            raise ValueError(
                f"`softmax_cross_entropy` counts the {classes} classes from 0, but the "
                f"targets go from {y.min()} to {y.max()}. Which examples have no label "
                "is said by `labelled`."
            )
    if loss is losses.softmax_cross_entropy and y.dtype.kind == "f" and y.ndim > 1:
        total = y.sum(axis=-1)
        if (y < 0).any() or (np.abs(total - 1) > 1e-3).any():
            raise ValueError(
                "`softmax_cross_entropy` needs probabilities as targets, of at least 0 "
                f"and a sum of 1 over the last axis, but the sums go from "
                f"{total.min():g} to {total.max():g}. Centred labels are for `squared`."
            )
