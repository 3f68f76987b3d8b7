"""Parameters contracted with arrays: products of matrices and convolutions."""

from collections.abc import Sequence
from typing import Any

from ..errors import NoLimitError
from ..layout import Axis, Factor
from ..nodes import Atoms, Field, LeafPart, Par, itself
from ..numbers.shifts import Window
from ..numbers.sources import Operand
from . import fields, parameters
from .algebra import zero_mean
from .drawer import Drawer
from .parameters import Spans
from .sums import check_each, check_many


def contracted(
    drawer: Drawer,
    par: Par,
    other: Field,
    summed: Sequence[tuple[int, int]],
    batch: Sequence[tuple[int, int]],
    par_first: bool,
) -> Field:
    """A `dot_general` of a parameter and an array; pairs are of their axes."""
    shape = par.shape
    drawer.check_weight(par)
    par, other = _matched(drawer.atoms, par, other, [*summed, *batch])
    use = _Use(drawer, par, other)
    for i, j in summed:
        use.contract(par.axes[i], j)
    par_free = [
        i for i in range(len(shape)) if i not in [p for p, _ in (*summed, *batch)]
    ]
    other_free = [
        j for j in range(len(other.axes)) if j not in [q for _, q in (*summed, *batch)]
    ]
    # Results have the batch, then the free axes of the first operand, then those
    # of the second.
    plan: list[tuple[str, int, int]] = [("batch", i, j) for i, j in batch]
    own = [("own", i, -1) for i in par_free]
    rest = [("other", -1, j) for j in other_free]
    plan += own + rest if par_first else rest + own
    return use.result(plan)


def convolved(drawer: Drawer, par: Par, other: Field, eqn: Any, out: Any) -> Field:
    """A `conv_general_dilated` of an array and a parameter."""
    p = eqn.params
    numbers = p["dimension_numbers"]
    lhs, rhs, res = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
    if p["batch_group_count"] != 1 or p["feature_group_count"] != 1:
        raise NoLimitError(
            "a convolution in groups, in which a weight meets few channels"
        )
    drawer.check_weight(par)
    for j in lhs[2:]:
        other = fields.plain(drawer.atoms, other, j)
        if other.axes[j][0].kind == "wide":
            raise NoLimitError("a convolution along an axis that goes to infinity")
    par, other = _matched(drawer.atoms, par, other, [(rhs[1], lhs[1])])
    use = _Use(drawer, par, other)
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


def _matched(
    atoms: Atoms, par: Par, other: Field, pairs: Sequence[tuple[int, int]]
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
                    raise NoLimitError("a parameter whose axes do not fit the array's")
                sizes = (part.size, size // part.size)
                other = fields.split(atoms, other, j, at, sizes)
            done.append(part)
            at += 1
        axes[i] = tuple(done)
    return Par(par.leaf, tuple(axes), par.offsets, par.scale, par.dtype), other


class _Use:
    """A contraction while it is put together."""

    def __init__(self, drawer: Drawer, par: Par, other: Field):
        self.drawer, self.par, self.other = drawer, par, other
        self.spans = Spans(par)
        self.summed: list[int] = []
        self.columns: dict[int, int] = {}  # wide factors that are contracted: sizes
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
                self.columns[number] = factor.size
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
            drawer.atoms.place,
        )
        columns = [c for _, c in inherited]
        root = drawer.root(par, self.spans, columns, column)
        atom = drawer.drawn(par, operand, tuple(out), dims, root)
        return Field(tuple(axes), (itself(atom),), par.dtype)

    def _check_wide(self, random: bool) -> None:
        """Check that the sum over entries is one over many that are independent."""
        if not random:
            return
        if self.wide == 1:
            raise NoLimitError(
                "a parameter is contracted with a single random entry, or with axes "
                "that do not go to infinity, which gives no Gaussian"
            )
        check_many(self.drawer.atoms, self.wide, self.whole)
        check_each(self.drawer.atoms, self.other.terms, self.columns, self.whole)
        for term in self.other.terms:
            for root in term.roots:
                self.drawer.atoms.contracted.add(root.origin)
                if not root.varies_along([*self.columns]):
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
