"""Which parameters are seen at sites alone, and which biases come with them.

A leaf all of whose uses are sites of one layout is *tapped*: its gradient is known from
activations and output derivatives. Every other leaf is *ordinary*: its gradient is
taken as it is. An unknown primitive makes a leaf ordinary, which is slower and as
exact.
"""

import functools
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

from .._trace.flatten import Flat, aval, scan_parts
from .._trace.uses import FACTORS, Path, Use, View, is_sliced, uses
from .moves import MOVES
from .sites import Site, site_of


class Tapped(NamedTuple):
    """A leaf that is seen at sites alone.

    Attributes:
        leaf: its number.
        sites: where it is seen; all of one layout.
        bias: the number of a leaf that is added to the result of each of these sites,
            and to nothing else, or `None`.
        sizes: of the axes $b, s, i, o$ over all sites and steps of scans. A scan over
            slices of the leaf adds to $b$, any other scan to $s$.
        source: equal for leaves that are known to see the same activations.
    """

    leaf: int
    sites: tuple[Site, ...]
    bias: int | None
    sizes: tuple[int, int, int, int]
    source: Any

    @property
    def leaves(self) -> tuple[int, ...]:
        """Its number and the bias's."""
        return (self.leaf,) if self.bias is None else (self.leaf, self.bias)


class Structure(NamedTuple):
    """What is known of a model's parameters.

    Attributes:
        flat: the model's jaxpr; its first inputs are the parameters.
        n_leaves: how many they are.
        tapped: the leaves seen at sites, biases that come with them left out.
        ordinary: the numbers of all others.
        sites: by the path of their equation.
        factors: the steps that scale a tapped leaf or a bias: which of an equation's
            operands is the view, by its path.
        bias_uses: the use of the bias that goes with a site, by the site's path.
    """

    flat: Flat
    n_leaves: int
    tapped: tuple[Tapped, ...]
    ordinary: tuple[int, ...]
    sites: dict[Path, Site]
    factors: dict[Path, int]
    bias_uses: dict[Path, Use]


def structure_of(flat: Flat, n_leaves: int, fuse: bool = True) -> Structure:
    """Read the structure of a model; with `fuse=False` no bias comes with a weight."""
    all_uses = uses(flat, n_leaves)
    views_in = Counter(use.path for of_leaf in all_uses for use in of_leaf if use.eqn)
    sites_of_leaf = {}
    for leaf, of_leaf in enumerate(all_uses):
        sites = [site_of(u) if views_in[u.path] == 1 else None for u in of_leaf]
        found = tuple(site for site in sites if site is not None)
        if found and len(found) == len(sites) and _of_one_layout(found):
            sites_of_leaf[leaf] = found
    sites = {site.use.path: site for found in sites_of_leaf.values() for site in found}
    jaxpr_at = functools.cache(lambda path: _jaxpr_at(flat, path))
    bias_of: dict[int, int] = {}
    bias_uses: dict[Path, Use] = {}
    for leaf, of_leaf in enumerate(all_uses if fuse else []):
        if leaf in sites_of_leaf:
            continue
        matched = {_site_before(use, sites, jaxpr_at): use for use in of_leaf}
        owners = {sites[path].use.view.leaf for path in matched if path is not None}
        if None in matched or len(owners) != 1 or len(matched) != len(of_leaf):
            continue
        (owner,) = owners
        if owner not in bias_of and len(matched) == len(sites_of_leaf[owner]):
            bias_of[owner] = leaf
            bias_uses |= {path: use for path, use in matched.items() if path}
    tapped = tuple(
        Tapped(
            leaf,
            found,
            bias_of.get(leaf),
            _total_sizes(found),
            _source(found, [bias_uses.get(site.use.path) for site in found]),
        )
        for leaf, found in sites_of_leaf.items()
    )
    known = {*sites_of_leaf, *bias_of.values()}
    seen = [s.use.view for s in sites.values()] + [u.view for u in bias_uses.values()]
    return Structure(
        flat,
        n_leaves,
        tapped,
        tuple(leaf for leaf in range(n_leaves) if leaf not in known),
        sites,
        {s.path: s.operand for view in seen for s in view.steps if s.name in FACTORS},
        bias_uses,
    )


def scan_lengths(view: View) -> tuple[list[int], list[bool]]:
    """The lengths of the scans around a view; whether each slices the leaf."""
    scans = view.scans
    return [s.eqn.params["length"] for s in scans], [is_sliced(s) for s in scans]


def _of_one_layout(sites: tuple[Site, ...]) -> bool:
    return all(
        site.layout == sites[0].layout and site.looks_up == sites[0].looks_up
        for site in sites
    )


