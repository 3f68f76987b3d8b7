"""Kernels averaged over outputs, from features of a few outputs at a time.

Such a kernel is a sum over outputs, so the features of all need not be held: those of a
few stay in a processor's cache from where they are made to where they are contracted.
What no output enters is computed once, before the loop: the forward pass, activations,
derivatives that are separable. Of these products follow after the loop.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax import lax
from jax.core import eval_jaxpr
from jax.extend.core import DebugInfo, Jaxpr, Var
from jaxtyping import Array

from .._trace.flatten import Flat, aval, depending
from .backward import OneOutput, one_hot
from .contraction import array_bytes, completed, summands, summands_bytes
from .features import Dense, FeatureProgram, Features, Gram, read_features
from .modes import Mode

# Features of all outputs, in bytes, up to which they stay in a cache anyway.
_CACHED = 2**24

# The same up to which a loop over outputs spares less in several calls than it costs to
# compile: a tenth of a second, for a tenth of each call.
_FEW = 2**25

# The same of the outputs of one turn; of one output at least.
_ONE_TURN = 2**21

# Examples from which on what is left out below a diagonal is worth more: tiles do that.
_MOST = 512

_SHAPES = frozenset("broadcast_in_dim reshape squeeze".split())


class Turns(NamedTuple):
    """Features in two steps: of what no output enters, and of the outputs of one turn.

    Attributes:
        program: the features of one turn.
        before: of the model's arrays and an example to what `after` takes last.
        after: of the model's arrays, cotangents, an example and that to the features.
        varies: for each result of `before`, whether it varies with the example.
        outputs: the numbers of the outputs of each turn, -1 for none.
        size: of the output.
        dtype: of the output.
    """

    program: FeatureProgram
    before: Flat
    after: Flat
    varies: tuple[bool, ...]
    outputs: np.ndarray
    size: int
    dtype: Any

    @property
    def features_of_one(self) -> Features:
        """The shapes and dtypes of the features of one example and turn."""
        shared, each = self.program.of_one()
        return eqx.combine(each, shared)

    def contracted(
        self,
        arrays: Sequence[Array],
        x1: Sequence[Array],
        x2: Sequence[Array] | None,
        precision: str,
    ) -> list[list[Array]]:
        """What `contraction.contracted` gives of the features of all outputs.

        Args:
            arrays: of the model.
            x1: the arrays of the examples that index the rows.
            x2: the same of the columns; `None` means `x1` again.
            precision: of the products.
        """
        first = self._before(arrays, x1)
        second = None if x2 is None else self._before(arrays, x2)

        def features(numbers: Array) -> tuple[Features, Features]:
            one = self._after(arrays, numbers, x1, first)
            if x2 is None or second is None:
                return one, one
            return one, self._after(arrays, numbers, x2, second)

        def add(total: Any, numbers: Array) -> tuple[Any, None]:
            part = summands(*features(numbers), precision)
            return jtu.tree_map(jnp.add, total, part), None

        outputs = jnp.asarray(self.outputs)
        shapes = jax.eval_shape(lambda: summands(*features(outputs[0]), precision))
        start = jtu.tree_map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
        total, _ = lax.scan(add, start, outputs)
        # Of any turn: what is read of them is the same in all.
        return completed(*features(outputs[0]), total, precision)

    def _before(self, arrays: Sequence[Array], x: Sequence[Array]) -> list[Array]:
        jaxpr, consts = self.before
        return jax.vmap(
            lambda *xs: eval_jaxpr(jaxpr, consts, *arrays, *xs),
            out_axes=[0 if varies else None for varies in self.varies],
        )(*x)

    def _after(
        self,
        arrays: Sequence[Array],
        numbers: Array,
        x: Sequence[Array],
        before: Sequence[Array],
    ) -> Features:
        jaxpr, consts = self.after
        cotangents = one_hot(numbers, self.size, self.dtype)
        found = jax.vmap(
            lambda xs, kept: eval_jaxpr(jaxpr, consts, *arrays, cotangents, *xs, *kept),
            in_axes=(0, [0 if varies else None for varies in self.varies]),
            out_axes=[None if alike else 0 for alike in self.program.alike],
        )(list(x), list(before))
        return self.program.features(found)


def turns_of(
    one_output: OneOutput,
    n_fixed: int,
    modes: Sequence[Mode],
    n_pairs: int,
    by_leaf: bool,
    program: FeatureProgram,
) -> Callable[[int, int], Turns | None]:
    """For the numbers of examples on both sides, how outputs take turns.

    `None` where features of all outputs at once are better: where they stay in a cache,
    or are so few that a loop would have to be compiled for little, where there are
    convolutions in the backward pass, which are several times slower in
    XLA's loops, and where most features are gradients, which are written faster for
    many outputs at once.

    Args:
        one_output: the model's backward pass, as for `read_features`.
        n_fixed: how many arrays the model has.
        modes: what becomes of each output array's axes.
        n_pairs: the number of pairs that one example is in.
        by_leaf: whether the kernel of each leaf is wanted.
        program: the features of all outputs.
    """
    flat = one_output.structure.flat
    shared, each = program.of_one()
    features_of_all, example_bytes = eqx.combine(each, shared), array_bytes(each)

    def are_gradients(features: Features) -> bool:
        gradients, derivatives = _written(features)
        return gradients > derivatives

    @functools.cache
    def goes_back() -> bool:
        return convolves(flat, flat.jaxpr.invars[: one_output.structure.n_leaves])

    @functools.cache
    def read(together: int) -> Turns | None:
        (mode,) = modes
        # A few outputs are not separable, so that there more is written of them.
        is_separable = any(one.weights is not None for one in features_of_all)
        if are_gradients(features_of_all) and not is_separable:
            return None
        turns = _read(
            one_output, n_fixed, mode._replace(together=together), n_pairs, by_leaf
        )
        return None if are_gradients(turns.features_of_one) else turns

    def turns(n1: int, n2: int) -> Turns | None:
        n = max(n1, n2)
        if n * example_bytes <= _FEW or not leaves_cache(n, modes, example_bytes):
            return None
        if goes_back():
            return None
        n_averaged = modes[0].sizes[2]
        together = max(1, _ONE_TURN * n_averaged // (n * example_bytes))
        if 2 * together > n_averaged:
            return None
        # The same in each turn, as nearly as can be.
        found = read(-(-n_averaged // -(-n_averaged // together)))
        if found is None:
            return None
        # Sums are read and written in each turn: less than the features that are not.
        features = found.features_of_one
        sums = n1 * n2 * summands_bytes(features)
        return found if sums <= n * sum(_written(features)) else None

    return turns


def leaves_cache(n: int, modes: Sequence[Mode], example_bytes: int) -> bool:
    """Whether features of `n` examples would leave a processor's cache for memory.

    Of one output array, and of as few examples as one program takes.
    """
    is_one = len(modes) == 1 and n <= _MOST
    return is_one and n * example_bytes > _CACHED and jax.default_backend() == "cpu"


def _read(
    one_output: OneOutput, n_fixed: int, mode: Mode, n_pairs: int, by_leaf: bool
) -> Turns:
    (result,) = map(aval, one_output.structure.flat.jaxpr.outvars)
    e, f, n_averaged = mode.sizes
    *_, together = mode.present
    n_turns = -(-n_averaged // together)
    outputs = np.full((e * f, n_turns * together), -1)
    outputs[:, :n_averaged] = mode.order.reshape(e * f, n_averaged)
    outputs = outputs.reshape(e * f, n_turns, together).swapaxes(0, 1)
    outputs = outputs.reshape(n_turns, e * f * together)
    cotangents = jax.ShapeDtypeStruct((outputs.shape[1], result.size), result.dtype)
    program = read_features(one_output, n_fixed, [mode], n_pairs, by_leaf, [cotangents])
    before, after, varies = _in_two(program.flat, n_fixed)
    return Turns(program, before, after, varies, outputs, result.size, result.dtype)


def _in_two(flat: Flat, n_fixed: int) -> tuple[Flat, Flat, tuple[bool, ...]]:
    """The equations that cotangents do not enter, and the others; see `Turns`."""
    inputs, results = list(flat.jaxpr.invars), list(flat.jaxpr.outvars)
    fixed, cotangents, xs = inputs[:n_fixed], inputs[n_fixed], inputs[n_fixed + 1 :]
    of_outputs, of_examples = depending(flat, [cotangents]), depending(flat, xs)
    first, then = [], []
    needed = {result for result in results if isinstance(result, Var)}
    for eqn in reversed(flat.jaxpr.eqns):
        is_first = of_outputs.isdisjoint(eqn.outvars)
        # Kept is what it was before: numbers that are kept in another shape are often
        # copied, by a loop that has to be compiled.
        is_again = eqn.primitive.name in _SHAPES and not needed.isdisjoint(eqn.outvars)
        if is_first:
            first.append(eqn)
        if is_again or not is_first:
            then.append(eqn)
            needed |= {atom for atom in eqn.invars if isinstance(atom, Var)}
    made = {var for eqn in first for var in eqn.outvars}
    made -= {var for eqn in then for var in eqn.outvars}
    first, then = first[::-1], then[::-1]
    kept = [
        var for eqn in first for var in eqn.outvars if var in needed and var in made
    ]
    before = _part(flat, [*fixed, *xs], kept, first)
    after = _part(flat, [*fixed, cotangents, *xs, *kept], results, then)
    return before, after, tuple(var in of_examples for var in kept)


def _part(flat: Flat, inputs: list[Any], results: list[Any], eqns: list[Any]) -> Flat:
    names = ("",) * len(inputs), ("",) * len(results)
    debug_info = DebugInfo("equintk", "turns", *names)
    jaxpr = flat.jaxpr
    part = Jaxpr(jaxpr.constvars, inputs, results, eqns, jaxpr.effects, debug_info)
    return Flat(part, flat.consts)


def convolves(flat: Flat, inputs: Sequence[Any]) -> bool:
    """Whether some inputs enter a convolution, in loops or branches too."""
    entered = depending(flat, inputs)
    return any(
        "conv_general_dilated" in str(eqn)  # the text of a loop has that of its body
        for eqn in flat.jaxpr.eqns
        if not entered.isdisjoint(eqn.outvars)
    )


def _written(features: Features) -> tuple[int, int]:
    """Bytes of one example's gradients, and of its derivatives, that outputs enter."""
    gradients = derivatives = 0
    for feature in features:
        if feature.weights is None:
            if isinstance(feature, Dense):
                gradients += array_bytes(feature.gradients)
            elif isinstance(
                feature, Gram
            ):  # one axis less where they are alike for all examples
                varying = [d for d in feature.derivatives if d.ndim > 1]
                derivatives += array_bytes(varying)
    return gradients, derivatives
