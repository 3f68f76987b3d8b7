r"""Numbers: covariances of atoms and second moments of fields for a pair of examples.

Asked for backwards from the output and kept, so that only what is needed is computed:
one number per place where that is enough (`diagonal`), one per pair of places else.
The two networks have parameters of covariance `variance + t * rate`; the derivative of
the result by `t` is the tangent kernel.

Source: Price, IRE Trans. Inf. Theory 4 (1958), for the derivative.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from . import duals, hermite, sampling
from .errors import NoLimitError
from .functions import IDENTITY
from .nodes import (
    Atom,
    Data,
    Drawn,
    Joined,
    Mixed,
    Moved,
    PlaceOp,
    Sum,
    Term,
    components,
    dependent,
)
from .spelling import is_odd

Variance = Callable[[Any], tuple[Any, Any]]
"""Of a source's parameter: its variance, and the rate at which the kernel grows."""


class Moments:
    """What is known of one pair of examples.

    Attributes:
        inputs: per side, the arrays of the example.
        t: what is added to the covariance of parameters between the networks, per rate.
        same: whether the two examples are equal, so that correlations are exactly one.
        errors: bounds of the relative errors made so far.
        points: how many points, and their shift, for means without a closed form.
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
        self.dtype = dtype
        self.errors: list[Any] = []
        self.points = points
        self.draws: dict[Any, Any] = {}  # the random keys in use
        self._variance, self._order, self._given = variance, order, given
        self._values: dict[Any, Any] = {}
        self._covs: dict[Any, Any] = {}
        self._series: dict[Any, Any] = {}
        self._pairs: dict[Any, Any] = {}

    def value(self, data: Data, side: int) -> Any:
        """The value of a deterministic array, of size 1 along copies."""
        if data.const is not None:
            return jnp.asarray(data.const)
        key = (id(data), side)
        if key not in self._values:
            self._values[key] = data.compute(self, side), data
        return self._values[key][0]

    def number(self, data: Data, side: int) -> Any:
        """The same in the precision of the kernel."""
        return self.value(data, side).astype(self.dtype)

    def mean(self, terms: Sequence[Term], rank: int, side: int) -> Any:
        """The mean of a sum of terms, an array of `rank` dimensions."""
        total = jnp.zeros((1,) * rank, self.dtype)
        for term in terms:
            part = self._expected([(term, side)], rank, False)
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
    ) -> Any:
        """`E[f g']` of sums of terms, of `rank` or `2 * rank` dimensions.

        Dimensions of size 1 stand for as many equal entries as there are.
        """
        total = jnp.zeros((1,) * (rank if diagonal else 2 * rank), self.dtype)
        for a in one:
            for b in two:
                part = self._expected(
                    [(a, sides[0]), (b, sides[1])], rank, not diagonal, still
                )
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
        if _turn(one) < _turn(two) or (one is two and s > t):
            turned = self.covariance(two, one, (t, s), diagonal, still)
            if turned is None or diagonal:
                return turned
            return jnp.moveaxis(
                turned,
                range(two.rank, two.rank + one.rank),
                range(one.rank),
            )
        key = (one.number, two.number, sides, diagonal, still)
        if key not in self._covs:
            self._covs[key] = self._covariance(one, two, sides, diagonal, still)
        return self._covs[key]

    def drawn_covariance(self, source: Any, sides: tuple[int, int], still: bool) -> Any:
        """Of the parameter that a source draws, between the two networks."""
        variance, rate = self._variance(source)
        if sides[0] == sides[1] or still:
            return variance
        return variance + self.t * rate

    def _covariance(
        self, one: Atom, two: Atom, sides: tuple[int, int], diagonal: bool, still: bool
    ) -> Any:
        if not dependent(one, two):
            return None
        if (one.tangent or two.tangent) and sides[0] == sides[1]:
            return None
        if isinstance(one, Sum):
            return self._of_sum(one, two, sides, diagonal, still)
        if diagonal and not _goes_along(one, two, sides):
            full = self.covariance(one, two, sides, False, still)
            return None if full is None else diagonal_of(full, one.rank)
        if isinstance(one, Moved):
            if diagonal:
                k = self.covariance(one.atom, two.atom, sides, True, still)  # type: ignore[attr-defined]
                return None if k is None else self._moved(one.op, k, sides[0])
            k = self.covariance(one.atom, two, sides, False, still)
            return None if k is None else self._left(one.op, k, sides[0])
        if isinstance(one, Joined):
            return self._of_joined(one, two, sides, diagonal, still)
        if isinstance(one, Mixed):
            return self._of_mixed(one, two, sides, still)
        assert isinstance(one, Drawn) and isinstance(two, Drawn)
        return one.source.covariance(self, two.source, sides, diagonal, still)

    def _of_sum(
        self, one: Sum, two: Atom, sides: tuple[int, int], diagonal: bool, still: bool
    ) -> Any:
        total = None
        for coef, atom in one.parts:
            k = self.covariance(atom, two, sides, diagonal, still)
            if k is None:
                continue
            c = self.number(coef, sides[0])
            if not diagonal:
                c = c.reshape(c.shape + (1,) * two.rank)
            total = c * k if total is None else total + c * k
        return total

    def _of_joined(
        self, one: Joined, two: Atom, sides: Any, diagonal: bool, still: bool
    ) -> Any:
        twos = two.atoms if diagonal else [two] * len(one.atoms)  # type: ignore[attr-defined]
        parts = [
            self.covariance(a, b, sides, diagonal, still)
            for a, b in zip(one.atoms, twos, strict=True)
        ]
        if all(part is None for part in parts):
            return None
        rank = one.rank if diagonal else one.rank + two.rank
        zero = jnp.zeros((1,) * rank, self.dtype)
        parts = [zero if part is None else part for part in parts]
        shape = list(jnp.broadcast_shapes(*(_without(p, one.dimension) for p in parts)))
        whole = []
        for part, size in zip(parts, one.sizes, strict=True):
            shape[one.dimension] = size
            whole.append(jnp.broadcast_to(part, tuple(shape)))
        return jnp.concatenate(whole, one.dimension)

    def _of_mixed(self, one: Mixed, two: Atom, sides: Any, still: bool) -> Any:
        """Of sums that are not Gaussian: these are not centred, but second moments."""
        rank = len(one.op.before)
        other = (Term(None, ((IDENTITY, (), two),)),)
        # The right side has dimensions of its own number.
        k = self._cross_second(one.terms, rank, other, two.rank, sides, still)
        return self._left(one.op, k, sides[0])

    def _cross_second(
        self,
        one: Sequence[Term],
        rank1: int,
        two: Sequence[Term],
        rank2: int,
        sides: Any,
        still: bool,
    ) -> Any:
        if isinstance(two[0].factors[0][2], Mixed):
            mixed = two[0].factors[0][2]
            rank = len(mixed.op.before)
            k = self._unequal(one, rank1, mixed.terms, rank, sides, still)
            k = jnp.moveaxis(k, range(rank1, rank1 + rank), range(rank))
            k = self._left(mixed.op, k, sides[1])
            return jnp.moveaxis(k, range(rank2), range(rank1, rank1 + rank2))
        return self._unequal(one, rank1, two, rank2, sides, still)

    def _unequal(
        self, one: Any, rank1: int, two: Any, rank2: int, sides: Any, still: bool
    ) -> Any:
        total = jnp.zeros((1,) * (rank1 + rank2), self.dtype)
        for a in one:
            for b in two:
                part = self._expected(
                    [(a, sides[0]), (b, sides[1])], rank1, True, still, rank2
                )
                if part is not None:
                    total = total + part
        return total

    def _moved(self, op: PlaceOp, array: Any, side: int) -> Any:
        if not op.lazy:
            array = jnp.broadcast_to(array, op.before)
        return op.apply(array, self, side)

    def _left(self, op: PlaceOp, k: Any, side: int) -> Any:
        """The map on the first dimensions of a covariance."""
        rank = len(op.before)
        rest = k.shape[rank:]
        flat = k.reshape(k.shape[:rank] + (math.prod(rest),))
        moved = jax.vmap(lambda a: self._moved(op, a, side), -1, -1)(flat)
        return moved.reshape(moved.shape[:-1] + rest)

    def _expected(
        self,
        terms: list[tuple[Term, int]],
        rank: int,
        full: bool,
        still: bool = False,
        rank2: int | None = None,
    ) -> Any:
        """The mean of a product of terms, the second on the right side if `full`."""
        rank2 = rank if rank2 is None else rank2
        factors = [
            (f, params, atom, side, int(full and i == 1))
            for i, (term, side) in enumerate(terms)
            for f, params, atom in term.factors
        ]
        groups = components([factor[2] for factor in factors])
        if any(_is_zero([factors[i] for i in group]) for group in groups):
            return None
        total = None
        for group in groups:
            part = self._component(
                [factors[i] for i in group], (rank, rank2), full, still
            )
            if part is None:
                return None
            total = part if total is None else total * part
        for i, (term, side) in enumerate(terms):
            if term.coef is not None:
                coef = self.number(term.coef, side)
                coef = _placed(coef, int(full and i == 1), (rank, rank2), full)
                total = coef if total is None else total * coef
        if total is None:
            total = jnp.ones((1,) * (rank + rank2 if full else rank), self.dtype)
        return total

    def _component(
        self, factors: list[Any], ranks: tuple[int, int], full: bool, still: bool
    ) -> Any:
        """The mean of a product of functions of Gaussians that are dependent."""
        if self.points is not None and self._is_open(factors):
            return sampling.expected(self, factors, ranks, full, still)
        slopes = [f.slope for f, *_ in factors]
        if all(slope is not None for slope in slopes):
            value = self._wick(factors, ranks, full, still)
            return None if value is None else math.prod(slopes) * value
        if len(factors) == 1:
            ((function, params, atom, side, right),) = factors
            q = self._variance_of(atom, side)
            expand = lambda i: self._expanded(function, params, atom, side)
            value, error = duals.mean(function, q, expand)
            if error is not None:
                self.errors.append(error)
            return _placed(value, right, ranks, full)
        if len(factors) > 2:
            raise NoLimitError(
                "a product of functions of more than two dependent Gaussians, of which "
                "not all are linear"
            )
        return self._pair(factors, ranks, full, still)

    def _is_open(self, factors: list[Any]) -> bool:
        """Whether the mean has no closed form."""
        if any(sampling.needed(atom) for _, _, atom, _, _ in factors):
            return True
        if all(f.slope is not None for f, *_ in factors):
            return False
        return len(factors) > 2 or any(
            not atom.gaussian for _, _, atom, _, _ in factors
        )

    def _pair(self, factors: Any, ranks: Any, full: bool, still: bool) -> Any:
        (f, fp, a, s, a_right), (g, gp, b, t, b_right) = factors
        if not (a.gaussian and b.gaussian):
            raise NoLimitError(
                "a nonlinear function times something that depends on it and is "
                "neither Gaussian nor a function of one"
            )
        across = full and a_right != b_right
        key = (f, fp, a.number, s, g, gp, b.number, t, across, still)
        if key not in self._pairs:
            self._pairs[key] = self._dual(factors, ranks, across, still)
        value = self._pairs[key]
        return _placed(value, a_right, ranks, full) if full and not across else value

    def _dual(self, factors: Any, ranks: Any, across: bool, still: bool) -> Any:
        (f, fp, a, s, _), (g, gp, b, t, _) = factors
        own = (self._own_variance(a, fp, s), self._own_variance(b, gp, t))
        k = self.covariance(a, b, (s, t), not across, still)
        if k is None:  # zero, though they depend
            k = jnp.zeros((1,) * (sum(ranks) if across else own[0].ndim), self.dtype)
        like = k.shape
        # Where nothing is repeated, places are numbered in one go: short loops over
        # each of their dimensions would not be vectorised.
        flat = like == (own[0].shape + own[1].shape if across else own[0].shape)
        flat = flat and (across or own[0].shape == own[1].shape)
        if flat:
            own = (own[0].ravel(), own[1].ravel())
        numbered = [q.size for q in own] if across else [-1]
        shaped = lambda k: k.reshape(numbered) if flat else k
        one, two = own
        if across:
            one = one.reshape(one.shape + (1,) * two.ndim)
            two = two.reshape((1,) * own[0].ndim + two.shape)

        def exact(k: Any) -> tuple[Any, Any, Any]:
            if a is not b:
                return one, two, k
            return self._exact(one, two, k, s == t, own[0].ndim if across else None)

        def expanded(i: int) -> Any:
            series = self._expanded(*((f, fp, a, s), (g, gp, b, t))[i])
            return series.raveled() if flat else series

        q1, q2, k1 = exact(shaped(k))
        value, error = duals.product(
            (f, g), own, (q1, q2), k1,
            lambda: exact(shaped(self._still(a, b, (s, t), not across, k)))[2],
            expanded, self._given,
        )  # fmt: skip
        if error is not None:
            self.errors.append(error)
        return value.reshape(like) if flat else value

    def _own_variance(self, atom: Atom, params: Any, side: int) -> Any:
        """The variance, as large as the parameters of a function of it."""
        q = self._variance_of(atom, side)
        shapes = [self.number(p, side).shape for p in params]
        return jnp.broadcast_to(q, jnp.broadcast_shapes(q.shape, *shapes))

    def _expanded(self, function: Any, params: Any, atom: Atom, side: int) -> Any:
        key = (function, params, atom.number, side)
        if key not in self._series:
            q = self._own_variance(atom, params, side)
            given = [self.number(p, side) for p in params]
            given = [jnp.broadcast_to(p, q.shape) for p in given]
            self._series[key] = hermite.series(function, q, given, self._order)
        return self._series[key]

    def _still(self, a: Atom, b: Atom, sides: Any, diagonal: bool, like: Any) -> Any:
        k = self.covariance(a, b, sides, diagonal, True)
        return jnp.zeros_like(like) if k is None else k

    def _exact(self, q1: Any, q2: Any, k: Any, one_side: bool, rank: int | None) -> Any:
        """Variances and covariance, made equal where both are of one and the same.

        Rounding would make the correlation differ from one, where derivatives of
        functions with kinks change at the rate of the root of the difference.
        """
        mask = jnp.asarray(True) if one_side else self.same
        if rank is not None:
            shape = jnp.broadcast_shapes(k.shape, q1.shape, q2.shape)
            for d in range(rank):
                left, right = shape[d], shape[rank + d]
                if left != right:
                    return q1, q2, k
                others = tuple(i for i in range(2 * rank) if i not in (d, rank + d))
                eye = jnp.expand_dims(jnp.eye(left, dtype=bool), others)
                mask = eye & mask
        shape = jnp.broadcast_shapes(k.shape, q1.shape, q2.shape)
        wide = jnp.broadcast_to(mask, jnp.broadcast_shapes(shape, jnp.shape(mask)))
        q1, q2, k = (jnp.broadcast_to(a, wide.shape) for a in (q1, q2, k))
        return q1, jnp.where(wide, q1, q2), with_value(k, q1, wide)

    def _wick(self, factors: Any, ranks: Any, full: bool, still: bool) -> Any:
        """Isserlis's theorem: the sum over all pairings."""
        if len(factors) % 2:
            if any(not f[2].gaussian for f in factors):
                return self._odd(factors, ranks, full)
            return None
        if len(factors) > 2 and any(not f[2].gaussian for f in factors):
            raise NoLimitError(
                "a product of more than two dependent numbers that are not Gaussian"
            )
        (_, _, a, s, a_right), *others = factors
        total = None
        for i, (_, _, b, t, b_right) in enumerate(others):
            across = full and a_right != b_right
            k = self.covariance(a, b, (s, t), not across, still)
            if k is None:
                continue
            if full and not across:
                k = _placed(k, a_right, ranks, full)
            rest = others[:i] + others[i + 1 :]
            if rest:
                more = self._wick(rest, ranks, full, still)
                if more is None:
                    continue
                k = k * more
            total = k if total is None else total + k
        return total

    def _odd(self, factors: Any, ranks: Any, full: bool) -> Any:
        """The mean of one number that is not Gaussian."""
        if len(factors) > 1:
            raise NoLimitError(
                "a product of more than two dependent numbers that are not Gaussian"
            )
        ((_, _, atom, side, right),) = factors
        return _placed(self._mean_of(atom, side), right, ranks, full)

    def _mean_of(self, atom: Any, side: int) -> Any:
        if isinstance(atom, Mixed):
            array = self.mean(atom.terms, len(atom.op.before), side)
        elif isinstance(atom, Drawn):
            return atom.source.mean(self)
        else:
            assert isinstance(atom, Moved)
            array = self._mean_of(atom.atom, side)
        return self._moved(atom.op, array, side)

    def _variance_of(self, atom: Atom, side: int) -> Any:
        q = self.covariance(atom, atom, (side, side), True)
        if q is None:
            return jnp.zeros((1,) * atom.rank, self.dtype)
        return q


