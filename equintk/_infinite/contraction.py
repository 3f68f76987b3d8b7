"""Parameters contracted with arrays, or met entry by entry; sums over axes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np

from . import data as deterministic, fields, parameters
from .algebra import is_positive, zero_mean
from .averages import Average
from .errors import NoLimitError
from .functions import IDENTITY
from .layout import Axes, Axis, Factor, Root
from .nodes import Atoms, Data, Field, LeafPart, Par, PlaceOp, Term
from .parameters import Spans, index_of, parts_along
from .shifts import Window
from .sources import Operand, Overlap, Parameter


@dataclass(frozen=True, eq=False)
class Drawer:
    """Makes Gaussians of parameters.

    Attributes:
        atoms: where atoms are made.
        names: of the parameters, for errors.
        starts: the values that parameters start from.
        kept: numbers of the parameters that are not redrawn.
        still: numbers of those whose variance is zero.
        frozen: numbers of those that do not move.
        finite: numbers of those whose own axes are places.
        layouts: what was done with the axes of each parameter.
    """

    atoms: Atoms
    names: Sequence[str]
    starts: Sequence[Any]
    kept: frozenset[int]
    still: frozenset[int]
    frozen: frozenset[int]
    finite: frozenset[int]
    layouts: dict[int, Any] = field(default_factory=dict)

    def contracted(
        self,
        par: Par,
        other: Field,
        contracted: Sequence[tuple[int, int]],
        batch: Sequence[tuple[int, int]],
        par_first: bool,
    ) -> Field:
        """A `dot_general` of a parameter and an array; pairs are of their axes."""
        shape = par.shape
        self._check_weight(par)
        par, other = self._matched(par, other, [*contracted, *batch])
        use = _Use(self, par, other)
        for i, j in contracted:
            use.contract(par.axes[i], j)
        par_free = [
            i
            for i in range(len(shape))
            if i not in [p for p, _ in (*contracted, *batch)]
        ]
        other_free = [
            j
            for j in range(len(other.axes))
            if j not in [q for _, q in (*contracted, *batch)]
        ]
        # Results have the batch, then the free axes of the first operand, then those
        # of the second.
        plan: list[tuple[str, int, int]] = [("batch", i, j) for i, j in batch]
        own = [("own", i, -1) for i in par_free]
        rest = [("other", -1, j) for j in other_free]
        plan += own + rest if par_first else rest + own
        return use.result(plan)

    def convolved(self, par: Par, other: Field, eqn: Any, out: Any) -> Field:
        """A `conv_general_dilated` of an array and a parameter."""
        p = eqn.params
        numbers = p["dimension_numbers"]
        lhs, rhs, res = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
        if p["batch_group_count"] != 1 or p["feature_group_count"] != 1:
            raise NoLimitError(
                "a convolution in groups, in which a weight meets few channels"
            )
        self._check_weight(par)
        for j in lhs[2:]:
            other = fields.plain(self.atoms, other, j)
            if other.axes[j][0].kind == "wide":
                raise NoLimitError("a convolution along an axis that goes to infinity")
        par, other = self._matched(par, other, [(rhs[1], lhs[1])])
        use = _Use(self, par, other)
        use.contract(par.axes[rhs[1]], lhs[1])
        plan: dict[int, tuple[str, int, int]] = {
            res[0]: ("other", -1, lhs[0]),
            res[1]: ("own", rhs[0], -1),
        }
        for n, (i, j, k) in enumerate(zip(rhs[2:], lhs[2:], res[2:], strict=True)):
            window = Window(
                par.shape[i], p["window_strides"][n], tuple(p["padding"][n]),
                p["lhs_dilation"][n], p["rhs_dilation"][n],
            )  # fmt: skip
            use.slide(par.axes[i], j, window, out.shape[k])
            plan[k] = ("window", -1, j)
        return use.result([plan[k] for k in range(len(res))])

    def alone(self, par: Par, like: Field | None) -> tuple[Field, float]:
        """A parameter met entry by entry, as an array of mean zero, and its mean."""
        kinds: Axes = (
            like.axes
            if like is not None
            else tuple((Factor("place", n),) for n in par.shape)
        )
        n_columns = sum(f.kind == "wide" for axis in kinds for f in axis)
        spans = Spans(par)
        axes: list[Axis] = []
        dims: list[tuple[int, list[LeafPart]]] = []
        column = dim = own = 0
        for axis, factors in zip(par.axes, kinds, strict=True):
            mine = []
            parts = parts_along(axis, [f.size for f in factors])
            for part, factor in zip(parts, factors, strict=True):
                is_own = part.leaf_axis is not None
                own += is_own
                if factor.kind == "wide":
                    spans.free(part, column, n_columns)
                    column += 1
                    mine.append(factor)
                    continue
                spans.take(part, "place")
                dims.append((dim, [part]))
                dim += 1
                mine.append(Factor("place" if is_own else "copies", factor.size))
            axes.append(tuple(mine))
        kept = par.leaf in self.kept
        mean = parameters.equal_entries(self.starts[par.leaf]) if kept else 0.0
        atom = self._drawn(
            par, None, (None,) * dim, dims, self._root(par, spans, (), n_columns)
        )
        several = math.prod(par.shape) > 1
        if atom.tangent and several and not own and par.leaf not in self.frozen:
            raise NoLimitError(
                f"the parameter `model{self.names[par.leaf]}` is one number shared by "
                "all entries: what it adds to the tangent kernel stays random. Set its "
                "learning rate to 0"
            )
        terms = [] if atom.tangent and par.leaf in self.frozen else [_only(atom)]
        if not terms:
            terms = [Term(deterministic.constant(np.zeros((1,) * dim)), ())]
        return Field(tuple(axes), tuple(terms), par.dtype), mean * par.scale

    def looked_up(self, par: Par, rows: Data, axis: int) -> Field:
        """Rows of a table; `rows` counts along `axis`, and its axes come first."""
        self._check_weight(par)
        rest = [i for i in range(len(par.axes)) if i != axis]
        spans = Spans(par)
        rank = len(rows.shape)
        spans.take(par.axes[axis][0], "looked up")
        if len(par.axes[axis]) != 1 or par.axes[axis][0].leaf_axis is None:
            raise NoLimitError("a table that was reshaped before rows are looked up")
        stride = par.axes[axis][0].stride
        axes: list[Axis] = [
            (Factor("copies" if c else "place", n),)
            for n, c in zip(rows.shape, rows.copies, strict=True)
        ]
        for column, i in enumerate(rest):
            for part in par.axes[i]:
                spans.free(part, column, len(rest))
            if len(par.axes[i]) != 1:
                raise NoLimitError(
                    "a table that was reshaped before rows are looked up"
                )
            axes.append((Factor("wide", par.shape[i]),))
        root = self._root(par, spans, (), len(rest))
        index = lambda m, side: m.value(rows, side) * stride
        source = Parameter(par.leaf, par.scale, None, (None,) * rank, index, rank)
        atom = self.atoms.drawn(source, root, par.leaf in self.still)
        return Field(tuple(axes), (_only(atom),), par.dtype)

    def _matched(
        self, par: Par, other: Field, pairs: Sequence[tuple[int, int]]
    ) -> tuple[Par, Field]:
        """Both, with axes that meet split to parts of the same sizes."""
        axes = list(par.axes)
        for i, j in pairs:
            parts = [p for p in axes[i] if p.size != 1]
            done: list[LeafPart] = []
            at = 0
            while at < len(other.axes[j]) or parts:
                if at == len(other.axes[j]):
                    raise NoLimitError("a parameter whose axes do not fit the array's")
                size = other.axes[j][at].size
                if size == 1:
                    done.append(LeafPart(None, 0, 1))
                    at += 1
                    continue
                if not parts:
                    raise NoLimitError("a parameter whose axes do not fit the array's")
                part = parts.pop(0)
                if part.size > size:
                    part, more = parameters.split(part, size)
                    parts.insert(0, more)
                elif part.size < size:
                    if size % part.size:
                        raise NoLimitError(
                            "a parameter whose axes do not fit the array's"
                        )
                    sizes = (part.size, size // part.size)
                    other = fields.split(self.atoms, other, j, at, sizes)
                done.append(part)
                at += 1
            axes[i] = tuple(done)
        return Par(par.leaf, tuple(axes), par.offsets, par.scale, par.dtype), other

    def _drawn(
        self, par: Par, operand: Operand | None, out: Any, dims: Any, root: Root
    ) -> Any:
        table = index_of(par, self.starts[par.leaf].shape, dims, len(out))
        index = None if table is None else (lambda m, side: jnp.asarray(table))
        source = Parameter(par.leaf, par.scale, operand, out, index, len(out))
        return self.atoms.drawn(source, root, par.leaf in self.still)

    def _root(
        self, par: Par, spans: Spans, inherited: Sequence[int], n_columns: int
    ) -> Root:
        """The root of what a use draws, if all uses of the parameter are alike.

        A matrix and its transpose, of which one's input depends on the other, are not
        independent of one another, even though their entries never meet.
        """
        known = self.layouts.setdefault(par.leaf, spans.layout)
        if known != spans.layout:
            raise NoLimitError(
                f"the parameter `model{self.names[par.leaf]}` is used in two orders of "
                "its axes"
            )
        return spans.root(inherited, n_columns)

    def whole(self, par: Par, part: LeafPart) -> int:
        """How many entries an axis has of which a view takes some; 0 if all."""
        if part.leaf_axis is None:
            return 0
        size = self.starts[par.leaf].shape[part.leaf_axis]
        return 0 if size == part.size else size

    def _check_weight(self, par: Par) -> None:
        """Check that what is contracted is drawn, or starts from zero."""
        if par.leaf in self.kept and parameters.equal_entries(self.starts[par.leaf]):
            raise NoLimitError(
                f"the parameter `model{self.names[par.leaf]}` keeps its start, but is "
                "contracted like a weight"
            )


class _Use:
    """A contraction while it is put together."""

    def __init__(self, drawer: Drawer, par: Par, other: Field):
        self.drawer, self.par, self.other = drawer, par, other
        self.spans = Spans(par)
        self.summed: list[int] = []
        self.columns: list[int] = []  # wide factors of the array that are contracted
        self.windows: list[tuple[int, Window]] = []
        self.window_sizes: dict[int, int] = {}
        self.wide = self.whole = 1

    def contract(self, parts: Sequence[LeafPart], axis: int) -> None:
        for i, (part, factor) in enumerate(
            zip(parts, self.other.axes[axis], strict=True)
        ):
            is_wide, number = fields.position(self.other, axis, i)
            self.spans.take(part, ("in", factor.kind, len(self.columns)))
            if is_wide:
                self.columns.append(number)
                self.wide *= factor.size
                self.whole = max(self.whole, factor.whole)
            else:
                self.summed.append(number)

    def slide(
        self, parts: Sequence[LeafPart], axis: int, window: Window, size: int
    ) -> None:
        for part in parts:
            self.spans.take(part, ("window", axis, window.stride, window.rhs_dilation))
        _, number = fields.position(self.other, axis, 0)
        self.windows.append((number, window))
        self.window_sizes[axis] = size

    def result(self, plan: Sequence[tuple[str, int, int]]) -> Field:
        """The Gaussian array whose axes are, in this order, as `plan` says."""
        drawer, par, other = self.drawer, self.par, self.other
        random = any(term.factors for term in other.terms)
        self._check_wide(random)
        kept = [d for d in range(len(other.sizes)) if d not in self.summed]
        inherited: list[tuple[int, int]] = []  # column of the array, of the result
        axes: list[Axis] = []
        out: list[int | None] = []
        dims: list[tuple[int, list[LeafPart]]] = []
        free: list[tuple[LeafPart, int]] = []
        column = 0
        for kind, i, j in plan:
            mine: list[Factor] = []
            if kind == "own":
                for part in par.axes[i] or (LeafPart(None, 0, 1),):
                    if par.leaf in drawer.finite:
                        self.spans.take(part, "place")
                        dims.append((len(out), [part]))
                        out.append(None)
                        mine.append(Factor("place", part.size))
                    elif part.leaf_axis is None and part.size > 1:
                        out.append(None)
                        mine.append(Factor("copies", part.size))
                    else:
                        free.append((part, column))
                        column += 1
                        mine.append(Factor("wide", part.size, drawer.whole(par, part)))
                axes.append(tuple(mine))
                continue
            for k, factor in enumerate(other.axes[j]):
                is_wide, number = fields.position(other, j, k)
                part = par.axes[i][k] if kind == "batch" else None
                if is_wide:
                    if part is None or part.leaf_axis is None:
                        inherited.append((number, column))
                    else:
                        free.append((part, column))
                    column += 1
                    mine.append(factor)
                    continue
                if part is not None and part.leaf_axis is not None:
                    self.spans.take(part, "place")
                    dims.append((len(out), [part]))
                    factor = Factor("place", factor.size)
                if kind == "window":
                    factor = Factor("place", self.window_sizes[j])
                out.append(kept.index(number))
                mine.append(factor)
            axes.append(tuple(mine))
        for part, c in free:
            self.spans.free(part, c, column)
        self._check_inherited(inherited, random)
        operand = Operand(
            other.terms,
            other.sizes,
            tuple(sorted(self.summed)),
            tuple(self.windows),
            self.wide,
        )
        columns = [c for _, c in inherited]
        root = drawer._root(par, self.spans, columns, column)
        atom = drawer._drawn(par, operand, tuple(out), dims, root)
        return Field(tuple(axes), (_only(atom),), par.dtype)

    def _check_wide(self, random: bool) -> None:
        """Check that the sum over entries is one over many that are independent."""
        if not random:
            return
        if self.wide == 1:
            raise NoLimitError(
                "a parameter is contracted with a single random entry, or with axes "
                "that do not go to infinity, which gives no Gaussian"
            )
        _check_many(self.wide, self.whole)
        for term in self.other.terms:
            for root in term.roots:
                self.drawer.atoms.contracted.add(root.origin)
                if not root.varies_along(self.columns):
                    raise NoLimitError(
                        "a parameter is contracted with a random array over axes that "
                        "do not go to infinity (mixing tokens or channels by a drawn "
                        "matrix, or a convolution of each channel by itself), which "
                        "gives no Gaussian"
                    )

    def _check_inherited(
        self, inherited: Sequence[tuple[int, int]], random: bool
    ) -> None:
        if not inherited or not random:
            return
        columns = [column for column, _ in inherited]
        for term in self.other.terms:
            roots = term.roots
            for column in columns:
                if not (
                    zero_mean([term]) and all(r.varies_along([column]) for r in roots)
                ):
                    raise NoLimitError(
                        "one parameter is applied along a further axis that goes to "
                        "infinity, to an array whose mean is not zero or that does not "
                        "vary along it: its results there depend on one another"
                    )


def _check_many(some: int, whole: int) -> None:
    """Check that entries that are summed are a good part of an axis, as it grows."""
    if some**2 < whole:
        raise NoLimitError(
            f"a sum over {some} of the {whole} entries of an axis that goes to "
            "infinity: if they stay as few there is no limit; if they become more as "
            "the axis grows, pass a wider model"
        )


def summed(atoms: Atoms, field: Field, axes: Sequence[int]) -> Field | Data:
    """`reduce_sum` of a random array."""
    columns, dims, wide, whole = [], [], 1, 1
    for axis in axes:
        for part, factor in enumerate(field.axes[axis]):
            is_wide, number = fields.position(field, axis, part)
            if is_wide:
                columns.append(number)
                wide *= factor.size
                whole = max(whole, factor.whole)
            else:
                dims.append((number, factor.size))
    kept = tuple(a for i, a in enumerate(field.axes) if i not in axes)
    if columns:
        _check_many(wide, whole)
        for term in field.terms:
            atoms.averaged |= {(root, c) for root in term.roots for c in columns}
        return _law_of_large_numbers(field, axes, columns, dims, wide)
    numbers = tuple(d for d, _ in dims)
    sizes = dict(dims)

    def apply(a: Any, m: Any, side: int) -> Any:
        copies = math.prod(n for d, n in sizes.items() if a.shape[d] == 1)
        return copies * a.sum(axis=numbers)

    op_axes = kept
    after = Field(op_axes, (), field.dtype).sizes
    op = PlaceOp(("sum", numbers, field.sizes), apply, field.sizes, after, False, True)
    return fields.map_places(atoms, field, op, op_axes)


def _law_of_large_numbers(
    field: Field, axes: Sequence[int], columns: list[int], dims: Any, wide: int
) -> Data:
    for term in field.terms:
        for root in term.roots:
            if not root.varies_along(columns):
                raise NoLimitError(
                    "a sum over an axis that goes to infinity of something random that "
                    "does not vary along it"
                )
    rank = len(field.sizes)
    shape, copies, target = [], [], []
    kept_dims = []
    for i, axis in enumerate(field.axes):
        if i in axes:
            continue
        is_lazy = all(f.kind != "place" for f in axis)
        shape.append(math.prod(f.size for f in axis))
        copies.append(is_lazy)
        target.append(1 if is_lazy else shape[-1])
        for part, factor in enumerate(axis):
            is_wide, number = fields.position(field, i, part)
            kept_dims.append((None if is_wide else number, factor.size, is_lazy))
    others = [(d, n) for d, n in dims]

    def compute(m: Any, side: int) -> Any:
        mean = m.mean(field.terms, rank, side)
        for d, n in others:
            mean = mean.sum(axis=d, keepdims=True) * (n if mean.shape[d] == 1 else 1)
        # Axes that hold places are written out; the others keep size 1.
        order = [d for d, _, _ in kept_dims if d is not None]
        mean = mean.transpose([*order, *(d for d in range(rank) if d not in order)])
        mean = mean.reshape(mean.shape[: len(order)])
        have = iter(mean.shape)
        sizes = [1 if d is None else next(have) for d, _, _ in kept_dims]
        mean = mean.reshape(sizes)
        whole = [
            size if lazy else n
            for size, (_, n, lazy) in zip(sizes, kept_dims, strict=True)
        ]
        mean = jnp.broadcast_to(mean, whole)
        return (wide * mean).reshape(target).astype(field.dtype)

    added = float(math.prod(n for _, n in dims) * wide)
    average = Average(float(wide), added, False, False)
    if zero_mean(field.terms):
        value = np.zeros([1 if c else n for n, c in zip(shape, copies, strict=True)])
        return Data(
            tuple(shape), tuple(copies), field.dtype, lambda m, side: None,
            value.astype(field.dtype), average,
        )  # fmt: skip
    return Data(
        tuple(shape), tuple(copies), field.dtype, compute, None,
        average._replace(positive=is_positive(field.terms)),
    )  # fmt: skip


def overlap(field: Field, axes: Sequence[int], atoms: Atoms) -> Field:
    """The sum over wide axes of a product of mean zero: a new Gaussian array."""
    columns, summed_dims, wide, whole = [], [], 1, 1
    for axis in axes:
        for part, factor in enumerate(field.axes[axis]):
            is_wide, number = fields.position(field, axis, part)
            if is_wide:
                columns.append(number)
                wide *= factor.size
                whole = max(whole, factor.whole)
            else:
                summed_dims.append(number)
    _check_many(wide, whole)
    for term in field.terms:
        atoms.averaged |= {(root, c) for root in term.roots for c in columns}
        atoms.contracted |= {root.origin for root in term.roots}
    kept_axes = tuple(a for i, a in enumerate(field.axes) if i not in axes)
    result = Field(kept_axes, (), field.dtype)
    kept_columns = [c for c in range(field.n_wide) if c not in columns]
    for term in field.terms:
        for root in term.roots:
            if not root.varies_along(columns) or not all(
                root.varies_along([c]) for c in kept_columns
            ):
                raise NoLimitError(
                    "a product of random arrays is summed over an axis along which one "
                    "of them does not vary"
                )
    operand = Operand(field.terms, field.sizes, tuple(sorted(summed_dims)), (), wide)
    rank = len(result.sizes)
    source = Overlap(operand, tuple(columns), rank)
    strides = tuple(
        tuple(int(a == b) for b in range(result.n_wide)) for a in range(result.n_wide)
    )
    root = Root(("overlap",), (), (0,) * result.n_wide, strides)
    atom = atoms.drawn(source, root)
    return Field(kept_axes, (_only(atom),), field.dtype)


def _only(atom: Any) -> Term:
    return Term(None, ((IDENTITY, (), atom),))
