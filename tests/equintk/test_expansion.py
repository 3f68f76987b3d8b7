"""Expanded models: against nested derivatives, training, and all that moves modules."""

import copy
import io
import math

import equinox as eqx
import jax
import jax.extend
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax
import pytest

import equintk as nt
from equintk._taylor.reading import taylor_coefficients
from tests.helpers import assert_close, numpy_rng
from tests.zoo import LAYERS, MODELS

QUICK = [
    *list(LAYERS)[::8],
    "custom jvp with a weight inside",
    "custom vjp with weights inside",
]
SLOW = [name for name in MODELS if name not in QUICK and name != "clipped gradients"]


@pytest.fixture
def mlp(getkey):
    return eqx.nn.MLP(3, 2, 8, 2, activation=jnp.tanh, key=getkey())


def moved(expanded, by=0.3):
    """The same expansion, evaluated at other parameters."""
    rng = np.random.default_rng(0)
    move = lambda p: p + jnp.asarray(by * rng.standard_normal(p.shape), p.dtype)
    return eqx.tree_at(
        lambda e: e.params, expanded, jtu.tree_map(move, expanded.params)
    )


def at(expanded, model):
    """The model itself at the parameters of its expansion."""
    return jtu.tree_map_with_path(
        lambda path, leaf: expanded.params.get(jtu.keystr(path), leaf), model
    )


def nested(function, t, degree):
    """Derivatives of a function of one number, each the derivative of the last."""
    derivatives = [function]
    for _ in range(degree):
        last = derivatives[-1]
        derivatives.append(
            lambda t, last=last: jax.jvp(last, (t,), (jnp.ones_like(t),))[1]
        )
    return [derivative(t) for derivative in derivatives]


def n_equations(jaxpr):
    inner = (jax.extend.core.jaxprs_in_params(eqn.params) for eqn in jaxpr.eqns)
    return len(jaxpr.eqns) + sum(
        n_equations(getattr(body, "jaxpr", body)) for bodies in inner for body in bodies
    )


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_an_expansion_is_the_sum_of_nested_derivatives(name, getkey):
    case = MODELS[name]
    model = case.model(getkey())
    x = jtu.tree_map(lambda a: a[0], case.inputs(getkey(), 1))
    mask = case.mask(model)
    by_degree = [
        moved(nt.linearize(model, mask)),
        moved(nt.taylor_expand(model, 2, mask)),
    ]
    got = eqx.filter_jit(lambda models, x: [m(x) for m in models])(by_degree, x)

    start, static = eqx.partition(model, mask)
    end, _ = eqx.partition(at(by_degree[0], model), mask)
    move = jtu.tree_map(lambda p, p0: p - p0, end, start)

    def line(t):
        point = jtu.tree_map(lambda p, m: p + t.astype(p.dtype) * m, start, move)
        return eqx.combine(point, static)(x)

    try:
        terms = jax.jit(lambda t: nested(line, t, 2))(jnp.asarray(0.0))
        expected = [terms[0] + terms[1], terms[0] + terms[1] + terms[2] / 2]
    except (TypeError, NotImplementedError):  # a custom reverse rule
        jacobian = jax.jacrev(lambda p: eqx.combine(p, static)(x))(start)
        products = jtu.tree_map(
            lambda j, m: jnp.tensordot(j, m, m.ndim), jacobian, move
        )
        expected = [line(jnp.asarray(0.0)) + sum(jtu.tree_leaves(products))]
    for value, sums in zip(got, expected, strict=False):
        assert_close(value, sums, rtol=1e-11)


ACTIVATIONS = {
    name: getattr(jax.nn, name)
    for name in (
        "relu relu6 sigmoid softplus sparse_plus sparse_sigmoid soft_sign silu "
        "log_sigmoid leaky_relu hard_sigmoid hard_silu hard_tanh elu celu selu gelu "
        "glu squareplus mish softmax log_softmax logsumexp standardize tanh"
    ).split()
}


