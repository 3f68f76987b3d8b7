"""Gaussians that parameters make: by themselves, entry by entry, or row by row."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..errors import NoLimitError
from ..layout import Axes, Axis, Factor, Root
from ..nodes import Atoms, Data, Field, LeafPart, Par, Term, itself
from ..numbers.sources import Operand, Parameter
from . import data as deterministic, parameters
from .parameters import Spans, index_of, parts_along


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
        atom = self.drawn(
            par, None, (None,) * dim, dims, self.root(par, spans, (), n_columns)
        )
        several = math.prod(par.shape) > 1
        if atom.tangent and several and not own and par.leaf not in self.frozen:
            raise NoLimitError(
                f"the parameter `model{self.names[par.leaf]}` is one number shared by "
                "all entries: what it adds to the tangent kernel stays random. Set its "
                "learning rate to 0"
            )
        terms = [] if atom.tangent and par.leaf in self.frozen else [itself(atom)]
        if not terms:
            terms = [Term(deterministic.constant(np.zeros((1,) * dim)), ())]
        return Field(tuple(axes), tuple(terms), par.dtype), mean * par.scale

    def looked_up(self, par: Par, rows: Data, axis: int) -> Field:
        """Rows of a table; `rows` counts along `axis`, and its axes come first."""
        self.check_weight(par)
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
        root = self.root(par, spans, (), len(rest))
        index = lambda m, side: m.value(rows, side) * stride
        source = Parameter(par.leaf, par.scale, None, (None,) * rank, index, rank)
        atom = self.atoms.drawn(source, root, par.leaf in self.still)
        return Field(tuple(axes), (itself(atom),), par.dtype)

    def drawn(
        self, par: Par, operand: Operand | None, out: Any, dims: Any, root: Root
    ) -> Any:
        table = index_of(par, self.starts[par.leaf].shape, dims, len(out))
        index = None if table is None else (lambda m, side: jnp.asarray(table))
        source = Parameter(par.leaf, par.scale, operand, out, index, len(out))
        return self.atoms.drawn(source, root, par.leaf in self.still)

    def root(
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

    def check_weight(self, par: Par) -> None:
        """Check that what is contracted is drawn, or starts from zero."""
        if par.leaf in self.kept and parameters.equal_entries(self.starts[par.leaf]):
            raise NoLimitError(
                f"the parameter `model{self.names[par.leaf]}` keeps its start, but is "
                "contracted like a weight"
            )
