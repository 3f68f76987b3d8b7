r"""Numbers: means, second moments and covariances for one pair of examples, kept.

Asked for backwards from the output, so that only what is needed is computed: one number
per place where that is enough (`diagonal`), one per pair of places else. The two
networks have parameters of covariance `variance + t * rate`; the derivative of the
result by `t` is the tangent kernel.

Source: Price, IRE Trans. Inf. Theory 4 (1958), for the derivative.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from ..functions import duals
from ..nodes import Atom, Data, Term
from . import covariances
from .expectations import expected

_DEEPEST = 10  # of what is computed for something else, which is so for something else

Variance = Callable[[Any], tuple[Any, Any]]
"""Of a source's parameter: its variance, and the rate at which the kernel grows."""


class _Deeper(Exception):
    """Something is to be computed before what asks for it."""

    def __init__(self, key: Any, compute: Callable[[], Any]):
        self.key, self.compute = key, compute


class Moments:
    """What is known of one pair of examples.

    Attributes:
        inputs: per side, the arrays of the example.
        t: what is added to the covariance of parameters between the networks, per rate.
        same: whether the two examples are equal, so that correlations are exactly one.
        dtype: of the kernel.
        order: the length of series.
        errors: bounds of the relative errors made so far.
        points: how many points, and their shift, for means without a closed form.
        given: expectations that the user knows.
        draws: the random keys in use.
    """

    def __init__(
        self,
        inputs: tuple[list[Any], list[Any]],
        variance: Variance,
        t: Any,
        same: Any,
        order: int,
        dtype: Any,
        points: Any = None,
        given: duals.Duals = (),
    ):
        self.inputs, self.t, self.same = inputs, t, same
        self.dtype, self.order, self.points, self.given = dtype, order, points, given
        self.errors: list[Any] = []
        self.draws: dict[Any, Any] = {}
        self._variance = variance
        self._kept: dict[Any, Any] = {}
        self._depth = 0

    def once(self, key: Any, compute: Callable[[], Any]) -> Any:
        """What `compute` gives, at its first call with this key."""
        if key not in self._kept:
            if self._depth == _DEEPEST:
                raise _Deeper(key, compute)
            self._depth += 1
            try:
                self._kept[key] = compute()
            finally:
                self._depth -= 1
        return self._kept[key]

    def at_any_depth(self, compute: Callable[[], Any]) -> Any:
        """What `compute` gives, what lies deep beneath it computed before.

        A layer needs the one before it, so that Python's stack would end with the
        layers of a deep network.
        """
        waiting: list[tuple[Any, Callable[[], Any]]] = [(None, compute)]
        while True:
            key, work = waiting[-1]
            try:
                found = work() if key is None else self.once(key, work)
            except _Deeper as deeper:
                waiting.append((deeper.key, deeper.compute))
                continue
            waiting.pop()
            if not waiting:
                return found

    def value(self, data: Data, side: int) -> Any:
        """The value of a deterministic array, of size 1 along copies."""
        if data.const is not None:
            return jnp.asarray(data.const)
        return self.once((data, side), lambda: data.compute(self, side))

    def number(self, data: Data, side: int) -> Any:
        """The same in the precision of the kernel."""
        return self.value(data, side).astype(self.dtype)

    def mean(self, terms: Sequence[Term], rank: int, side: int) -> Any:
        """The mean of a sum of terms, an array of `rank` dimensions."""
        total = jnp.zeros((1,) * rank, self.dtype)
        for term in terms:
            part = expected(self, [(term, side)], (rank, rank), False)
            if part is not None:
                total = total + part
        return total

    def second(
        self,
        one: Sequence[Term],
        two: Sequence[Term],
        rank: int,
        sides: tuple[int, int],
        diagonal: bool,
        still: bool,
        rank2: int | None = None,
    ) -> Any:
        """`E[f g']` of sums of terms, of `rank` or `rank + rank2` dimensions.

        Dimensions of size 1 stand for as many equal entries as there are. `rank2` is
        `rank` unless given.
        """
        ranks = (rank, rank if rank2 is None else rank2)
        total = jnp.zeros((1,) * (rank if diagonal else sum(ranks)), self.dtype)
        for a in one:
            for b in two:
                pair = [(a, sides[0]), (b, sides[1])]
                part = expected(self, pair, ranks, not diagonal, still)
                if part is not None:
                    total = total + part
        return total

    def covariance(
        self,
        one: Atom,
        two: Atom,
        sides: tuple[int, int],
        diagonal: bool,
        still: bool = False,
    ) -> Any:
        """The covariance of two atoms' entries; `None` where its structure is zero."""
        s, t = sides
        if s == t:
            still = False
        turn = covariances.turn
        if turn(one) < turn(two) or (one is two and s > t):
            turned = self.covariance(two, one, (t, s), diagonal, still)
            if turned is None or diagonal:
                return turned
            return jnp.moveaxis(
                turned,
                range(two.rank, two.rank + one.rank),
                range(one.rank),
            )
        return self.once(
            (one.number, two.number, sides, diagonal, still),
            lambda: covariances.covariance(self, one, two, sides, diagonal, still),
        )

    def drawn_covariance(self, source: Any, sides: tuple[int, int], still: bool) -> Any:
        """Of the parameter that a source draws, between the two networks."""
        variance, rate = self._variance(source)
        if sides[0] == sides[1] or still:
            return variance
        return variance + self.t * rate