@pytest.mark.slow
def test_every_activation_has_the_derivatives_that_nesting_gives():
    rng = numpy_rng(jr.key(0))
    x, v = jnp.asarray(rng.standard_normal((2, 6)))
    every = lambda p: [activation(p) for activation in ACTIVATIONS.values()]

    @jax.jit
    def both(x, v):
        series = taylor_coefficients(every, [x], [v], 3)
        return series, nested(lambda t: every(x + t * v), jnp.asarray(0.0), 3)

    series, derivatives = both(x, v)
    for i, name in enumerate(ACTIVATIONS):
        for j, derivative in enumerate(derivatives):
            expected = derivative[i] / math.factorial(j)
            got = series[i][j]
            got = np.zeros_like(expected) if got is None else got
            assert np.max(np.abs(got - expected)) < 1e-12, name


@pytest.mark.parametrize(
    "activation, bound", [(jax.nn.relu, 100), (jnp.tanh, 250), (jax.nn.gelu, 500)]
)
def test_the_program_of_a_polynomial_grows_with_the_square_of_its_degree(
    activation, bound, getkey
):
    model = eqx.nn.MLP(3, 1, 8, 3, activation=activation, key=getkey())

    def size(degree):
        arrays, static = eqx.partition(nt.taylor_expand(model, degree), eqx.is_array)
        call = lambda a: eqx.combine(a, static)(jnp.ones(3))
        return n_equations(jax.make_jaxpr(call)(arrays).jaxpr)

    # Nested derivatives of such a network, without its activations' own equations,
    # are 678 equations at degree 4 and 13746 at degree 7.
    assert size(4) < bound
    assert size(8) < 4 * size(4)


def test_a_polynomial_in_the_parameters_is_its_own_expansion(getkey):
    class Cubic(eqx.Module):
        w: jax.Array

        def __call__(self, x):
            return jnp.dot(self.w, x) ** 3 + jnp.sum(self.w)

    model, x = Cubic(jr.normal(getkey(), (3,))), jr.normal(getkey(), (3,))
    for degree in (3, 5):
        expanded = moved(nt.taylor_expand(model, degree))
        assert_close(expanded(x), at(expanded, model)(x))
    quadratic = moved(nt.taylor_expand(model, 2))
    assert abs(quadratic(x) - at(quadratic, model)(x)) > 1e-3


@pytest.mark.slow
def test_the_error_of_an_expansion_falls_by_its_degree_plus_one(mlp):
    x = jnp.ones(3)
    for degree in (1, 2, 3):
        errors = []
        for by in (0.02, 0.01):
            expanded = moved(nt.taylor_expand(mlp, degree), by)
            errors.append(np.linalg.norm(expanded(x) - at(expanded, mlp)(x)))
        assert abs(np.log2(errors[0] / errors[1]) - (degree + 1)) < 0.3


def test_the_kernel_of_a_linearised_model_is_the_models_wherever_it_is(mlp, getkey):
    x = jr.normal(getkey(), (4, 3))
    kernel = nt.ntk_full(mlp, x)
    assert_close(nt.ntk_full(nt.linearize(mlp), x), kernel)
    assert_close(nt.ntk_full(moved(nt.linearize(mlp)), x), kernel)
    assert_close(nt.ntk_full(nt.taylor_expand(mlp, 2), x), kernel)


def test_frozen_layers_are_no_parameters_of_the_expansion(mlp, getkey):
    x = jr.normal(getkey(), (4, 3))
    mask = jtu.tree_map(eqx.is_inexact_array, mlp)
    mask = eqx.tree_at(lambda m: m.layers[0].weight, mask, False)
    linear = nt.linearize(mlp, mask)
    assert len(jtu.tree_leaves(eqx.filter(linear, eqx.is_inexact_array))) == 5
    assert_close(nt.ntk(linear, x), nt.ntk(mlp, x, trainable=mask))


