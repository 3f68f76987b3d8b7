r"""Kernels averaged over many outputs, from features of a few outputs at a time.

An averaged kernel is a sum over outputs, so features need not be held of all of them:
of a few they stay in a processor's cache from where they are made to where they are
contracted. What does not depend on the output is computed once, before the loop over
outputs: the forward pass, activations, and derivatives that are separable.
"""

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax import lax
from jax.core import eval_jaxpr
from jax.extend.core import DebugInfo, Jaxpr, Var
from jaxtyping import Array

from .._trace.flatten import Flat, aval, depending
from .contraction import completed, summands
from .features import FeatureProgram, Features, read_features
from .modes import Mode

class Turns(NamedTuple):
    """The features' program in two: what does not depend on outputs, and what does.

    Attributes:
        program: of the outputs of one turn.
        before: of the model's arrays and an example; gives what `after` takes last.
        after: of the model's arrays, cotangents, an example and that: the features.
        varies: for each result of `before` whether it varies with the example.
        outputs: the numbers of the outputs of each turn, -1 for none.
    """

    program: FeatureProgram
    before: Flat
    after: Flat
    varies: tuple[bool, ...]
    outputs: np.ndarray
    shape: Any

    def __call__(
        self,
        arrays: Sequence[Array],
        x1: Sequence[Array],
        x2: Sequence[Array] | None,
        precision: str,
    ) -> list[list[Array]]:
        """What `contracted` gives of the features of all outputs."""
        one = (x1, self._before(arrays, x1))
        two = None if x2 is None else (x2, self._before(arrays, x2))

        def features(numbers: Array) -> tuple[Features, Features]:
            f1 = self._after(arrays, numbers, *one)
            return f1, f1 if two is None else self._after(arrays, numbers, *two)

        def add(total: Any, numbers: Array) -> tuple[Any, None]:
            part = summands(*features(numbers), precision)
            return jtu.tree_map(jnp.add, total, part), None

        outputs = jnp.asarray(self.outputs)
        shapes = jax.eval_shape(lambda: summands(*features(outputs[0]), precision))
        total, _ = lax.scan(
            add, jtu.tree_map(lambda a: jnp.zeros(a.shape, a.dtype), shapes), outputs
        )
        return completed(*features(outputs[0]), total, precision)

    def _before(self, arrays: Sequence[Array], x: Sequence[Array]) -> list[Array]:
        return jax.vmap(
            lambda *xs: eval_jaxpr(
                self.before.jaxpr, self.before.consts, *arrays, *xs
            ),
            out_axes=[0 if varies else None for varies in self.varies],
        )(*x)

    def _after(
        self,
        arrays: Sequence[Array],
        numbers: Array,
        x: Sequence[Array],
        before: list[Array],
    ) -> Features:
        cotangents = jax.nn.one_hot(numbers, self.shape.size, dtype=self.shape.dtype)
        found = jax.vmap(
            lambda xs, before: eval_jaxpr(
                self.after.jaxpr, self.after.consts, *arrays, cotangents, *xs, *before
            ),
            in_axes=(0, [0 if varies else None for varies in self.varies]),
            out_axes=[None if a else 0 for a in self.program.alike],
        )(list(x), before)
        return self.program.features(found)


def turns_of(
    flat: Flat,
    n_leaves: int,
    n_fixed: int,
    modes: Sequence[Mode],
    n_pairs: int,
    by_leaf: bool,
    example_bytes: int,
) -> Callable[[int, int], Turns | None]:
    """For the numbers of examples on both sides, how to take outputs in turns.

    `None` where features of all outputs at once are better.
    """
    read = functools.cache(
        lambda together: _read(flat, n_leaves, n_fixed, modes, n_pairs, by_leaf, together)
    )

    def turns(n1: int, n2: int) -> Turns | None:
        n, t = max(n1, n2), modes[0].sizes[2]
        held = n * example_bytes
        if len(modes) > 1 or t == 1 or n > _MOST or held <= _CACHED or jax.default_backend() != "cpu":
            return None
        together = max(1, int(_TOGETHER * t / held))
        if 2 * together > t:
            return None
        return read(-(-t // -(-t // together)))
    return turns


def _read(
    flat: Flat,
    n_leaves: int,
    n_fixed: int,
    modes: Sequence[Mode],
    n_pairs: int,
    by_leaf: bool,
    together: int,
) -> Turns | None:
    (mode,) = modes
    (result,) = flat.jaxpr.outvars
    e, f, t = mode.sizes
    n_turns = -(-t // together)
    numbers = np.full((e * f, n_turns * together), -1)
    numbers[:, :t] = mode.order.reshape(e * f, t)
    numbers = numbers.reshape(e * f, n_turns, together).swapaxes(0, 1)
    numbers = numbers.reshape(n_turns, -1)
    cotangents = jax.ShapeDtypeStruct((numbers.shape[1], aval(result).size), aval(result).dtype)
    program = read_features(
        flat, n_leaves, n_fixed, [mode._replace(together=together)], n_pairs, by_leaf,
        [cotangents],
    )
    before, after, varies = _halves(program.flat, n_fixed, 1)
    if "conv_general_dilated" in str(after.jaxpr):
        return None
    return Turns(program, before, after, varies, numbers, aval(result))


def _halves(flat: Flat, n_fixed: int, n_outputs: int):
    jaxpr = flat.jaxpr
    fixed, cotangents = jaxpr.invars[:n_fixed], jaxpr.invars[n_fixed : n_fixed + n_outputs]
    xs = jaxpr.invars[n_fixed + n_outputs :]
    of_outputs, of_examples = depending(flat, cotangents), depending(flat, xs)
    first = [eqn for eqn in jaxpr.eqns if of_outputs.isdisjoint(eqn.outvars)]
    then = [eqn for eqn in jaxpr.eqns if not of_outputs.isdisjoint(eqn.outvars)]
    made = {var for eqn in first for var in eqn.outvars}
    read = [atom for eqn in then for atom in eqn.invars] + list(jaxpr.outvars)
    kept = list(dict.fromkeys(a for a in read if isinstance(a, Var) and a in made))
    varies = tuple(var in of_examples for var in kept)
    before = _jaxpr(jaxpr, [*fixed, *xs], kept, first)
    after = _jaxpr(jaxpr, [*fixed, *cotangents, *xs, *kept], jaxpr.outvars, then)
    return Flat(before, flat.consts), Flat(after, flat.consts), varies

def _jaxpr(jaxpr, inputs, results, eqns):
    names = ("",) * len(inputs), ("",) * len(results)
    debug_info = DebugInfo("equintk", "backward", *names)
    return Jaxpr(jaxpr.constvars, inputs, results, eqns, jaxpr.effects, debug_info)

_MOST=512
_CACHED=float(os.environ.get('CACHED',24))*2**20
_TOGETHER=float(os.environ.get('TOG',8))*2**20
