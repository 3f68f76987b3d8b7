"""What stands for the arrays of a model: `Data`, `Par` and `Field`.

All are symbols; their numbers come in `numbers`. An `Atom` is an array of which each
entry is a random number of mean zero; equal atoms are one object, so that two functions
of one Gaussian are seen to be that. Arrays of an atom, a coefficient or a covariance
have one dimension per place or copies factor of the field, of its size or of size 1.
"""

import itertools
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .averages import Average
from .errors import NoLimitError
from .functions.function import IDENTITY, Function
from .layout import Axes, Factor, Root, WideOp, related

_numbers = itertools.count()


@dataclass(frozen=True, eq=False)
class Noise:
    """Random bits, and a function of each.

    Attributes:
        key: that they are drawn with.
        axes: per axis of the array, that of the bits; `None` for copies.
        width: the number of bits of each.
        call: the function, of an array of unsigned integers.
    """

    key: "Data"
    axes: tuple[int | None, ...]
    width: int
    call: Callable[[Any], Any]


@dataclass(frozen=True, eq=False)
class Data:
    """A deterministic array, one for each of the two examples.

    Attributes:
        shape: of the array.
        copies: per axis, whether all entries along it are equal; then its value has
            size 1 there.
        dtype: of the array.
        compute: its value, from the moments at hand and the side (0 or 1).
        const: its value where that is known while the model is read.
        average: what sums over wide axes it is made of, if it is.
        noise: the random bits that each entry is a function of, where there are any.
    """

    shape: tuple[int, ...]
    copies: tuple[bool, ...]
    dtype: Any
    compute: Callable[[Any, int], Any]
    const: Any = None
    average: Average | None = None
    noise: Noise | None = None


@dataclass(frozen=True)
class LeafPart:
    """A part of an axis of a parameter's view: `leaf_axis` is `None` for copies."""

    leaf_axis: int | None
    stride: int
    size: int


@dataclass(frozen=True, eq=False)
class Par:
    """A parameter seen through some layout, times a factor.

    Attributes:
        leaf: its number.
        axes: per axis of the view, the parts of the leaf's axes that it runs along.
        offsets: per axis of the leaf, the index of the view's first entry.
        scale: the factor: a number, or a constant of no dimensions.
        dtype: of the view.
    """

    leaf: int
    axes: tuple[tuple[LeafPart, ...], ...]
    offsets: tuple[int, ...]
    scale: Any
    dtype: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the view."""
        sizes = []
        for axis in self.axes:
            size = 1
            for part in axis:
                size *= part.size
            sizes.append(size)
        return tuple(sizes)


@dataclass(frozen=True, eq=False)
class Atom:
    """An array of random numbers of mean zero.

    Attributes:
        roots: the drawn Gaussians that its entries are made of.
        rank: how many dimensions its arrays have.
        gaussian: whether its entries are jointly Gaussian.
        tangent: whether its variance is zero, so that only its covariance with itself
            between the two networks, by which the kernel is differentiated, counts.
        number: larger than that of everything it is made of.
    """

    roots: frozenset[Root]
    rank: int
    gaussian: bool = True
    tangent: bool = False
    number: int = field(default_factory=lambda: next(_numbers))


@dataclass(frozen=True, eq=False)
class Drawn(Atom):
    """The entries of a source that its one root names."""

    source: Any = None


@dataclass(frozen=True, eq=False)
class Sum(Atom):
    """A linear combination; a coefficient is a `Data` of the atom's dimensions."""

    parts: tuple[tuple[Data, Atom], ...] = ()


@dataclass(frozen=True, eq=False)
class Moved(Atom):
    """A linear map of the places of a Gaussian."""

    op: Any = None
    atom: Any = None


@dataclass(frozen=True, eq=False)
class Joined(Atom):
    """Gaussians side by side along a dimension."""

    dimension: int = 0
    atoms: tuple[Atom, ...] = ()
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Mixed(Atom):
    """A linear map of the places of something random that is not Gaussian."""

    op: Any = None
    terms: tuple["Term", ...] = ()


@dataclass(frozen=True, eq=False)
class Computed(Atom):
    """What a function makes of several random arrays, of which samples can be had.

    Attributes:
        call: of the arrays, without their wide axes, the moments and the side.
        operands: the arrays.
    """

    call: Any = None
    operands: tuple[tuple["Term", ...], ...] = ()


