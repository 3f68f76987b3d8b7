"""The empirical NTK family against float64 Jacobians, closed forms and itself."""

import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import equintk as nt
from equintk._empirical import contraction
from tests.helpers import (
    ZOO,
    assert_close,
    average_of,
    brute_force_full,
    one_in,
    reference,
    relative_error,
)

pytestmark = pytest.mark.conformance

FAMILY = {
    "ntk": (nt.ntk, average_of),
    "ntk_full": (nt.ntk_full, lambda full: full),
    "ntk_per_output": (nt.ntk_per_output, lambda full: _diagonal(full)),
}


def _diagonal(full):
    n1, n2, *outs = full.shape
    out = tuple(outs[: len(outs) // 2])
    size = int(np.prod(out, dtype=int))
    diagonal = np.einsum("ijaa->ija", full.reshape(n1, n2, size, size))
    return diagonal.reshape(n1, n2, *out)


@pytest.fixture(params=list(FAMILY.values()), ids=list(FAMILY))
def member(request):
    return request.param


# `test_zoo.py` has two hundred more.
@pytest.mark.parametrize("name", one_in(3, ZOO))
def test_kernels_equal_a_float64_jacobian_contraction_to_1e12(name):
    model, mask, x1, x2, k11, k12 = reference(name)
    for kernel, part in FAMILY.values():
        for other, expected in ((x2, k12), (None, k11)):
            got = kernel(model, x1, other, batch_size=2, trainable=mask)
            assert relative_error(got, part(expected)) < 1e-12


@pytest.mark.parametrize("name", one_in(3, ZOO))
def test_float32_kernels_are_right_to_1e5_and_stay_float32(name, getkey):
    case = ZOO[name]
    model = case.model(getkey(), jnp.float32)
    x = case.inputs(getkey(), 4, jnp.float32)
    mask = case.mask(model)
    got = nt.ntk_full(model, x, trainable=mask)
    assert got.dtype == jnp.float32
    assert relative_error(got, brute_force_full(model, x, None, mask)) < 1e-5


def test_half_precision_is_summed_in_float32(getkey):
    model = ZOO["mlp"].model(getkey(), jnp.bfloat16)
    x = ZOO["mlp"].inputs(getkey(), 4, jnp.bfloat16)
    got = nt.ntk(model, x)
    assert got.dtype == jnp.bfloat16
    expected = average_of(brute_force_full(model, x))
    assert relative_error(got.astype(float), expected) < 8 * float(
        jnp.finfo(got.dtype).eps
    )


def test_any_batch_size_gives_the_same_kernel(member):
    kernel, part = member
    model, mask, x1, x2, k11, k12 = reference("mlp")
    for other, expected in ((x2, k12), (None, k11)):
        for batch_size in (1, 3, 4, 5, 100):
            assert_close(
                kernel(model, x1, other, batch_size=batch_size), part(expected)
            )


@pytest.mark.parametrize("name", ["scalar output", "mlp", "matrix output, raw arrays"])
def test_swapping_the_inputs_transposes_the_kernel(name):
    model, mask, x1, x2, *_ = reference(name)
    k12, k21 = nt.ntk_full(model, x1, x2), nt.ntk_full(model, x2, x1)
    out = (k12.ndim - 2) // 2
    axes = (1, 0, *range(2 + out, 2 + 2 * out), *range(2, 2 + out))
    assert_close(k12, k21.transpose(axes))


@pytest.mark.parametrize("name", ZOO)
def test_kernels_are_symmetric_and_positive_semi_definite(name):
    model, mask, x1, *_ = reference(name)
    kernel = nt.ntk(model, x1, batch_size=2, trainable=mask)
    assert_close(kernel, kernel.T)
    eigenvalues = np.linalg.eigvalsh(kernel)
    assert eigenvalues[0] > -1e-12 * eigenvalues[-1]


def test_linear_map_has_the_gram_matrix_as_its_ntk(getkey):
    # f(x) = W x: each output's gradient is x itself, and outputs do not couple.
    model = eqx.nn.Linear(3, 2, use_bias=False, key=getkey())
    x = jr.normal(getkey(), (4, 3))
    assert_close(nt.ntk_full(model, x), jnp.einsum("ij,ab->ijab", x @ x.T, jnp.eye(2)))
    assert_close(nt.ntk(model, x), x @ x.T)


def test_only_the_upper_triangle_is_computed_for_one_batch(getkey):
    model = eqx.nn.MLP(3, 1, 4, 1, key=getkey())
    x = jr.normal(getkey(), (8, 3))
    seen = []
    progress = lambda done, total: seen.append((done, total))
    nt.ntk(model, x, x, batch_size=2, progress=progress)
    side = int(np.sqrt(seen[-1][1]))
    assert side > 1 and seen[-1] == (side**2, side**2)
    seen.clear()
    nt.ntk(model, x, batch_size=2, progress=progress)
    total = side * (side + 1) // 2
    assert seen == [(i, total) for i in range(1, total + 1)]


def test_what_is_below_the_diagonal_of_a_large_block_is_its_flip(
    member, getkey, monkeypatch
):
    monkeypatch.setattr(contraction, "_MANY", 0)
    monkeypatch.setattr(contraction, "_ROWS", 1)
    model, x = eqx.nn.MLP(3, 2, 40, 2, key=getkey()), jr.normal(getkey(), (7, 3))
    compute, part = member
    got = compute(model, x)
    assert relative_error(got, part(brute_force_full(model, x))) < 1e-12
    flipped = got.transpose(1, 0, 3, 2) if got.ndim == 4 else got.swapaxes(0, 1)
    np.testing.assert_array_equal(got, flipped)


def test_a_block_cut_for_its_triangle_has_the_same_derivatives_when_compiled(
    getkey, monkeypatch
):
    model, x = eqx.nn.MLP(3, 2, 8, 1, key=getkey()), jr.normal(getkey(), (7, 3))
    weights = jr.normal(getkey(), (7, 7, 2, 2))
    summed = lambda x: jnp.sum(weights * nt.ntk_full(model, x))
    whole = jax.jit(jax.value_and_grad(summed))(x)
    monkeypatch.setattr(contraction, "_MANY", 0)
    monkeypatch.setattr(contraction, "_ROWS", 1)
    seen = []
    cut = jax.value_and_grad(
        lambda x: jnp.sum(
            weights * nt.ntk_full(model, x, progress=lambda *tiles: seen.append(tiles))
        )
    )
    for got, expected in zip(jax.jit(cut)(x), whole, strict=True):
        assert relative_error(got, expected) < 1e-12
    assert seen[-1] == (10, 10)  # four tiles a side, the last over the one before


def test_progress_writes_plain_lines_on_stderr(getkey, capsys):
    model = eqx.nn.Linear(3, 1, key=getkey())
    nt.ntk(model, jr.normal(getkey(), (4, 3)), progress=True)
    out, err = capsys.readouterr()
    assert out == "" and "ntk: 1 of 1 blocks" in err


@pytest.mark.parametrize(
    "name",
    one_in(3, ["ntk_per_output", "ntk", "ntk_full"]),
)
def test_kernels_work_under_jit_vmap_and_grad(name, getkey):
    kernel = getattr(nt, name)
    build = lambda key: eqx.nn.MLP(3, 2, 4, 1, activation=jnp.tanh, key=key)
    x = jr.normal(getkey(), (3, 3))
    model = build(getkey())
    expected = kernel(model, x, batch_size=2)
    assert_close(eqx.filter_jit(kernel)(model, x, batch_size=2), expected)

    models = eqx.filter_vmap(build)(jr.split(getkey(), 3))
    batched = eqx.filter_vmap(lambda m: kernel(m, x, batch_size=2))(models)
    second = jax.tree_util.tree_map(lambda a: a[1] if eqx.is_array(a) else a, models)
    assert_close(batched[1], kernel(second, x))

    def total(x):
        return jnp.sum(kernel(model, x, batch_size=2))

    step = 1e-6 * jnp.ones_like(x)
    difference = (total(x + step) - total(x - step)) / 2e-6
    assert_close(jnp.sum(jax.grad(total)(x)), difference, rtol=1e-6)


def test_pytrees_of_inputs_are_batched_leaf_by_leaf(getkey):
    class TwoInputs(eqx.Module):
        linear: eqx.nn.Linear

        def __call__(self, x):
            return self.linear(x["a"]) * x["b"]

    model = TwoInputs(eqx.nn.Linear(3, 1, key=getkey()))
    a, b = jr.normal(getkey(), (5, 3)), jr.normal(getkey(), (5, 1))
    phi = jnp.concatenate([a * b, b], axis=1)
    assert_close(nt.ntk(model, {"a": a, "b": b}, batch_size=2), phi @ phi.T)


@pytest.mark.parametrize("batch_size", [2, None])
def test_a_random_key_may_be_a_part_of_each_example(getkey, batch_size):
    class Dropped(eqx.Module):
        linear: eqx.nn.Linear

        def __call__(self, pair):
            x, key = pair
            return self.linear(eqx.nn.Dropout(0.5)(x, key=key))

    model = Dropped(eqx.nn.Linear(5, 2, key=getkey()))
    x, keys = jr.normal(getkey(), (3, 5)), jr.split(getkey(), 3)
    seen = jax.vmap(lambda x, key: eqx.nn.Dropout(0.5)(x, key=key))(x, keys)
    expected = seen @ seen.T + 1
    for of_keys in (keys, jr.key_data(keys)):
        made = eqx.Partial(lambda m, p: m((p[0], jr.wrap_key_data(p[1]))), model)
        chosen = model if of_keys is keys else made
        options = {} if batch_size is None else {"batch_size": batch_size}
        assert_close(nt.ntk(chosen, (x, of_keys), **options), expected)
        assert_close(nt.ntk_diag(chosen, (x, of_keys)), jnp.diagonal(expected))


def test_numpy_inputs_and_leaves_are_accepted(getkey):
    class NumpyLeaf(eqx.Module):
        w: np.ndarray

        def __call__(self, x):
            return self.w @ x

    x = np.asarray(jr.normal(getkey(), (4, 3)))
    assert_close(nt.ntk(NumpyLeaf(np.ones(3)), x), x @ x.T)


def test_running_statistics_are_no_parameters(getkey):
    class Batchnormed(eqx.Module):
        norm: eqx.nn.BatchNorm
        state: eqx.nn.State

        def __call__(self, x):
            return self.norm(x, self.state)[0]

    norm, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(
        3, axis_name="batch", mode="ema"
    )
    model = Batchnormed(eqx.nn.inference_mode(norm), state)
    x = jr.normal(getkey(), (4, 3))
    # Outputs are gain * normalised x + bias, and start with gain one and bias zero.
    normalised = jax.vmap(model)(x)
    assert_close(nt.ntk(model, x), normalised @ normalised.T / 3 + 1)


class NormInTraining(eqx.Module):
    def __init__(self):
        self.w = jnp.ones(3)

    w: jax.Array

    def __call__(self, x):
        return self.w * (x - jax.lax.pmean(x, "batch"))


X = np.ones((2, 3))
HALF: Any = 2.5


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda m: nt.ntk(m, np.ones((2, 4))), "without a batch axis, of shape"),
        (
            lambda m: nt.ntk(m, X, np.ones((2, 4))),
            r"examples of one shape.*pass\s`x\[None\]`",
        ),
        (lambda m: nt.ntk(m, np.ones(())), r"For a single example pass `x\[None\]`"),
        (lambda m: nt.ntk(m, X[:0]), "`x1` is empty"),
        (lambda m: nt.ntk(m, X * np.nan), "`x1`.*non-finite"),
        (lambda m: nt.ntk(m, X, X * np.inf), "`x2`.*non-finite"),
        (lambda m: nt.ntk(m, X.tolist()), r"Type `jnp.asarray\(x1\)`"),
        (lambda m: nt.ntk(m, X, batch_size=0), "`batch_size` must be"),
        (lambda m: nt.ntk(m, X, batch_size=HALF), "`batch_size` must be"),
        (lambda m: nt.ntk(lambda x: m(x), X), "no parameters.*Module` itself"),
        (lambda m: nt.ntk(m, X, trainable=False), "no parameters"),
        (lambda m: nt.ntk(m, X, trainable=True), "`trainable` selects the leaf"),
        (lambda m: nt.ntk(NormInTraining(), X), "couples the examples.*inference_mode"),
    ],
)
def test_bad_input_is_refused_with_what_to_type(call, text, getkey):
    model = eqx.nn.MLP(3, 2, 4, 1, key=getkey())
    with pytest.raises(Exception) as error:
        call(model)
    notes = " ".join(getattr(error.value, "__notes__", []))
    assert re.search(text, f"{error.value} {notes}", re.DOTALL)


