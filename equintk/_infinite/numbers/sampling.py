r"""Expectations that have no closed form, by quasi-Monte Carlo, where one asks for it.

Of functions of several Gaussians, at one place or at many: what stands between one
matrix product and the next in an LSTM cell, in attention, in max pooling. With
functions $f$ of $u$ at one example and $g$ of $v$ at the other, both Gaussian,

$$\partial_t E[f(u) g(v)]
= \sum_{ij} \partial_t E[u_i v_j] E[\partial_i f \partial_j g]$$

so that the same points give the kernel and its derivative, the tangent kernel.

Source: Price, IRE Trans. Inf. Theory 4 (1958); Sloan and Joe, Lattice Methods for
Multiple Integration, for the points; Hron et al., arXiv:2006.10540, for attention.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from ..errors import NoLimitError
from ..nodes import Atom, Computed, Mixed, Moved, Term

DIMENSIONS = 256
"""The largest number of Gaussians of an expectation, those of both examples."""


def needed(atom: Atom) -> bool:
    """Whether an atom's expectations have no closed form."""
    if isinstance(atom, Computed):
        return True
    if isinstance(atom, Moved):
        return needed(atom.atom)
    if isinstance(atom, Mixed):
        return any(needed(a) for term in atom.terms for *_, a in term.factors)
    return False


def shifts(key: Any, n_repeats: int, dtype: Any) -> Any:
    """Random shifts of the points, `(n_repeats, DIMENSIONS)`."""
    return jr.uniform(key, (n_repeats, DIMENSIONS), dtype)


def expected(
    m: Any, factors: Sequence[Any], ranks: tuple[int, int], full: bool, still: bool
) -> Any:
    """The mean of a product of functions of random arrays.

    Args:
        m: the moments, which know covariances.
        factors: functions, the arrays they depend on beside, their atoms, the sides of
            these, and whether their dimensions are the right ones of the result.
        ranks: the numbers of dimensions on the left and on the right.
        full: whether there are dimensions on the right.
        still: whether covariances are those of one network with itself.
    """
    variables: list[tuple[Atom, int]] = []
    for _, _, atom, side, _ in factors:
        for leaf in _gaussians(atom):
            if (leaf, side) not in variables:
                variables.append((leaf, side))
    joint = _Joint(m, variables, still)
    drawn = jax.vmap(joint.drawn)(_points(m, joint.size))

    def of_side(side: int, x: Any) -> Any:
        """The product of one side's factors, of left and right dimensions."""
        known: dict[int, Any] = {}
        of = lambda atom: joint.of(x, atom, side)
        parts = [jnp.ones((1,) * ranks[right], m.dtype) for right in range(1 + full)]
        for function, params, atom, s, right in factors:
            if s == side:
                a = _value(m, atom, side, of, known)
                parts[right] = parts[right] * _applied(m, function, params, a, side)
        left = parts[0].reshape(parts[0].shape + (1,) * (ranks[1] * full))
        return (
            left * parts[1].reshape((1,) * ranks[0] + parts[1].shape) if full else left
        )

    one, two = (jax.vmap(lambda x, s=s: of_side(s, x))(drawn[s]) for s in (0, 1))
    across = jnp.eye(1, dtype=m.dtype)
    value = _mean_product(one[..., None], across, two[..., None])
    if not all(any(factor[3] == side for factor in factors) for side in (0, 1)):
        return value
    # The value is that of the points; by the covariance between the examples, alone
    # of those that it depends on, it has the derivative of Price's theorem.
    slopes = [
        jax.lax.stop_gradient(
            jax.vmap(lambda x, s=s: _slope(lambda x: of_side(s, x), x))(drawn[s])
        )
        for s in (0, 1)
    ]
    moved = joint.across - jax.lax.stop_gradient(joint.across)
    return value + _mean_product(slopes[0], moved, slopes[1])


def _slope(function: Any, x: Any) -> Any:
    """The derivatives by each number, along a last axis."""
    # not `jax.jacfwd`, which fails for maxima over windows
    along = lambda direction: jax.jvp(function, (x,), (direction,))[1]
    return jax.vmap(along, 0, -1)(jnp.eye(x.size, dtype=x.dtype))


