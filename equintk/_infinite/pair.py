"""Both kernels of a pair of blocks of examples, compiled."""

import hashlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax import lax

from .._checks import is_traced
from .._programs import Programs
from .._trace.flatten import Environment, Flat, aval, evaluate
from .arguments import Numbers, Reading
from .program import Program
from .stages import Stage, stages


class Pair(NamedTuple):
    """A compiled program.

    Attributes:
        programs: of a true value and the numbers among the arguments, and of blocks
            of identities and examples: what `Program.pair` gives, `(n1, n2, ...)`.
        exact: whether there is no series in it.
        bytes: what is held for one pair of examples at most.
        example_bytes: what is held for one example while its features are computed.
        held_bytes: of constants; `None` if some belong to a transformation.
    """

    programs: Programs
    exact: bool
    bytes: int
    example_bytes: int
    held_bytes: int | None


def pair_of(
    program: Program,
    reading: Reading,
    example: Any,
    numbers: Numbers,
    order: int,
    tangent: bool,
) -> Pair:
    """Trace what a program does with two examples, once for blocks of any size."""

    def of_pair(numbers: Numbers, one: Any, two: Any) -> Any:
        (mine, a), (its, b) = one, two
        inputs = (jtu.tree_leaves(a), jtu.tree_leaves(b))
        priors = lambda leaf: reading.prior(leaf, numbers)
        return program.pair(
            priors, inputs, mine == its, order, tangent, None, reading.vanishing
        )

    struct = lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype)
    shapes = jtu.tree_map(struct, (numbers, *[(jnp.int32(0), example)] * 2))
    closed, out = jax.make_jaxpr(of_pair, return_shape=True)(*shapes)
    treedef = jtu.tree_structure(out)
    parts = stages(closed, [len(jtu.tree_leaves(part)) for part in shapes])

    def features(arrays: Any, block: Any) -> Any:
        true, numbers = arrays
        shared, leaves = jtu.tree_leaves(numbers), jtu.tree_leaves(block)

        def each(*arrays: Any) -> Any:
            found = _evaluated(parts.each, true, [*shared, *arrays])
            # Which example it is, too: a kernel may depend on nothing else of it.
            which = arrays[0]
            return [which, *found[: parts.n_one]], [which, *found[parts.n_one :]]

        return (true, *_evaluated(parts.shared, true, shared)), jax.vmap(each)(*leaves)

    def kernel(shared: Any, one: Any, two: Any) -> Any:
        true, *numbers = shared
        of_leaves = lambda a, b: _evaluated(
            parts.both, true, [*numbers, *a[1:], *b[1:]]
        )
        over_columns = jax.vmap(of_leaves, (None, 0))
        found = jax.vmap(over_columns, (0, None))(one[0], two[1])
        return treedef.unflatten(found)

    flip = lambda kernels: jtu.tree_map(flipped, kernels)
    return Pair(
        Programs(features, kernel, flip), out[2] is None, parts.pair_bytes,
        parts.example_bytes, _held_bytes(closed.consts),
    )  # fmt: skip


def digest(array: Any) -> Any:
    """Equal for equal arrays; `None` where the values are not known."""
    if is_traced(array):
        return None
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    host = np.ascontiguousarray(array)
    return str(host.dtype), host.shape, hashlib.blake2b(host.tobytes()).digest()


def _held_bytes(consts: Any) -> int | None:
    if is_traced(list(consts)):
        return None
    return sum(getattr(a, "nbytes", 8) for a in consts)


def flipped(k: Any) -> Any:
    """A kernel of two blocks in the other order."""
    if k.ndim % 2:  # bounds, by order
        return k.swapaxes(0, 1)
    rank = (k.ndim - 2) // 2
    places = range(2, 2 + rank)
    return k.transpose(1, 0, *(p + rank for p in places), *places)


def _evaluated(stage: Stage, true: Any, args: list[Any]) -> list[Any]:
    """The results of a part, its closed forms computed by themselves.

    Otherwise each layer would be fused into all that reads it and computed again there,
    and with it the layers before: XLA keeps no fence on a processor but a condition.
    """
    jaxpr = stage.jaxpr
    environment = Environment(Flat(jaxpr, ()), [*stage.consts, *args])
    fences = jax.default_backend() == "cpu"
    for eqn in jaxpr.eqns:
        values = environment.read(eqn.invars)
        if fences and eqn.primitive.name == "custom_jvp_call":
            shapes = [aval(v) for v in eqn.outvars]
            results = lax.cond(
                true,
                lambda *values, eqn=eqn: evaluate(eqn, values),
                lambda *values, s=shapes: [jnp.full(a.shape, 0, a.dtype) for a in s],
                *values,
            )
        else:
            results = evaluate(eqn, values)
        environment.write(eqn.outvars, results)
    return environment.read(jaxpr.outvars)