def test_a_trained_linearised_model_follows_gradient_descent(mlp, getkey):
    x, y = jr.normal(getkey(), (5, 3)), jr.normal(getkey(), (5, 2))
    kernel = nt.ntk_full(mlp, x)
    rate = 0.5 * nt.metrics.max_learning_rate(kernel)
    linear = nt.linearize(mlp)
    optimizer = optax.sgd(rate)
    state = optimizer.init(eqx.filter(linear, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(linear, state):
        loss = lambda m: 0.5 * jnp.sum((jax.vmap(m)(x) - y) ** 2)
        updates, state = optimizer.update(eqx.filter_grad(loss)(linear), state)
        return eqx.apply_updates(linear, updates), state

    descent = nt.predict.GradientDescent(kernel, y, learning_rate=rate)
    f0 = jax.vmap(mlp)(x)
    for n in range(1, 51):
        linear, state = step(linear, state)
        if n in (1, 10, 50):
            assert_close(jax.vmap(linear)(x), descent.train(n, f0), rtol=1e-8)


@pytest.mark.slow
def test_an_optimizer_with_weight_decay_moves_the_tangent_copy_alone(mlp):
    linear = nt.linearize(mlp)
    arrays = eqx.filter(linear, eqx.is_inexact_array)
    optimizer = optax.adamw(0.1, weight_decay=0.1)
    gradient = eqx.filter_grad(lambda m: jnp.sum(m(jnp.ones(3)) ** 2))(linear)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = optimizer.update(gradient, optimizer.init(arrays), arrays)
    after = eqx.apply_updates(linear, updates)
    assert eqx.tree_equal(after.expansion_point, linear.expansion_point)
    changed = jtu.tree_map(lambda a, b: np.any(a != b), after.params, linear.params)
    assert all(jtu.tree_leaves(changed))


def test_an_expansion_survives_what_is_done_to_modules(mlp, getkey):
    x = jr.normal(getkey(), (3,))
    linear = moved(nt.linearize(mlp))
    expected = linear(x)
    assert_close(jtu.tree_map(lambda a: a, linear)(x), expected)
    assert_close(copy.deepcopy(linear)(x), expected)
    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, linear)
    file.seek(0)
    other = nt.linearize(eqx.nn.MLP(3, 2, 8, 2, activation=jnp.tanh, key=getkey()))
    assert_close(eqx.tree_deserialise_leaves(file, other)(x), expected)


def test_an_expansion_is_an_argument_of_compiled_functions_and_no_constant(mlp, getkey):
    traces = 0

    @eqx.filter_jit
    def call(model, x):
        nonlocal traces
        traces += 1
        return model(x)

    x = jr.normal(getkey(), (3,))
    other = eqx.nn.MLP(3, 2, 8, 2, activation=jnp.tanh, key=getkey())
    assert_close(call(nt.linearize(mlp), x), mlp(x))
    assert_close(call(nt.linearize(other), x), other(x))
    assert traces == 1


@pytest.mark.parametrize("degree", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_an_ensemble_of_expansions_is_mapped_over(degree, getkey):
    x, keys = jr.normal(getkey(), (3,)), jr.split(getkey(), 4)
    build = lambda key: eqx.nn.MLP(3, 2, 8, 1, activation=jnp.tanh, key=key)
    ensemble = eqx.filter_vmap(lambda key: nt.taylor_expand(build(key), degree))(keys)
    ensemble = moved(ensemble)
    got = eqx.filter_vmap(lambda m: m(x))(ensemble)
    for i in range(4):
        member = jtu.tree_map(lambda a, i=i: a[i] if eqx.is_array(a) else a, ensemble)
        assert_close(got[i], member(x))
    params, static = eqx.partition(ensemble, eqx.is_inexact_array)
    with pytest.raises(
        ValueError, match="ensemble must be split by `equinox.is_array`"
    ):
        jax.vmap(lambda p: eqx.combine(p, static)(x))(params)


def test_a_cast_of_the_module_is_a_cast_of_its_expansion_point(mlp):
    cast = lambda a: a.astype(jnp.float32) if eqx.is_inexact_array(a) else a
    mask = jtu.tree_map(eqx.is_inexact_array, mlp)
    mask = eqx.tree_at(lambda m: m.layers[0].weight, mask, False)
    x = jnp.ones(3, jnp.float32)
    narrow = jtu.tree_map(cast, nt.linearize(mlp, mask))(x)
    assert narrow.dtype == jnp.float32
    assert_close(narrow, jtu.tree_map(cast, mlp)(x))


def test_bits_that_were_cast_are_refused(mlp):
    cast = lambda a: a.astype(jnp.uint32) if eqx.is_array(a) else a
    linear = nt.linearize(mlp)
    broken = eqx.tree_at(
        lambda m: m.expansion_point, linear, jtu.tree_map(cast, linear.expansion_point)
    )
    with pytest.raises(ValueError, match="has been cast to uint32.*is_inexact_array"):
        broken(jnp.ones(3))


def test_an_expansion_of_an_expansion_is_one(mlp):
    x = jnp.ones(3)
    inner = nt.linearize(mlp)
    twice = moved(nt.taylor_expand(inner, 2))
    assert_close(twice(x), at(twice, inner)(x))


class Several(eqx.Module):
    """Arguments by name, and outputs of several kinds."""

    linear: eqx.nn.Linear
    dropout: eqx.nn.Dropout
    phases: jax.Array

    def __call__(self, x, scale, *, key):
        h = self.dropout(self.linear(x), key=key) * scale
        angles = jnp.real(self.phases * jnp.asarray(1j))
        return {"h": h + angles, "best": jnp.argmax(h), "name": "several", "n": None}


@pytest.mark.parametrize("degree", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_arguments_and_outputs_of_any_kind_pass_through(degree, getkey):
    model = Several(
        eqx.nn.Linear(3, 2, key=getkey()), eqx.nn.Dropout(0.5), jnp.asarray([1j, 2.0])
    )
    x, key = jnp.ones(3), getkey()
    trainable = lambda leaf: eqx.is_inexact_array(leaf) and not jnp.iscomplexobj(leaf)
    expanded = nt.taylor_expand(model, degree, trainable)
    got, expected = (m(x, 2.0, key=key) for m in (expanded, model))
    assert eqx.tree_equal(got, expected, rtol=1e-12)
    still = eqx.nn.inference_mode(expanded)(x, 2.0, key=key)
    assert_close(still["h"], eqx.nn.inference_mode(model)(x, 2.0, key=key)["h"])


def test_state_passes_through(getkey):
    class Normed(eqx.Module):
        linear: eqx.nn.Linear
        norm: eqx.nn.BatchNorm

        def __init__(self, key):
            self.linear = eqx.nn.Linear(3, 2, key=key)
            self.norm = eqx.nn.BatchNorm(2, axis_name="batch", mode="batch")

        def __call__(self, x, state):
            return self.norm(self.linear(x), state)

    model, state = eqx.nn.make_with_state(Normed)(getkey())
    model = eqx.nn.inference_mode(model)
    state = jtu.tree_map(lambda a: jnp.ones_like(a) if eqx.is_array(a) else a, state)
    expected, _ = model(jnp.ones(3), state)
    got, _ = nt.taylor_expand(model, 2)(jnp.ones(3), state)
    assert_close(got, expected)


def test_a_reverse_rule_that_is_not_linear_is_refused_with_the_reason(getkey):
    case = MODELS["clipped gradients"]
    model = case.model(getkey())
    with pytest.raises(NotImplementedError) as caught:
        nt.linearize(model)(case.inputs(getkey(), 1)[0])
    assert "must be linear in the cotangent" in "".join(caught.value.__notes__)


def test_a_degree_below_one_is_refused(mlp):
    with pytest.raises(ValueError, match="`degree` must be a positive integer"):
        nt.taylor_expand(mlp, 0)