def _mean_product(one: Any, matrix: Any, two: Any) -> Any:
    """`one matrix two` over the last axes, its mean over the first; entry by entry."""
    sizes = list(zip(one.shape[1:-1], two.shape[1:-1], strict=True))
    one = one @ matrix
    if all(1 in pair for pair in sizes):  # an outer product
        shape = [max(pair) for pair in sizes]
        n = one.shape[0]
        flat = jnp.einsum(
            "npi,nqi->pq",
            one.reshape(n, -1, one.shape[-1]),
            two.reshape(n, -1, two.shape[-1]),
            precision="highest",
        )
        order = sorted(range(len(sizes)), key=lambda d: sizes[d][0] == 1)
        whole = flat.reshape([shape[d] for d in order])
        return jnp.transpose(whole, [int(i) for i in np.argsort(order)]) / n
    return jnp.mean(jnp.sum(one * two, axis=-1), axis=0)


class _Joint:
    """The joint distribution of the entries of Gaussian arrays at two sides."""

    def __init__(self, m: Any, variables: list[tuple[Atom, int]], still: bool):
        self._variables = variables
        found = {}
        for i, (a, s) in enumerate(variables):
            for j, (b, t) in enumerate(variables[i:], i):
                found[i, j] = m.covariance(a, b, (s, t), False, still)
        shapes: list[Any] = [(1,) * a.rank for a, _ in variables]
        for (i, j), k in found.items():
            if k is not None:
                r = variables[i][0].rank
                shapes[i] = jnp.broadcast_shapes(shapes[i], k.shape[:r])
                shapes[j] = jnp.broadcast_shapes(shapes[j], k.shape[r:])
        self._shapes = shapes
        self._places: dict[tuple[int, int], tuple[int, slice]] = {}
        sides: tuple[list[int], list[int]] = ([], [])
        counts = [0, 0]
        for i, (atom, side) in enumerate(variables):
            end = counts[side] + math.prod(shapes[i])
            self._places[id(atom), side] = i, slice(counts[side], end)
            counts[side] = end
            sides[side].append(i)
        self.size, self._first = sum(counts), counts[0]
        if self.size > DIMENSIONS:
            raise NoLimitError(
                f"a function of {self.size} Gaussians, those of both examples; up to "
                f"{DIMENSIONS} are sampled"
            )

        def one_block(i: int, j: int) -> Any:
            if i > j:
                return one_block(j, i).T
            k, whole = found[i, j], (*shapes[i], *shapes[j])
            k = jnp.zeros((), m.dtype) if k is None else k
            rows = math.prod(shapes[i])
            return jnp.broadcast_to(k, whole).reshape(rows, -1)

        def block(rows: list[int], columns: list[int]) -> Any:
            if not (rows and columns):
                n, k = (sum(math.prod(shapes[i]) for i in s) for s in (rows, columns))
                return jnp.zeros((n, k), m.dtype)
            several = [[one_block(i, j) for j in columns] for i in rows]
            return jnp.concatenate([jnp.concatenate(r, axis=1) for r in several])

        self.across = block(*sides)
        fixed = jax.lax.stop_gradient(self.across)
        upper = jnp.concatenate([_guarded(block(sides[0], sides[0])), fixed], axis=1)
        lower = jnp.concatenate([fixed.T, _guarded(block(sides[1], sides[1]))], axis=1)
        values, vectors = jnp.linalg.eigh(jnp.concatenate([upper, lower]))
        # The largest first, which the first dimensions of the points are best for.
        self._root = (vectors * jnp.sqrt(jnp.maximum(values, 0))[None])[:, ::-1]

    def drawn(self, point: Any) -> tuple[Any, Any]:
        """The entries at the two sides for standard normal numbers."""
        x = self._root @ point
        return x[: self._first], x[self._first :]

    def of(self, x: Any, atom: Atom, side: int) -> Any:
        """The array of one of the Gaussians, among the entries of its side."""
        i, place = self._places[id(atom), side]
        return x[place].reshape(self._shapes[i])


