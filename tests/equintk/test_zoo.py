"""Every way in which a model can use a parameter, against float64 Jacobians.

Five examples in blocks of two, the last one ragged, with themselves and with three
others. Nearly all the time goes into compiling, so by default every second model is
asked for one kernel, in turns; `pytest -m "" tests/equintk/test_zoo.py` asks every one
for all of it.
"""

import functools
import itertools

import equinox as eqx
import jax
import pytest

import equintk as nt
from tests.helpers import average_of, diagonal_of, reference_of, relative_error
from tests.zoo import MODELS

pytestmark = pytest.mark.conformance

KERNELS = {
    "ntk": (nt.ntk, average_of),
    "ntk_full": (nt.ntk_full, lambda full: full),
    "ntk_per_output": (nt.ntk_per_output, diagonal_of),
}
_DONE = itertools.count(1)


def _usually(run):
    return () if run else pytest.mark.slow


@functools.cache
def _reference(name):
    reference = reference_of(MODELS[name], name)
    # A kernel of zeros would be equal to another one of zeros.
    assert average_of(reference[4]).trace() > 1e-3
    return reference


@pytest.fixture(autouse=True)
def forget_now_and_then_what_was_compiled():
    """Hundreds of models with their compiled programs would take gigabytes."""
    yield
    if next(_DONE) % 75 == 0:
        jax.clear_caches()


def _combinations():
    """Every model with every kernel on one batch and on two; usually few of them."""
    for i, name in enumerate(MODELS):
        ways = itertools.product(("one batch", "two batches"), KERNELS)
        for j, (batches, kernel) in enumerate(ways):
            yield pytest.param(
                name, kernel, batches == "one batch",
                marks=_usually(i % 12 == 2 * j), id=f"{kernel} of {batches}: {name}",
            )  # fmt: skip


@pytest.mark.parametrize(("name", "kernel", "symmetric"), list(_combinations()))
def test_kernels_equal_a_float64_jacobian_contraction_to_1e12(name, kernel, symmetric):
    model, mask, x1, x2, k11, k12 = _reference(name)
    compute, part = KERNELS[kernel]
    other, full = (None, k11) if symmetric else (x2, k12)
    got = compute(model, x1, other, batch_size=2, trainable=mask)
    assert relative_error(got, part(full)) < 1e-12


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=_usually(i % 20 == 0), id=name)
        for i, name in enumerate(MODELS)
    ],
)
def test_kernels_are_the_same_when_the_caller_compiles(name):
    model, mask, x1, _, k11, _ = _reference(name)

    @eqx.filter_jit
    def compiled(model, x):
        return nt.ntk_full(model, x, batch_size=5, trainable=mask)

    assert relative_error(compiled(model, x1), k11) < 1e-12