@dataclass(frozen=True)
class PlaceOp:
    """A linear map of arrays with one dimension per place or copies factor.

    Attributes:
        key: equal for equal maps.
        apply: the map, of an array of the sizes before, the moments and the side.
        before: the sizes of the dimensions before; where the array has 1 it is
            repeated first unless `lazy`.
        after: the sizes after.
        selects: whether each result is one of the entries or zero.
        lazy: whether the map takes dimensions of size 1 as they are.
        operands: deterministic arrays that the map depends on.
    """

    key: Hashable = field(hash=True)
    apply: Callable[[Any, Any, int], Any] = field(compare=False)
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    selects: bool = False
    lazy: bool = False
    operands: tuple[Data, ...] = ()


@dataclass(frozen=True, eq=False)
class Term:
    """A coefficient times functions of atoms.

    Attributes:
        coef: a `Data` of the field's dimensions, or `None` for 1.
        factors: functions, the `Data` they depend on beside, and their atoms; no atom
            occurs twice.
    """

    coef: Data | None
    factors: tuple[tuple[Function, tuple[Data, ...], Atom], ...]

    @property
    def roots(self) -> list[Root]:
        """Of all its atoms."""
        return [root for *_, atom in self.factors for root in atom.roots]


def itself(atom: Atom) -> Term:
    """The term that is one atom."""
    return Term(None, ((IDENTITY, (), atom),))


@dataclass(frozen=True, eq=False)
class Field:
    """A random array: a sum of terms.

    Attributes:
        axes: the factors of each axis of the array.
        terms: what is added.
        dtype: of the array.
    """

    axes: Axes
    terms: tuple[Term, ...]
    dtype: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array in the model."""
        sizes = []
        for axis in self.axes:
            size = 1
            for factor in axis:
                size *= factor.size
            sizes.append(size)
        return tuple(sizes)

    @property
    def factors(self) -> list[Factor]:
        """Of all axes, in order."""
        return [factor for axis in self.axes for factor in axis]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of the dimensions that covariances have."""
        return tuple(f.size for f in self.factors if f.kind != "wide")

    @property
    def n_wide(self) -> int:
        """How many wide factors it has."""
        return sum(f.kind == "wide" for f in self.factors)


