"""How a function of parameters and one example becomes a model of the zoo."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from ..helpers import Case, numpy_rng


class Function(eqx.Module):
    """A function of one example and of named parameters."""

    parameters: dict[str, jax.Array]
    apply: Callable = eqx.field(static=True)

    def __call__(self, x):
        return self.apply(x, **self.parameters)


def member(zoo, x=(3,), *, tokens=0, frozen=(), draw=None, **shapes):
    """Enter a function under its name; `shapes` are those of its parameters.

    `frozen` names arguments that are drawn like the parameters and are none.
    """

    def build(apply):
        def with_key(key):
            rng = numpy_rng(key)
            draw = lambda shape: jnp.asarray(0.7 * rng.standard_normal(shape))
            return Function({name: draw(s) for name, s in shapes.items()}, apply)

        return with_key

    def mask(model):
        chosen = {name: name not in frozen for name in model.parameters}
        return eqx.tree_at(lambda m: m.parameters, model, chosen)

    def enter(apply):
        name = apply.__name__.replace("_", " ")
        assert name not in zoo, name
        trainable = mask if frozen else None
        zoo[name] = Case(build(apply), x, tokens, trainable, draw)
        return apply

    return enter


def generic(build):
    """The model with no parameter left at a special value such as 0 or 1."""

    def with_key(key):
        rng = numpy_rng(key)
        # Shapes are traced and numbers come from NumPy, so that nothing is compiled.
        model = eqx.filter_eval_shape(build, key)
        if any(map(_needs_its_value, jtu.tree_leaves(model, is_leaf=_is_state))):
            model = build(key)

        def moved(node):
            if isinstance(node, jax.ShapeDtypeStruct):
                return jnp.asarray(0.7 * rng.standard_normal(node.shape), node.dtype)
            if eqx.is_inexact_array(node):
                return node + jnp.asarray(0.3 * rng.standard_normal(node.shape))
            return node

        return jtu.tree_map(moved, model, is_leaf=_is_state)

    return with_key


def _is_state(node):
    return isinstance(node, eqx.nn.State | eqx.nn.StateIndex)


def _needs_its_value(leaf):
    return _is_state(leaf) or (
        isinstance(leaf, jax.ShapeDtypeStruct)
        and not jnp.issubdtype(leaf.dtype, jnp.floating)
    )
