"""A jaxpr with its calls inlined, and the means to evaluate it equation by equation.

`jit`, checkpointing and closed calls only group equations, so they go. `custom_jvp` and
`custom_vjp` stay as they are: what is inside them is not what is differentiated. So do
loops and branches, whose bodies are flattened when they are looked into.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.core import eval_jaxpr
from jax.extend.core import DebugInfo, DropVar, Jaxpr, JaxprEqn, Literal, Var

_CALLS = frozenset(
    ("jit", "pjit", "remat2", "remat", "checkpoint", "closed_call", "core_closed_call")
    + ("call", "core_call", "named_call")
)


class Flat(NamedTuple):
    """A jaxpr without calls, and the constants that it closes over."""

    jaxpr: Jaxpr
    consts: tuple[Any, ...]


class ScanParts(NamedTuple):
    """How the operands of a `scan` are divided, and its body.

    Operands are `n_consts` constants, `n_carry` carries and then the scanned arrays;
    results are the carries and then the stacked arrays.
    """

    body: Flat
    n_consts: int
    n_carry: int


def flatten(function: Callable[..., Any], *args: Any) -> Flat:
    """The flat jaxpr of a function of arrays (or of their shapes) that returns arrays.

    Its inputs and outputs are the leaves of `args` and of the result, in order.
    """
    closed = jax.make_jaxpr(function)(*args)
    return inlined(closed.jaxpr, closed.consts)


def inlined(jaxpr: Jaxpr, consts: Sequence[Any] = ()) -> Flat:
    """The same jaxpr with its calls inlined, at any depth of calls."""
    if not any(eqn.primitive.name in _CALLS for eqn in jaxpr.eqns):
        return Flat(jaxpr, tuple(consts))
    closed = jax.make_jaxpr(lambda *args: _inline(jaxpr, consts, args))(
        *map(struct_of, jaxpr.invars)
    )
    return Flat(closed.jaxpr, tuple(closed.consts))


def evaluate(eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """What an equation gives for these values of its operands, in their order.

    Through a jaxpr of this one equation, since how a primitive is bound differs
    between versions of JAX.
    """
    operands = {
        var: value
        for var, value in zip(eqn.invars, values, strict=True)
        if isinstance(var, Var)
    }
    kept = [var for var in eqn.outvars if not isinstance(var, DropVar)]
    names = ("",) * len(operands), ("",) * len(kept)
    debug_info = DebugInfo("equintk", eqn.primitive.name, *names)
    alone = Jaxpr((), list(operands), kept, [eqn], eqn.effects, debug_info)
    results = iter(eval_jaxpr(alone, (), *operands.values()))
    return [None if isinstance(var, DropVar) else next(results) for var in eqn.outvars]


class Environment:
    """The values of a jaxpr's variables while it is interpreted."""

    def __init__(self, flat: Flat, args: Sequence[Any]):
        self._values: dict[Any, Any] = {}
        self.write(flat.jaxpr.constvars, flat.consts)
        self.write(flat.jaxpr.invars, args)

    def read(self, atoms: Sequence[Any]) -> list[Any]:
        """The values of variables and literals."""
        return [
            atom.val if isinstance(atom, Literal) else self._values[atom]
            for atom in atoms
        ]

    def write(self, variables: Sequence[Any], values: Sequence[Any]) -> None:
        """Give variables their values; those that nobody reads are dropped."""
        for var, value in zip(variables, values, strict=True):
            if not isinstance(var, DropVar):
                self._values[var] = value


def subjaxpr(jaxpr: Any) -> tuple[Jaxpr, tuple[Any, ...]]:
    """A jaxpr among an equation's parameters, and its constants: closed or not."""
    return getattr(jaxpr, "jaxpr", jaxpr), tuple(getattr(jaxpr, "consts", ()))


def aval(atom: Any) -> Any:
    """Shape and dtype of a variable or a literal."""
    return atom.aval


def depending(flat: Flat, inputs: Sequence[Any]) -> set[Any]:
    """All variables that depend on any of these, themselves included."""
    found = set(inputs)
    for eqn in flat.jaxpr.eqns:
        if any(isinstance(atom, Var) and atom in found for atom in eqn.invars):
            found.update(eqn.outvars)
    return found


def most_bytes(flat: Flat, inputs: Sequence[Any]) -> int:
    """The most bytes held at once of all that depends on these, results included.

    As if equations were computed one by one, in order, and nothing kept for longer than
    it is read. Compilers do better and worse, but not by much.
    """
    varying = depending(flat, inputs)
    last = {
        atom: number
        for number, eqn in enumerate(flat.jaxpr.eqns)
        for atom in eqn.invars
        if isinstance(atom, Var)
    }
    last |= dict.fromkeys(
        (atom for atom in flat.jaxpr.outvars if isinstance(atom, Var)), -1
    )
    held = most = 0
    for number, eqn in enumerate(flat.jaxpr.eqns):
        made = [var for var in eqn.outvars if var in varying and var in last]
        held += sum(_n_bytes(var) for var in made)
        most = max(most, held)
        read = {atom for atom in eqn.invars if isinstance(atom, Var)}
        done = [var for var in read if var in varying and last[var] == number]
        held -= sum(_n_bytes(var) for var in done if var not in flat.jaxpr.invars)
    return most


def _n_bytes(var: Any) -> int:
    # Random keys have no size in bytes.
    return aval(var).size * getattr(aval(var).dtype, "itemsize", 0)


def struct_of(var: Any) -> jax.ShapeDtypeStruct:
    """What a function is traced with in the place of a variable."""
    return jax.ShapeDtypeStruct(
        aval(var).shape, aval(var).dtype, weak_type=aval(var).weak_type
    )


def scan_parts(eqn: JaxprEqn) -> ScanParts:
    """The parts of a `scan`, told by the ranks of its operands and of its body's.

    Its parameters that say so are named differently in different versions of JAX.
    """
    jaxpr, consts = subjaxpr(eqn.params["jaxpr"])
    n_carry = _n_unstacked(eqn.outvars, jaxpr.outvars)
    n_consts = _n_unstacked(eqn.invars, jaxpr.invars) - n_carry
    return ScanParts(inlined(jaxpr, consts), n_consts, n_carry)


def _n_unstacked(outer: Sequence[Any], inner: Sequence[Any]) -> int:
    return sum(
        len(aval(out).shape) == len(aval(body).shape)
        for out, body in zip(outer, inner, strict=True)
    )


def _inline(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    environment = Environment(Flat(jaxpr, tuple(consts)), args)
    for eqn in jaxpr.eqns:
        values = environment.read(eqn.invars)
        if eqn.primitive.name in _CALLS:
            name = "jaxpr" if "jaxpr" in eqn.params else "call_jaxpr"
            results = _inline(*subjaxpr(eqn.params[name]), values)
        else:
            results = evaluate(eqn, values)
        environment.write(eqn.outvars, results)
    return environment.read(jaxpr.outvars)
