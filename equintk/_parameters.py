"""Which leaves of a model are its parameters, and what it does with one example."""

import functools
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, PyTree

from ._compiled import filter_jit
from ._types import Model, Trainable


def partition(model: Model, trainable: Trainable) -> tuple[PyTree, PyTree]:
    """Split a model into its parameters and everything else, as `equinox.partition`.

    Raises:
        ValueError: if nothing is selected, or something that cannot be differentiated.
    """
    if not callable(model):
        raise ValueError(
            f"`model` must be a module that is called with one example, but it is "
            f"{_kind(model)}, which cannot be called. Give it a `__call__`."
        )
    if trainable is None:
        trainable = jtu.tree_map(
            lambda node: not is_state(node) and eqx.is_inexact_array(node),
            model,
            is_leaf=is_state,
        )
    params, static = eqx.partition(model, trainable)
    selected = jtu.tree_leaves_with_path(params)
    if not selected:
        raise ValueError(
            f"`model` has no parameters, but a kernel needs some; got {_kind(model)}. "
            "What a function closes over cannot be seen from outside: pass the "
            "`equinox.Module` itself, or a small module that holds it and calls it. "
            "If `trainable` is given, it must select at least one array."
        )
    for path, leaf in selected:
        if not eqx.is_inexact_array(leaf):
            raise ValueError(
                f"`trainable` selects the leaf `model{jtu.keystr(path)}`, which is "
                f"{_kind(leaf)}; only floating-point arrays are parameters. Select "
                "with `equinox.is_inexact_array`, or leave this leaf out."
            )
    return params, static


def refuse_complex(params: PyTree, what: str) -> None:
    """Raise where a function knows real parameters alone.

    Raises:
        ValueError: if a parameter is complex.
    """
    for path, leaf in jtu.tree_leaves_with_path(params):
        if jnp.iscomplexobj(leaf):
            raise ValueError(
                f"The parameter `model{jtu.keystr(path)}` is complex, which `{what}` "
                "cannot use: hold its real and imaginary parts as two real arrays."
            )


def output_structs(model: Model, example: PyTree) -> PyTree:
    """Shape and dtype of each array that the model returns for one example.

    Args:
        model: the model.
        example: one example, of which only shapes are read.

    Raises:
        ValueError: if the model couples examples, or it returns no arrays, or others
            than floating-point ones.
    """
    return refuse_other_outputs(eqx.filter_eval_shape(_called, model, example))


def called(model: Model, example: PyTree) -> PyTree:
    """The output for one example, while shapes are traced.

    Raises:
        ValueError: if the model couples examples.
    """
    try:
        return model(example)
    except NameError as error:
        if "unbound axis name" not in str(error):
            raise
        raise ValueError(
            f"`model` couples the examples of a batch ({error}), so it has no kernel "
            "between two examples. Put batch normalisation into inference mode with "
            "`equinox.nn.inference_mode(model)`, and leave collectives out."
        ) from error
    except Exception as error:
        error.add_note(
            "equintk called `model(x)` on one example, without a batch axis, of shape "
            f"{jtu.tree_map(jnp.shape, example)}. If that is a single entry of your "
            "example, pass `x[None]`; if it is a batch, pass one of it."
        )
        raise


def refuse_other_outputs(out: PyTree) -> PyTree:
    """The output itself, or its shapes and dtypes.

    Raises:
        ValueError: if it is no arrays, or others than floating-point ones.
    """
    leaves = jtu.tree_leaves(out)
    if not leaves:
        raise ValueError(f"`model(x)` must return arrays, but it returned {out!r}.")
    for leaf in leaves:
        dtype = getattr(leaf, "dtype", type(leaf).__name__)
        if not (hasattr(leaf, "shape") and jnp.issubdtype(dtype, jnp.inexact)):
            raise ValueError(
                "`model(x)` must return floating-point arrays, but it returned "
                f"{dtype}. Return what the kernel is of, and nothing else."
            )
        if leaf.size == 0:
            raise ValueError(
                f"`model(x)` returned an empty array of shape {leaf.shape}."
            )
    return out


# Compiled for its cache, so that a model is read once.
_called = filter_jit(called)


def output_struct(model: Model, example: PyTree) -> jax.ShapeDtypeStruct:
    """The same of a model that returns one real array.

    Raises:
        ValueError: as `output_structs`, and if the output is no single real array.
    """
    out = output_structs(model, example)
    if not isinstance(out, jax.ShapeDtypeStruct):
        raise ValueError(
            "`model(x)` must return one array, but it returned "
            f"{jtu.tree_structure(out)}. Return one array, for example by "
            "concatenating the parts."
        )
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise ValueError(
            f"`model(x)` must return real floating-point numbers, but it returned "
            f"{out.dtype}. Split complex outputs into real and imaginary parts."
        )
    return out


def real_outputs(out: PyTree) -> list[Array]:
    """The arrays of an output; a complex one gets a last axis, (real, imaginary)."""
    return [
        jnp.stack([leaf.real, leaf.imag], axis=-1) if jnp.iscomplexobj(leaf) else leaf
        for leaf in map(jnp.asarray, jtu.tree_leaves(out))
    ]


def common_dtype(leaves: Sequence[Any]) -> Any:
    """The dtype that holds all, also where the user forbids silent promotion."""
    with jax.numpy_dtype_promotion("standard"):
        return functools.reduce(jnp.promote_types, (leaf.dtype for leaf in leaves))


def wide_dtype(leaves: Sequence[Any]) -> Any:
    """The same, and float32 at least."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(common_dtype(leaves), jnp.float32)


def is_state(node: Any) -> bool:
    """Running statistics, which are constants of a model and not its parameters."""
    return isinstance(node, eqx.nn.State | eqx.nn.StateIndex)


def _kind(thing: Any) -> str:
    if eqx.is_array_like(thing):
        array = jnp.asarray(thing)
        return f"an array of dtype {array.dtype} and shape {array.shape}"
    return f"a {type(thing).__name__}"
