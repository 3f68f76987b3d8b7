r"""Output derivatives that are one factor for each output times one for each example.

Past the last weight but one the derivative of output $k$ by a site's result is often

$$\delta_{kso}(x) = c_{ko}\, m_{so}(x),$$

$c$ from the weights that follow and $m$ from the nonlinearity and whatever averages
follow it. The kernel averaged over outputs then needs $m$ and $\sum_k c_{ko}^2$ alone:
one derivative instead of one for each output, and as much less memory and work.

Whether it is so is read off the jaxpr of the backward pass: from the derivative back
through what multiplies it entry by entry, to something that no example enters.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn, Literal, Var
from jaxtyping import Array

from .._trace.flatten import Flat, aval, depending, evaluate
from .moves import MOVES


class Step(NamedTuple):
    """One equation between the two ends, and which of its operands are on the way."""

    eqn: JaxprEqn
    operands: tuple[int, ...]


class Separable(NamedTuple):
    """How a derivative is made of what does not depend on the example.

    Attributes:
        start: the derivative where no example has entered yet.
        end: the derivative itself.
        steps: from there on: products entry by entry, their sums, rearrangements.
        others: what the products are with.
        labels: of the derivative's entries; where two are equal, so is $c$.
    """

    start: Var
    end: Var
    steps: tuple[Step, ...]
    others: tuple[Var, ...]
    labels: np.ndarray

    def of_output(self, start: Array) -> Array:
        """$c$ in the derivative's shape, from the start's value for one output."""

        def moved(value: Any, eqn: JaxprEqn, operand: int) -> Any:
            values: list[Any] = [None] * len(eqn.invars)
            values[operand] = value
            return evaluate(eqn, values)[0]

        return _along(self.steps, self.start, start, moved)[self.end]

    def of_example(self, others: Sequence[Array]) -> Array:
        """$m$ in the derivative's shape, from the values of `others`."""
        values: dict[Any, Any] = dict(zip(self.others, others, strict=True))
        start = aval(self.start)
        values[self.start] = jnp.ones(start.shape, start.dtype)
        for eqn, _ in self.steps:
            operands = [
                atom.val if isinstance(atom, Literal) else values[atom]
                for atom in eqn.invars
            ]
            (values[eqn.outvars[0]],) = evaluate(eqn, operands)
        return values[self.end]


class Backward:
    """The jaxpr of a backward pass, and what in it depends on what.

    Args:
        flat: a function of cotangents, of what is the same for all examples, and of an
            example, in this order, linear in the cotangents.
        n_cotangents: how many of its arguments are cotangents.
        n_inputs: how many are the example's.
    """

    def __init__(self, flat: Flat, n_cotangents: int, n_inputs: int):
        invars, eqns = flat.jaxpr.invars, flat.jaxpr.eqns
        self._made_by = {var: i for i, eqn in enumerate(eqns) for var in eqn.outvars}
        self._eqns = eqns
        self._of_outputs = depending(flat, invars[:n_cotangents])
        self._of_examples = depending(flat, invars[len(invars) - n_inputs :])

    def separable(self, derivative: Any) -> Separable | None:
        """How this derivative is separated, or `None` where that is not seen."""
        if not isinstance(derivative, Var) or derivative not in self._of_outputs:
            return None
        if not jnp.issubdtype(aval(derivative).dtype, jnp.floating):
            return None
        steps: dict[int, Step] = {}
        starts: set[Var] = set()
        ahead: list[Any] = [derivative]
        while ahead:
            var = ahead.pop()
            if var not in self._of_examples:
                starts.add(var)
                continue
            number = self._made_by.get(var)
            if number is None or number in steps:
                continue
            step = self._step(self._eqns[number])
            if step is None:
                return None
            steps[number] = step
            ahead += [step.eqn.invars[i] for i in step.operands]
        if len(starts) != 1:
            return None
        (start,) = starts
        if aval(start).size > _LARGEST:
            return None
        ordered = tuple(steps[number] for number in sorted(steps))
        move = lambda labels, eqn, _: MOVES[eqn.primitive.name](labels, eqn)
        labels = _along(ordered, start, self._labels(start), move)[derivative]
        others = dict.fromkeys(
            atom
            for eqn, operands in ordered
            for i, atom in enumerate(eqn.invars)
            if i not in operands and isinstance(atom, Var)
        )
        if labels is None:
            return None
        return Separable(
            start, derivative, ordered, tuple(dict.fromkeys(others)), labels
        )

    def _step(self, eqn: JaxprEqn) -> Step | None:
        """An equation that multiplies entry by entry, rearranges or adds up."""
        name = eqn.primitive.name
        operands = tuple(
            i for i, atom in enumerate(eqn.invars)
            if isinstance(atom, Var) and atom in self._of_outputs
        )  # fmt: skip
        shapes = [aval(eqn.invars[i]).shape for i in operands]
        same = all(shape == aval(eqn.outvars[0]).shape for shape in shapes)
        if name in _SUMS:
            fits = same and len(operands) == 2
        elif name in MOVES:
            fits = len(eqn.invars) == 1
        elif name == "select_n":
            rest = [a for i, a in enumerate(eqn.invars) if i not in (0, *operands)]
            fits = same and 0 not in operands and all(map(self._is_zero, rest))
        else:
            fits = name in _PRODUCTS and same and len(operands) == 1
            fits = fits and (name != "div" or operands == (0,))
            if name == "convert_element_type":
                fits = fits and aval(eqn.invars[0]).dtype == aval(eqn.outvars[0]).dtype
        return Step(eqn, operands) if fits else None

    def _is_zero(self, atom: Any) -> bool:
        while not isinstance(atom, Literal):
            number = self._made_by.get(atom)
            if number is None or self._eqns[number].primitive.name not in MOVES:
                return False
            atom = self._eqns[number].invars[0]
        return bool(np.all(np.asarray(atom.val) == 0))

    def _labels(self, var: Any) -> np.ndarray:
        """Numbers of the entries of something, equal only where its entries are."""
        number = self._made_by.get(var)
        if number is not None:
            eqn = self._eqns[number]
            name = eqn.primitive.name
            if name in MOVES and len(eqn.invars) == 1:
                labels = MOVES[name](self._labels(eqn.invars[0]), eqn)
                if labels is not None:
                    return labels
            elif name in ("mul", "div"):
                for i, atom in enumerate(eqn.invars):
                    scaled = isinstance(atom, Var) and aval(eqn.invars[1 - i]).size == 1
                    if scaled and aval(atom).shape == aval(var).shape:
                        return self._labels(atom)
        return np.arange(aval(var).size).reshape(aval(var).shape)


def _along(
    steps: Sequence[Step], start: Var, value: Any, move: Callable[..., Any]
) -> dict[Any, Any]:
    """Values along the way, of which products leave the places as they are.

    `None` where a sum has terms whose entries come from different places.
    """
    values: dict[Any, Any] = {start: value}
    for eqn, operands in steps:
        first, *more = (values[eqn.invars[i]] for i in operands)
        if first is not None and eqn.primitive.name in MOVES:
            first = move(first, eqn, operands[0])
        if isinstance(first, np.ndarray):
            alike = all(np.array_equal(first, labels) for labels in more)
            first = first if alike else None
        values[eqn.outvars[0]] = first
    return values


_PRODUCTS = frozenset(("mul", "div", "neg", "convert_element_type"))
_SUMS = frozenset(("add", "add_any", "sub"))

# Above this many entries, to number them takes longer than is won.
_LARGEST = 2**22
