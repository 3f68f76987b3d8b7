"""Solves by conjugate gradients, preconditioned by a Krylov space."""

import numpy as np
import pytest

from equintk._matrix_free.conjugate_gradients import nystrom_of, solve
from equintk._matrix_free.host import of_array
from equintk._matrix_free.krylov import krylov_space

N, SHIFT = 300, 1e-5
RNG = np.random.default_rng(0)
VECTORS = np.linalg.qr(RNG.normal(size=(N, N)))[0]
# Eigenvalues from 1 down to 1e-7 by a power law, as those of a tangent kernel.
KERNEL = (VECTORS * np.arange(1, N + 1) ** -2.8) @ VECTORS.T
COLUMNS = RNG.normal(size=(N, 2))


def space_of(rank):
    return krylov_space(
        of_array(KERNEL), COLUMNS, most=rank, shortfall=lambda _: 2.0,
        report=lambda *_: None,
    )  # fmt: skip


def solved(products, columns=COLUMNS, precondition=np.copy, goal=1e-9, most=5000):
    start, reports = np.zeros_like(columns), []
    found = solve(
        products, SHIFT, columns, start, precondition=precondition,
        goal=lambda _: goal, most=most, report=lambda *counts: reports.append(counts),
    )  # fmt: skip
    assert reports[-1] == (found.products, found.products)
    assert all(done <= total for done, total in reports)
    return found


def test_the_preconditioner_is_the_inverse_of_the_nystrom_approximation():
    space = space_of(60)
    basis = space.vectors.T
    image = KERNEL @ basis
    nystrom = image @ np.linalg.solve(basis.T @ image, image.T)
    values = np.linalg.eigvalsh(nystrom)[::-1]
    # The smallest of the approximation is what stands for all that it misses.
    least = values[len(space.values) - 1] + SHIFT
    found = nystrom_of(space, SHIFT, float(np.finfo(float).eps))(np.eye(N))
    top = np.linalg.eigh(nystrom)[1][:, -len(space.values) :]
    expected = (
        least
        * top
        @ np.linalg.solve(top.T @ nystrom @ top + SHIFT * np.eye(top.shape[1]), top.T)
    )
    expected += np.eye(N) - top @ top.T
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_solve_is_that_of_linear_algebra_and_preconditioned_it_is_short():
    right = np.linalg.solve(KERNEL + SHIFT * np.eye(N), COLUMNS)
    plain = solved(of_array(KERNEL))
    nystrom = nystrom_of(space_of(100), SHIFT, float(np.finfo(float).eps))
    quick = solved(of_array(KERNEL), precondition=nystrom)
    for found in (plain, quick):
        assert np.linalg.norm(found.value - right) < 1e-7 * np.linalg.norm(right)
        left = COLUMNS - KERNEL @ found.value - SHIFT * found.value
        assert np.linalg.norm(left) == pytest.approx(found.residual, abs=1e-11)
        assert found.residual <= 1e-9
        np.testing.assert_allclose(found.image, KERNEL @ found.value, atol=1e-10)
    assert quick.products < plain.products / 8


def test_columns_of_zeros_stay_zeros_and_the_others_are_not_disturbed():
    padded = np.concatenate([np.zeros((N, 1)), COLUMNS], axis=1)
    found = solved(of_array(KERNEL), padded)
    assert (found.value[:, 0] == 0).all()
    right = np.linalg.solve(KERNEL + SHIFT * np.eye(N), COLUMNS)
    assert np.linalg.norm(found.value[:, 1:] - right) < 1e-7 * np.linalg.norm(right)


def test_products_that_are_rounded_end_it_and_the_true_residual_is_returned():
    single = KERNEL.astype(np.float32)
    product = lambda b: (single @ b.astype(np.float32)).astype(float)
    rounded = of_array(single)._replace(product=product)
    found = solved(rounded)
    assert found.products < 5000
    rounding = float(np.finfo(np.float32).eps) * np.linalg.norm(found.value)
    assert 1e-9 < found.residual < rounding
    left = COLUMNS - product(found.value) - SHIFT * found.value
    assert np.linalg.norm(left) == pytest.approx(found.residual)


def test_it_ends_after_as_many_products_as_allowed():
    found = solved(of_array(KERNEL), most=20)
    assert found.products == 20
    left = COLUMNS - KERNEL @ found.value - SHIFT * found.value
    assert np.linalg.norm(left) == pytest.approx(found.residual)