def test_models_without_floating_point_outputs_are_refused(getkey):
    class Whole(eqx.Module):
        w: jax.Array

        def __call__(self, x):
            return jnp.round(self.w * x).astype(int)

    class Nothing(eqx.Module):
        w: jax.Array

        def __call__(self, x):
            return None

    with pytest.raises(ValueError, match="floating-point arrays.*int"):
        nt.ntk(Whole(jnp.ones(3)), X)
    with pytest.raises(ValueError, match="must return arrays"):
        nt.ntk(Nothing(jnp.ones(3)), X)


def test_functions_of_one_output_array_refuse_several(getkey):
    class Two(eqx.Module):
        w: jax.Array

        def __call__(self, x):
            return self.w * x, self.w

    with pytest.raises(ValueError, match="must return one array"):
        nt.mc_ntk(Two(jnp.ones(3)), getkey(), X)


def test_a_derivative_that_is_not_finite_is_an_error_and_no_silent_nan():
    class Root(eqx.Module):
        w: jax.Array

        def __call__(self, x):
            return jnp.sqrt(jnp.sum((self.w * x) ** 2))

    with pytest.raises(ValueError, match="NaN or infinite, the first at \\(1, 0\\)"):
        nt.ntk(Root(jnp.ones(3)), jnp.eye(3).at[1].set(0.0)[:2], jnp.eye(3)[:1])