@jax.custom_jvp
def with_value(k: Any, value: Any, mask: Any) -> Any:
    """The covariance with this value where `mask` holds, and its own derivative."""
    return jnp.where(mask, value, k)


@with_value.defjvp
def _with_value_jvp(primals: Any, tangents: Any) -> Any:
    return with_value(*primals), tangents[0]


def diagonal_of(full: Any, rank: int) -> Any:
    """The entries of a covariance at one place, of its pairs of places."""
    shape = jnp.broadcast_shapes(full.shape[:rank], full.shape[rank:])
    full = jnp.broadcast_to(full, shape + shape)
    letters = "abcdefghijklm"[:rank]
    return jnp.einsum(f"{letters}{letters}->{letters}", full)


def _placed(array: Any, right: int, ranks: tuple[int, int], full: bool) -> Any:
    if not full:
        return array
    if right:
        return array.reshape((1,) * ranks[0] + array.shape)
    return array.reshape(array.shape + (1,) * ranks[1])


def _is_zero(factors: list[Any]) -> bool:
    """Whether the mean of a product is zero by symmetry."""
    if not all(atom.gaussian for *_, atom, _, _ in factors):
        return False
    if len(factors) == 1:
        return is_odd(factors[0][0])
    return len(factors) % 2 == 1 and all(f.slope is not None for f, *_ in factors)


def _turn(atom: Atom) -> tuple[int, int]:
    """Larger for what is to be taken apart first."""
    kinds = (Drawn, Mixed, (Joined, Moved), Sum)
    (kind,) = (i for i, types in enumerate(kinds) if isinstance(atom, types))
    return kind, atom.number


def _goes_along(one: Atom, two: Atom, sides: tuple[int, int]) -> bool:
    """Whether a diagonal covariance needs diagonals alone.

    Not where each example decides itself which entries are taken.
    """
    if isinstance(one, Drawn):
        return isinstance(two, Drawn)
    if isinstance(one, Moved):
        alike = isinstance(two, Moved) and one.op == two.op and one.op.selects
        return alike and (sides[0] == sides[1] or not one.op.operands)
    if isinstance(one, Joined):
        return (
            isinstance(two, Joined)
            and one.dimension == two.dimension
            and one.sizes == two.sizes
        )
    return False


def _without(array: Any, dimension: int) -> tuple[int, ...]:
    shape = list(array.shape)
    shape[dimension] = 1
    return tuple(shape)
