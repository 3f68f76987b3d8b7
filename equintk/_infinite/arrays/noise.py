"""Masks drawn by a random key, as dropout does: independent entries, zero or one.

Where such a mask meets an axis that goes to infinity its entries are no numbers but
random ones, which two examples share where their keys are the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from ..errors import NoLimitError
from ..functions.function import linear
from ..layout import Axes, Factor, Root
from ..nodes import Atom, Atoms, Data, Drawn, Field, Noise, Term


def bits(eqn: JaxprEqn, key: Data, result: Data) -> Data:
    """Random bits, remembered as such."""
    axes = tuple(range(len(result.shape)))
    width = int(eqn.params["bit_width"])
    return replace(result, noise=Noise(key, axes, width, lambda b: b))


def pointwise(eqn: JaxprEqn, operands: Sequence[Data], result: Data) -> Data:
    """A function of random bits, where the other operands are numbers."""
    noisy = [i for i, d in enumerate(operands) if d.noise is not None]
    if len(noisy) != 1 or operands[noisy[0]].shape != result.shape:
        return result
    (i,) = noisy
    numbers: dict[int, Any] = {}
    for j, other in enumerate(operands):
        if j != i:
            if other.const is None or np.unique(other.const).size != 1:
                return result
            numbers[j] = np.asarray(other.const).ravel()[0]
    noise = operands[i].noise
    assert noise is not None
    inner = noise.call

    def call(b: Any) -> Any:
        values = [
            jnp.full(b.shape, numbers[j]) if j in numbers else inner(b)
            for j in range(len(operands))
        ]
        return eqn.primitive.bind(*values, **eqn.params)

    return replace(result, noise=replace(noise, call=call))


def repeated(eqn: JaxprEqn, operand: Data, result: Data) -> Data:
    """`broadcast_in_dim` of a function of random bits."""
    if operand.noise is None:
        return result
    axes: list[int | None] = [None] * len(result.shape)
    for i, j in enumerate(eqn.params["broadcast_dimensions"]):
        if operand.shape[i] == result.shape[j]:
            axes[j] = operand.noise.axes[i]
    return replace(result, noise=replace(operand.noise, axes=tuple(axes)))


def met(atoms: Atoms, data: Data, like: Axes) -> Field | None:
    """A mask as a random array with the factors of what it meets.

    `None` where it meets no axis that goes to infinity: then it is a number like any
    other.

    Raises:
        NoLimitError: if its entries take more than two values.
    """
    noise = data.noise
    if noise is None:
        return None
    n_wide = sum(f.kind == "wide" for axis in like for f in axis)
    axes, strides, dims, sizes = [], [], [], []
    column = 0
    for own, factors in zip(noise.axes, like, strict=True):
        mine = []
        for factor in factors:
            if factor.kind == "wide":
                if own is not None:
                    strides.append(tuple(int(i == column) for i in range(n_wide)))
                column += 1
                mine.append(factor)
            else:
                dims.append(own)
                sizes.append(factor.size)
                mine.append(Factor("copies" if own is None else "place", factor.size))
        axes.append(tuple(mine))
    if not strides:
        return None
    n_key = len(noise.key.shape)
    if [d for d in dims if d is not None and d < n_key] != list(range(n_key)):
        raise NoLimitError("random numbers of several keys whose axis was rearranged")
    shape = {a: n for a, n in zip(noise.axes, data.shape, strict=True) if a is not None}
    if atoms.kept(("draw", id(noise.key)), lambda: shape, noise.key) != shape:
        raise NoLimitError("one random key is used for draws of two shapes")
    low, high, probability = _two_values(noise)
    rank = len(dims)
    terms = []
    if probability:
        source = atoms.kept(
            ("mask", id(noise.key), probability, tuple(dims), tuple(sizes)),
            lambda: Mask(noise.key, probability, tuple(dims), tuple(sizes)),
        )
        root = Root(
            ("mask", id(noise.key)), noise.axes, (0,) * len(strides), tuple(strides)
        )
        atom = atoms.drawn(source, root, gaussian=False)
        terms.append(Term(None, ((linear(high - low), (), atom),)))
    if low or not terms:
        terms.append(Term(_number(low, rank), ()))
    return Field(tuple(axes), tuple(terms), data.dtype)


def _number(value: float, rank: int) -> Data:
    array = np.full((1,) * rank, value)
    return Data(array.shape, (False,) * rank, array.dtype, lambda m, s: None, array)


def is_mask(atom: Atom) -> bool:
    """Whether an atom is zero or one."""
    return isinstance(atom, Drawn) and isinstance(atom.source, Mask)


def _two_values(noise: Noise) -> tuple[float, float, float]:
    """The values below and above a threshold, and how probable the second is."""
    kind = np.dtype(f"uint{noise.width}").type
    last = 2**noise.width - 1

    def of(numbers: Any) -> np.ndarray:
        array = np.asarray([kind(n) for n in numbers])
        return np.asarray(noise.call(jnp.asarray(array))).astype(float)

    with jax.ensure_compile_time_eval():
        low, high = of([0, last])
        first, end = 0, last  # of which the values are low and high
        while end - first > 1:
            step = max((end - first) // 256, 1)
            some = [*range(first, end, step), end]
            above = int(np.argmax(of(some) != low))
            first, end = some[above - 1], some[above]
        rng = np.random.default_rng(0)
        some = [int(n) for n in rng.integers(0, last, 4096, np.uint64, True)]
        some = [n % (last + 1) for n in some]
        expected = [high if n >= end else low for n in some]
        if low == high or np.any(of(some) != np.asarray(expected)):
            if low == high and np.all(of(some) == low):
                return low, low, 0.0
            raise NoLimitError(
                "random numbers that are drawn in the model, and are no masks of two "
                "values as those of dropout are"
            )
    return low, high, (last + 1 - end) / (last + 1)


@dataclass(frozen=True, eq=False)
class Mask:
    """Entries that are one with some probability, and zero else.

    Attributes:
        key: that they are drawn with; an array of keys draws for each its own.
        probability: of one, which are the largest bits.
        dims: per dimension of the result, the axis of what is drawn, of which the
            first are those of the keys, or `None` for copies.
        sizes: of the dimensions.
    """

    key: Data
    probability: float
    dims: tuple[int | None, ...]
    sizes: tuple[int, ...]

    @property
    def rank(self) -> int:
        """The number of dimensions of the result."""
        return len(self.dims)

    def mean(self, m: Any) -> Any:
        """Of the entries."""
        return jnp.full((1,) * self.rank, self.probability, m.dtype)

    def covariance(
        self, m: Any, other: "Mask", sides: Any, diagonal: bool, still: bool
    ) -> Any:
        """The mean of the product, of `rank` or `2 * rank` dimensions."""
        one, two = self._keys(m, sides[0]), other._keys(m, sides[1])
        n_key = len(self.key.shape)
        of_key = [d is not None and d < n_key for d in self.dims]
        if not diagonal:
            one = one.reshape(one.shape[:n_key] + (1,) * n_key + one.shape[-1:])
        again = jnp.all(one == two, axis=-1)
        sizes = iter(again.shape)
        copies = 1 if diagonal else 2
        same = again.reshape([next(sizes) if k else 1 for k in of_key * copies])
        if not diagonal:
            for d, (own, size) in enumerate(zip(self.dims, self.sizes, strict=True)):
                if own is not None and not of_key[d]:
                    others = [i for i in range(2 * self.rank) if i % self.rank != d]
                    same = same & jnp.expand_dims(jnp.eye(size, dtype=bool), others)
        both = min(self.probability, other.probability)
        apart = self.probability * other.probability
        return jnp.where(same, jnp.asarray(both, m.dtype), apart)

    def _keys(self, m: Any, side: int) -> Any:
        """The bits of the keys, which no other draw may have."""
        keys = jax.random.key_data(m.value(self.key, side))
        for number, (_, others) in m.draws.items():
            if number[0] != id(self.key):
                again = jnp.all(
                    keys.reshape(-1, 1, keys.shape[-1])
                    == others.reshape(1, -1, keys.shape[-1]),
                    axis=-1,
                )
                keys = eqx.error_if(keys, jnp.any(again), _TWICE)
        m.draws[id(self.key), side] = self.key, keys
        return keys


_TWICE = (
    "One random key draws two masks of the model, which so are not independent. Give "
    "each its own: `one, two = jax.random.split(key)`."
)