def _source(sites: tuple[Site, ...], biases: list[Use | None]) -> Any:
    """The activations of each site, where, and by what weight and bias scale them."""
    return tuple(
        (
            site.source,
            site.use.path[:-1],
            # Scans over slices of the weight put the same activations on other axes.
            tuple(scan_lengths(site.use.view)[1]),
            None if site.use.eqn is None else aval(site.use.eqn.outvars[0]).dtype,
            _literal_factors(site.use.view),
            bias is not None,
            () if bias is None else _literal_factors(bias.view),
        )
        for site, bias in zip(sites, biases, strict=True)
    )


def _literal_factors(view: View) -> Any:
    """The factors of a view where they are known numbers; else like no other's."""
    factors = []
    for step in view.steps:
        if step.name in FACTORS:
            others: list[Any] = [
                a for i, a in enumerate(step.eqn.invars) if i != step.operand
            ]
            if not all(isinstance(a, Literal) for a in others):
                return object()
            factors.append((step.name, *(complex(a.val) for a in others)))
    return tuple(factors)


def _total_sizes(sites: tuple[Site, ...]) -> tuple[int, int, int, int]:
    n_batch, _, n_in, n_out = sites[0].sizes
    n_shared = 0
    for site in sites:
        lengths, sliced = scan_lengths(site.use.view)
        pairs = list(zip(lengths, sliced, strict=True))
        n_batch = site.sizes[0] * int(
            np.prod([n for n, cut in pairs if cut], dtype=int)
        )
        n_shared += site.sizes[1] * int(
            np.prod([n for n, cut in pairs if not cut], dtype=int)
        )
    return n_batch, n_shared, n_in, n_out


def _jaxpr_at(flat: Flat, path: Path) -> Jaxpr:
    jaxpr = flat.jaxpr
    for number in path:
        jaxpr = scan_parts(jaxpr.eqns[number]).body.jaxpr
    return jaxpr


def _site_before(use: Use, sites: dict[Path, Site], jaxpr_at: Any) -> Path | None:
    """The site whose result this use adds a bias to, one entry for each of $b, o$."""
    if use.name != "add" or not use.view.keeps_all_entries:
        return None
    jaxpr = jaxpr_at(use.path[:-1])
    made_by = {
        var: number for number, eqn in enumerate(jaxpr.eqns) for var in eqn.outvars
    }
    reads = Counter(
        atom
        for atoms in (*(eqn.invars for eqn in jaxpr.eqns), jaxpr.outvars)
        for atom in atoms
        if isinstance(atom, Var)
    )
    add = jaxpr.eqns[use.path[-1]]
    atom = add.invars[1 - use.operand]
    moves: list[JaxprEqn] = []
    while not isinstance(atom, Literal) and atom in made_by and reads[atom] == 1:
        path = (*use.path[:-1], made_by[atom])
        eqn = jaxpr.eqns[made_by[atom]]
        if path in sites:
            site = sites[path]
            same = scan_lengths(site.use.view) == scan_lengths(use.view)
            fits = same and _covers_outputs(use, site, moves[::-1], add)
            return path if fits else None
        if eqn.primitive.name not in MOVES:
            return None
        moves.append(eqn)
        atom = eqn.invars[0]
    return None


def _covers_outputs(use: Use, site: Site, moves: list[JaxprEqn], add: Any) -> bool:
    """Whether the bias has one entry for each of $b, o$, the same at all positions."""
    n_batch, _, _, n_out = site.sizes
    assert site.use.eqn is not None
    result = aval(site.use.eqn.outvars[0])
    shape = aval(add.outvars[0]).shape
    if (
        site.looks_up
        or int(np.prod(use.view.shape, dtype=int)) != n_batch * n_out
        or len(use.view.shape) != len(shape)
        or result.size > _LARGEST_RESULT
        or aval(add.invars[1 - use.operand]).shape != shape
        or aval(add.outvars[0]).dtype != result.dtype
    ):
        return False
    numbers = np.arange(result.size).reshape(result.shape)
    place = np.asarray(site.fold(numbers))
    owner = np.empty(result.size, int)
    owner[place] = np.arange(n_batch * n_out).reshape(n_batch, 1, n_out)
    owner = owner.reshape(result.shape)
    for eqn in moves:
        owner = MOVES[eqn.primitive.name](owner, eqn)
        if owner is None or owner.size != result.size:
            return False
    entry = np.arange(n_batch * n_out).reshape(use.view.shape)
    entry = np.broadcast_to(entry, shape)
    entry_of = np.full(n_batch * n_out, -1)
    entry_of[owner.ravel()] = entry.ravel()
    one_to_one = np.array_equal(np.sort(entry_of), np.arange(len(entry_of)))
    return one_to_one and np.array_equal(entry_of[owner], entry)


# Above this many entries the check would take longer than the bias is worth.
_LARGEST_RESULT = 2**22