class Atoms:
    """Makes atoms; equal ones are one object.

    Attributes:
        sampled: whether atoms may be made whose expectations have no closed form.
        grows: whether the kernel that is wanted grows as the width.
        averaged: what was summed over which of its wide factors.
        contracted: what was contracted with a parameter since it was drawn.
        fewest: entries of wide axes in a sum.
        widest: entries of a wide axis that was summed over.
        place: where in the model atoms are made now, for errors.
    """

    def __init__(self, sampled: bool = False, grows: bool = False) -> None:
        self.sampled, self.grows = sampled, grows
        self.averaged: set[tuple[Root, int]] = set()
        self.contracted: set[Hashable] = set()
        self.fewest: float = math.inf
        self.widest = 1
        self.place = ""
        self._made: dict[Hashable, Atom] = {}
        self._kept: list[Any] = []  # so that no `id` in a key is given out again

    def _intern(self, key: Hashable, make: Callable[[], Any], *keep: Any) -> Any:
        if key not in self._made:
            self._made[key] = make()
            self._kept.append(keep)
        return self._made[key]

    def kept(self, key: Hashable, make: Callable[[], Any], *keep: Any) -> Any:
        """What was made for an equal key before, or is made now."""
        return self._intern(key, make, *keep)

    def drawn(
        self, source: Any, root: Root, tangent: bool = False, gaussian: bool = True
    ) -> Atom:
        """The entries of a source."""
        return self._intern(
            ("drawn", id(source), root),
            lambda: Drawn(
                frozenset([root]), source.rank, gaussian, tangent, source=source
            ),
            source,
        )

    def sum(self, parts: list[tuple[Data, Atom]]) -> Atom:
        """A linear combination of Gaussians."""
        roots = frozenset().union(*(atom.roots for _, atom in parts))
        key = ("sum", tuple(sorted((atom.number, id(c)) for c, atom in parts)))
        return self._intern(
            key, lambda: Sum(roots, parts[0][1].rank, parts=tuple(parts)), parts
        )

    def moved(self, op: PlaceOp, atom: Atom) -> Atom:
        """A linear map of the places of an atom, Gaussian or not."""
        if op.before == op.after and op.key == ("same",):
            return atom
        return self._intern(
            ("moved", op.key, op.before, op.after, id(atom)),
            lambda: Moved(
                atom.roots, len(op.after), atom.gaussian, atom.tangent, op=op, atom=atom
            ),
            atom, op,
        )  # fmt: skip

    def joined(self, dimension: int, atoms: tuple[Atom, ...], sizes: Any) -> Atom:
        """Gaussians side by side."""
        roots = frozenset().union(*(atom.roots for atom in atoms))
        return self._intern(
            ("joined", dimension, tuple(map(id, atoms)), sizes),
            lambda: Joined(
                roots, atoms[0].rank, True, atoms[0].tangent,
                dimension=dimension, atoms=atoms, sizes=sizes,
            ),
            atoms,
        )  # fmt: skip

    def mixed(self, op: PlaceOp, terms: tuple[Term, ...]) -> Atom:
        """A linear map of the places of a sum of terms."""
        roots = frozenset(root for term in terms for root in term.roots)
        return Mixed(roots, len(op.after), False, op=op, terms=terms)

    def computed(
        self, call: Any, operands: Sequence[tuple[Term, ...]], rank: int
    ) -> Atom:
        """A function of sums of terms."""
        roots = frozenset(
            root for terms in operands for term in terms for root in term.roots
        )
        return Computed(roots, rank, False, call=call, operands=tuple(operands))

    def rewide(self, op: WideOp, atom: Atom) -> Atom:
        """The atom after a change of its wide factors."""
        key = ("wide", op, id(atom))
        return self._intern(key, lambda: self._rewide(op, atom), atom)

    def _rewide(self, op: WideOp, atom: Atom) -> Atom:
        if isinstance(atom, Drawn):
            (root,) = atom.roots
            return self.drawn(atom.source, op(root), atom.tangent, atom.gaussian)
        if isinstance(atom, Sum):
            return self.sum([(c, self.rewide(op, a)) for c, a in atom.parts])
        if isinstance(atom, Moved):
            return self.moved(atom.op, self.rewide(op, atom.atom))
        if isinstance(atom, Joined):
            atoms = tuple(self.rewide(op, a) for a in atom.atoms)
            return self.joined(atom.dimension, atoms, atom.sizes)
        if isinstance(atom, Computed):
            several = [self.rewide_terms(op, terms) for terms in atom.operands]
            return self.computed(atom.call, several, atom.rank)
        assert isinstance(atom, Mixed)
        return self.mixed(atom.op, self.rewide_terms(op, atom.terms))

    def rewide_terms(self, op: WideOp, terms: Iterable[Term]) -> tuple[Term, ...]:
        """Terms after a change of their wide factors."""
        return tuple(
            Term(t.coef, tuple((f, p, self.rewide(op, a)) for f, p, a in t.factors))
            for t in terms
        )


def dependent(one: Atom, two: Atom) -> bool:
    """Whether entries at the same indices may depend on one another.

    Raises:
        NoLimitError: if they hold one parameter in two orders.
    """
    if one is two:
        return True
    # all pairs, so that none that is not understood is passed over
    return any([related(a, b) for a in one.roots for b in two.roots])


def one_order(terms: Iterable[Term]) -> None:
    """Check that no parameter occurs in two orders.

    Raises:
        NoLimitError: if one does.
    """
    roots = list({root for term in terms for root in term.roots})
    for a, b in itertools.combinations(roots, 2):
        related(a, b)


def components(atoms: list[Atom]) -> list[list[int]]:
    """Which of the atoms depend on one another."""
    found: list[list[int]] = []
    for i, atom in enumerate(atoms):
        mine = [g for g in found if any(dependent(atom, atoms[j]) for j in g)]
        found = [g for g in found if g not in mine]
        found.append(sorted([i, *itertools.chain(*mine)]))
    return found


def checked_gaussian(atom: Atom) -> Atom:
    """The atom itself.

    Raises:
        NoLimitError: if it is not Gaussian.
    """
    if not atom.gaussian:
        raise NoLimitError(
            "a nonlinear function of a sum over places of something that is random "
            "and not Gaussian"
        )
    return atom