@pytest.mark.parametrize("kernel", [nt.ntk, nt.ntk_full])
def test_what_is_not_finite_is_an_error_under_jit_too(kernel, getkey):
    model = eqx.nn.MLP(3, 1, 4, 1, key=getkey())
    compiled = eqx.filter_jit(kernel)
    assert np.all(np.isfinite(compiled(model, jnp.asarray(X))))
    with pytest.raises(Exception, match="`x1` holds NaN or infinity"):
        compiled(model, X * jnp.nan)
    broken = eqx.tree_at(lambda m: m.layers[0].bias, model, jnp.full(4, jnp.nan))
    with pytest.raises(Exception, match="entries that are NaN or infinite"):
        jax.block_until_ready(compiled(broken, jnp.asarray(X)))


def test_numbers_beyond_the_precision_computed_with_are_refused(getkey):
    with jax.enable_x64(False):
        model = ZOO["mlp"].model(getkey(), jnp.float32)
        with pytest.raises(ValueError, match="`x1` must be finite"):
            nt.ntk(model, np.full((2, 3), 3e39))


def test_a_model_that_cannot_be_called_is_refused():
    class NotCallable(eqx.Module):
        w: jax.Array

    model: Any = NotCallable(jnp.ones(3))
    with pytest.raises(ValueError, match="`model` must be a module that is called"):
        nt.ntk(model, X)


def test_a_shared_and_a_stacked_weight_may_see_the_same_activations_in_a_scan(getkey):
    # Their activations lie on different axes, so they have no Gram matrix in common.
    class Model(eqx.Module):
        shared: jax.Array
        stack: jax.Array

        def __call__(self, x):
            step = lambda h, w: (jnp.tanh(w @ h + self.shared @ h), None)
            return jax.lax.scan(step, x, self.stack)[0]

    model = Model(jr.normal(getkey(), (3, 3)), jr.normal(getkey(), (4, 3, 3)))
    x = jr.normal(getkey(), (3, 3))
    assert_close(nt.ntk_full(model, x), brute_force_full(model, x))