def _gaussians(atom: Atom) -> list[Atom]:
    """What an atom is a function of."""
    if atom.tangent:
        raise NoLimitError(
            "a trainable parameter of zero variance, such as a gain, in a function "
            "whose expectations are sampled"
        )
    if atom.gaussian:
        return [atom]
    if isinstance(atom, Moved):
        return _gaussians(atom.atom)
    if isinstance(atom, Mixed):
        several: Sequence[Sequence[Term]] = [atom.terms]
    elif isinstance(atom, Computed):
        several = atom.operands
    else:
        raise NoLimitError("a random mask in a function whose expectations are sampled")
    leaves = []
    for terms in several:
        for term in terms:
            for *_, inner in term.factors:
                leaves += [a for a in _gaussians(inner) if a not in leaves]
    return leaves


def _value(m: Any, atom: Atom, side: int, of: Any, known: dict[int, Any]) -> Any:
    """An atom's entries for drawn Gaussians."""
    if id(atom) in known:
        return known[id(atom)]
    if atom.gaussian:
        value = of(atom)
    elif isinstance(atom, Computed):
        given = [_sum(m, terms, atom, side, of, known) for terms in atom.operands]
        value = atom.call(given, m, side)
    else:
        assert isinstance(atom, Mixed | Moved)
        if isinstance(atom, Mixed):
            inner = _sum(m, atom.terms, atom, side, of, known)
        else:
            inner = _value(m, atom.atom, side, of, known)
        if not atom.op.lazy:
            inner = jnp.broadcast_to(inner, atom.op.before)
        value = atom.op.apply(inner, m, side)
    known[id(atom)] = value
    return value


def _sum(
    m: Any, terms: Sequence[Term], like: Atom, side: int, of: Any, known: Any
) -> Any:
    """A sum of terms for drawn Gaussians."""
    total = None
    for term in terms:
        part = None if term.coef is None else _guarded(m.number(term.coef, side))
        for function, params, atom in term.factors:
            a = _value(m, atom, side, of, known)
            a = _applied(m, function, params, a, side)
            part = a if part is None else part * a
        total = part if total is None else total + part
    return total


def _applied(m: Any, function: Any, params: Any, a: Any, side: int) -> Any:
    given = [_guarded(m.number(p, side)) for p in params]
    shape = jnp.broadcast_shapes(a.shape, *(p.shape for p in given))
    given = [jnp.broadcast_to(p, shape) for p in given]
    return function.call(jnp.broadcast_to(a, shape), *given)


@jax.custom_jvp
def _guarded(x: Any) -> Any:
    return x


def _no_derivative(primals: Any, tangents: Any) -> Any:
    raise NoLimitError(
        "The infinite-width kernels of this model are sampled, and have no derivatives "
        "by inputs, `W_std` or `b_std`."
    )


_guarded.defjvp(_no_derivative)


def _points(m: Any, size: int) -> Any:
    """Standard normal numbers that fill space evenly, `(n_points, size)`."""
    n_points, shift = m.points
    lattice = jnp.asarray(_lattice(n_points)[:, :size], m.dtype)
    u = (lattice + shift[None, :size]) % 1.0
    tiny = jnp.finfo(m.dtype).eps
    return jax.scipy.special.ndtri(jnp.clip(u, tiny, 1 - tiny))


@lru_cache(maxsize=4)
def _lattice(n: int) -> np.ndarray:
    """A lattice of rank one, its generators chosen one after another.

    By the worst error for functions of one derivative in each dimension, of which the
    later weigh less.
    """
    candidates = np.arange(1, n // 2 + 1)
    candidates = candidates[np.gcd(candidates, n) == 1][:256]
    rng = np.random.default_rng(0)
    if n // 2 > 512:  # a sample of them will do
        odd = np.arange(1, n // 2, 2)
        candidates = np.sort(rng.choice(odd[np.gcd(odd, n) == 1], 256, replace=False))
    steps = np.arange(n)
    product = np.ones(n)
    chosen = []
    for j in range(DIMENSIONS):
        x = (steps[None] * candidates[:, None] % n) / n
        kernel = 1 + (x * x - x + 1 / 6) / (j + 1) ** 2
        errors = kernel @ product
        if chosen:
            errors[np.isin(candidates, chosen[-min(len(chosen), 200) :])] = np.inf
        best = int(np.argmin(errors))
        chosen.append(int(candidates[best]))
        product = product * kernel[best]
    return (steps[:, None] * np.asarray(chosen)[None] % n) / n
