"""Sums and means over axes that go to infinity: how much their fluctuations count.

A mean over `n` independent entries fluctuates by `1 / sqrt(n)`, which vanishes as long
as nothing multiplies it by the root of `n`. Sums, and means times the size of the axis,
have no limit before they are divided again; of a sum of positive terms the root, say,
fluctuates by a number that does not vanish.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from .._trace.flatten import aval
from .errors import NoLimitError

_SCALE = 1.5  # sums over wide axes count as means up to this multiple of the mean
_CARRY = frozenset("convert_element_type copy neg stop_gradient".split())
_COMPARED = frozenset("eq ne lt le gt ge".split())
_JUMPS = _COMPARED | frozenset("sign floor ceil round rem atan2 nextafter".split())
_GUARD = 1e-3  # what means of positive terms are compared with before they divide
_POWERS = {"sqrt": 0.5, "rsqrt": -0.5, "square": 2.0, "cbrt": 1 / 3}


class Average(NamedTuple):
    """What is known of an array that is made of sums over wide axes.

    Attributes:
        entries: how many entries were added, the fewest of all such sums.
        size: how large the array is, as a multiple of a mean.
        positive: whether it is a power of a sum of positive terms.
        divided: whether a sum was divided by its size.
    """

    entries: float
    size: float
    positive: bool = False
    divided: bool = True

    @property
    def is_open(self) -> bool:
        """Whether its fluctuations count."""
        if self.size <= _SCALE:
            return False
        return not self.divided or self.size >= 0.99 * self.entries**0.5

    def times(self, factor: float) -> "Average":
        """The same of the array times a number."""
        size = self.size * abs(factor)
        return self._replace(size=size, divided=self.divided or size <= _SCALE)

    def checked(self) -> "Average":
        """The same, where fluctuations vanish.

        Raises:
            NoLimitError: if they do not.
        """
        if not self.is_open:
            return self
        if not self.divided:
            raise NoLimitError(
                "a sum over an axis that goes to infinity, which is not divided by its "
                "size before it is used: its fluctuations would count"
            )
        raise NoLimitError(
            f"a mean over {self.entries:g} entries of an axis that goes to infinity, "
            f"which is multiplied by {self.size:g}: if that grows with the axis, the "
            "fluctuations of the mean count; if it does not, pass a wider model"
        )


def merged(averages: Sequence[Average | None], size: float | None = None) -> Any:
    """Of an array made of several, each of which is divided."""
    known = [a for a in averages if a is not None]
    if not known:
        return None
    largest = max(a.size for a in known) if size is None else size
    return Average(min(a.entries for a in known), largest)


def multiplied(one: Average | None, two: Average | None) -> Average | None:
    """Of a product."""
    known = [a for a in (one, two) if a is not None]
    size = 1.0
    for a in known:
        size *= a.size
    found = merged(known, size)
    if found is None:
        return None
    divided = all(a.divided for a in known) or size <= _SCALE
    return found._replace(positive=all(a.positive for a in known), divided=divided)


def after(
    eqn: JaxprEqn,
    averages: Sequence[Average | None],
    numbers: Sequence[float | None],
) -> Average | None:
    """What becomes of averages in an equation that treats each entry by itself.

    Args:
        eqn: the equation.
        averages: of its operands.
        numbers: that operands equal, where they do.

    Raises:
        NoLimitError: if fluctuations count.
    """
    known = [a for a in averages if a is not None]
    if not known:
        return None
    name = eqn.primitive.name
    if _jumps(eqn, averages, numbers):
        raise NoLimitError(
            "a jump at the mean of something over an axis that goes to infinity: where "
            "the mean is at the jump, as by a symmetry or after a norm, it stays "
            "random (`jnp.minimum` and `jnp.maximum` do not jump)"
        )
    if name in _COMPARED or name == "sign":
        return Average(min(a.entries for a in known), 1.0)
    if name == "select_n" and numbers[0] is not None:
        return averages[1 + int(numbers[0])]
    if name in _CARRY:
        (average,) = known
        return average._replace(positive=average.positive and name != "neg")
    if name in ("mul", "div"):
        return _product(name, averages, numbers)
    if name in ("add", "sub") and len(known) == 2:
        one, two = known
        divided = one.divided and two.divided
        return merged(known)._replace(divided=divided)
    power = _POWERS.get(name)
    if name == "integer_pow":
        power = float(eqn.params["y"])
    if name == "pow" and averages[1] is None:
        power = numbers[1]
    if known[0].positive and (power is not None or name == "log"):
        (average,) = known
        size = 1.0 if power is None else average.size**power
        divided = average.divided or size <= _SCALE
        return Average(average.entries, size, power is not None, divided)
    found = merged([a.checked() for a in known])
    return found._replace(positive=_stays_positive(name, averages, numbers))


def _jumps(
    eqn: JaxprEqn, averages: Sequence[Average | None], numbers: Sequence[float | None]
) -> bool:
    """Whether a mean may be where an equation jumps.

    Which means are equal by a symmetry is not known, so that all jumps count but those
    that a mean of positive terms is far from.
    """
    name = eqn.primitive.name
    if name == "convert_element_type":
        return not jnp.issubdtype(aval(eqn.outvars[0]).dtype, jnp.inexact)
    if name not in _JUMPS or name in _COMPARED and eqn.invars[0] is eqn.invars[1]:
        return False
    far = all(a is None or a.positive for a in averages)
    if name == "sign":
        return not far
    others = [n for n, a in zip(numbers, averages, strict=True) if a is None]
    beside = all(n is not None and n <= _GUARD for n in others) and others
    return not (name in _COMPARED and far and beside)


def _stays_positive(
    name: str, averages: Sequence[Average | None], numbers: Sequence[float | None]
) -> bool:
    if name in ("exp", "exp2", "logistic"):
        return True
    known = [a for a in averages if a is not None]
    others = [n for n, a in zip(numbers, averages, strict=True) if a is None]
    return (
        name in ("add", "max")
        and all(a.positive for a in known)
        and all(n is not None and n >= 0 for n in others)
    )


def _product(
    name: str, averages: Sequence[Average | None], numbers: Sequence[float | None]
) -> Average | None:
    one, two = averages
    if name == "div" and two is not None:
        if not (two.positive or two.divided):
            two.checked()
        two = two._replace(size=1 / two.size, divided=two.divided or two.size >= 1)
    if one is None or two is None:
        i = 0 if one is None else 1
        number = numbers[i]
        average = two if one is None else one
        assert average is not None
        if number is not None and not (name == "div" and i == 1 and number == 0):
            factor = 1 / number if name == "div" and i == 1 else number
            return average.times(factor) if factor else average
        return average._replace(positive=False) if average.divided else average
    return multiplied(one, two)
