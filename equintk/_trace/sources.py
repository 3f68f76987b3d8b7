"""What the operands of a jaxpr's equations are computed from.

A `Path` leads to an equation, as in `uses`. Of what is not named here, every result is
taken to depend on every operand, which may say too much and never too little.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from jax.extend.core import DropVar, Jaxpr, JaxprEqn, Literal

from .flatten import Flat, aval, scan_parts
from .uses import Path


class Source(NamedTuple):
    """What a value is computed from.

    Attributes:
        leaves: the numbers of the parameter leaves.
        data: whether the model's input is among it.
        made_of: the leaves that a value without the input is made of by steps that are
            no activation function: such a value is a parameter itself, as the sum
            `W + B @ A` is, and no activations.
        scaled: whether it is a product with such a value, or a view of one.
        size: how many entries it has, copies left out.
    """

    leaves: frozenset[int] = frozenset()
    data: bool = False
    made_of: frozenset[int] = frozenset()
    scaled: bool = False
    size: int = 1

    @property
    def is_constant(self) -> bool:
        """Whether it is the same for all inputs and all parameters."""
        return not (self.data or self.leaves)

    @property
    def fed_by(self) -> frozenset[int]:
        """The leaves whose effect it carries, without those that it is made of."""
        return self.leaves - self.made_of


ACTIVATIONS = frozenset(
    (
        "tanh logistic sin cos exp exp2 log log1p expm1 erf erfc max min abs sign pow"
    ).split()
    + ("sqrt rsqrt integer_pow square atan atan2 asinh sinh cosh tan clamp").split()
    + ("custom_jvp_call custom_vjp_call argmax argmin lt gt le ge eq ne").split()
)

_VIEWS = frozenset(
    "reshape transpose squeeze expand_dims rev copy convert_element_type "
    "broadcast_in_dim".split()
)


def sources(flat: Flat, n_leaves: int) -> dict[Path, list[Source]]:
    """What the operands of each equation are computed from, in their order.

    The first `n_leaves` inputs of the jaxpr are parameters, the others the model's
    input. Equations in the bodies of scans are among them, at their paths.
    """
    found: dict[Path, list[Source]] = {}
    inputs = [
        Source(
            frozenset({i} if i < n_leaves else ()),
            i >= n_leaves,
            frozenset({i} if i < n_leaves else ()),
            size=aval(var).size,
        )
        for i, var in enumerate(flat.jaxpr.invars)
    ]
    _walk(flat.jaxpr, inputs, (), found)
    return found


def _walk(
    jaxpr: Jaxpr,
    inputs: Sequence[Source],
    path: Path,
    found: dict[Path, list[Source]],
) -> list[Source]:
    """The sources of a jaxpr's results; those of its operands go into `found`."""
    known = {var: Source(size=aval(var).size) for var in jaxpr.constvars}
    known |= dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> Source:
        return Source() if isinstance(atom, Literal) else known[atom]

    for number, eqn in enumerate(jaxpr.eqns):
        here = (*path, number)
        operands = found[here] = [read(atom) for atom in eqn.invars]
        if eqn.primitive.name == "scan":
            results = _through_scan(eqn, operands, here, found)
        else:
            results = [_result(eqn, operands, aval(var)) for var in eqn.outvars]
        for var, result in zip(eqn.outvars, results, strict=True):
            if not isinstance(var, DropVar):
                known[var] = result
    return [read(atom) for atom in jaxpr.outvars]


def _through_scan(
    eqn: JaxprEqn, operands: list[Source], here: Path, found: dict[Path, list[Source]]
) -> list[Source]:
    body, n_consts, n_carry = scan_parts(eqn)
    carries = slice(n_consts, n_consts + n_carry)
    inputs = list(operands)
    while True:
        results = _walk(body.jaxpr, inputs, here, found)
        joined = [
            _joined(pair)
            for pair in zip(inputs[carries], results[:n_carry], strict=True)
        ]
        if joined == inputs[carries]:
            return results
        inputs[carries] = joined


def _joined(several: Sequence[Source]) -> Source:
    data = any(one.data for one in several)
    made_of = frozenset().union(*(one.made_of for one in several))
    return Source(
        frozenset().union(*(one.leaves for one in several)),
        data,
        frozenset() if data else made_of,
        size=max((one.size for one in several), default=1),
    )


def _result(eqn: JaxprEqn, operands: Sequence[Source], struct: Any) -> Source:
    name = eqn.primitive.name
    joined = _joined(operands)
    if name in _VIEWS:
        (one,) = operands
        return one
    size = struct.size
    if name in ACTIVATIONS:
        return joined._replace(made_of=frozenset(), size=size)
    scaled = name == "mul" and any(
        one.made_of and not other.is_constant
        for one, other in (operands, operands[::-1])
    )
    return joined._replace(scaled=scaled, size=size)
