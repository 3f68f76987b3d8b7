"""A model run with a tap at each site: an added zero by whose derivative one sees δ."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn
from jaxtyping import Array

from .._trace.flatten import Environment, Flat, aval, evaluate, scan_parts
from .._trace.uses import FACTORS, Path, View
from .pooling import pooled
from .structure import Structure, scan_lengths

Taps = dict[Path, Array]


class Seen(NamedTuple):
    """What one site sees, `*` being the lengths of the scans around it.

    Attributes:
        activations: `(*, b, s, i)`, scaled as the weight is; where rows are looked up,
            their numbers `(*, b, s)`.
        scale: of rows that are looked up, zero where there is no such row, `(*, b, s)`.
        offsets: the scale of the site's bias, `(*, b, s)`; `None` without one.
    """

    activations: Array
    scale: Array | None
    offsets: Array | None


Activations = dict[Path, Seen]


def zero_taps(structure: Structure) -> Taps:
    """A zero for each site's result, with the lengths of the scans around it first."""
    taps = {}
    for path, site in structure.sites.items():
        assert site.use.eqn is not None
        result = aval(site.use.eqn.outvars[0])
        lengths, _ = scan_lengths(site.use.view)
        taps[path] = jnp.zeros((*lengths, *result.shape), result.dtype)
    return taps


def run(
    structure: Structure, args: Sequence[Any], taps: Taps
) -> tuple[list[Any], Activations]:
    """The results of the model's jaxpr, and the activations at each site."""
    runner = _Runner(structure)
    return runner.run(structure.flat, (), args, taps)


class _Runner:
    def __init__(self, structure: Structure):
        self._structure = structure
        self._factors: dict[Path, Any] = {}

    def run(
        self, flat: Flat, path: Path, args: Sequence[Any], taps: Taps
    ) -> tuple[list[Any], Activations]:
        structure = self._structure
        environment = Environment(flat, args)
        seen: Activations = {}
        for number, eqn in enumerate(flat.jaxpr.eqns):
            here = (*path, number)
            values = environment.read(eqn.invars)
            if here in structure.factors:
                self._factors[here] = _factor(eqn, structure.factors[here], values)
            if here in structure.sites:
                site = structure.sites[here]
                seen[here] = self._activations(here, values)
                results = [site.result(values) + taps[here]]
            elif any(there[: len(here)] == here for there in structure.sites):
                results, inside = self._scan(eqn, here, values, taps)
                seen |= inside
            else:
                results = pooled(eqn, values) or evaluate(eqn, values)
            environment.write(eqn.outvars, results)
        for there, found in seen.items():
            # Only now: a bias may be scaled after the site whose result it is added to.
            if there in structure.bias_uses and there[:-1] == path:
                seen[there] = found._replace(offsets=self._offsets(there, found))
        return environment.read(flat.jaxpr.outvars), seen

    def _scan(
        self, eqn: JaxprEqn, here: Path, values: Sequence[Any], taps: Taps
    ) -> tuple[list[Any], Activations]:
        body, n_consts, n_carry = scan_parts(eqn)
        consts, rest = values[:n_consts], values[n_consts:]
        carry, xs = rest[:n_carry], rest[n_carry:]
        mine = {p: tap for p, tap in taps.items() if p[: len(here)] == here}

        def step(carry: Any, x: Any) -> Any:
            xs, taps = x
            results, seen = self.run(body, here, [*consts, *carry, *xs], taps)
            return results[:n_carry], (results[n_carry:], seen)

        carry, (stacked, seen) = lax.scan(
            step, list(carry), (list(xs), mine), length=eqn.params["length"],
            reverse=eqn.params["reverse"], unroll=eqn.params["unroll"],
        )  # fmt: skip
        return [*carry, *stacked], seen

    def _activations(self, here: Path, values: Sequence[Any]) -> Seen:
        site = self._structure.sites[here]
        seen = site.activations(values)
        scale = self._scale(site.use.view)
        if site.looks_up:
            assert site.use.eqn is not None
            exists = (seen >= 0).astype(aval(site.use.eqn.outvars[0]).dtype)
            if scale is not None:
                exists = exists * scale.astype(exists.dtype)
            return Seen(seen, exists, None)
        seen = seen if scale is None else seen * scale.astype(seen.dtype)
        return Seen(seen, None, None)

    def _offsets(self, here: Path, seen: Seen) -> Array:
        scale = self._scale(self._structure.bias_uses[here].view)
        ones = jnp.ones(seen.activations.shape[:-1], seen.activations.dtype)
        return ones if scale is None else ones * scale.astype(ones.dtype)

    def _scale(self, view: View) -> Any:
        """The number that a view is multiplied by; `None` for one."""
        scale = None
        for step in view.steps:
            if step.name in FACTORS:
                factor = self._factors[step.path]
                scale = factor if scale is None else scale * factor.astype(scale.dtype)
        return scale


def _factor(eqn: JaxprEqn, operand: int, values: Sequence[Any]) -> Any:
    if eqn.primitive.name == "neg":
        return -jnp.ones((), aval(eqn.outvars[0]).dtype)
    other = jnp.asarray(values[1 - operand]).reshape(())
    return 1 / other if eqn.primitive.name == "div" else other
