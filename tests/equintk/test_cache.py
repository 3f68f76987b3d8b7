"""What is kept between calls: nothing is done twice, and no answer is stale."""

import functools
import gc
import weakref
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import equintk as nt
from equintk import _cache
from tests.helpers import assert_close, average_of, brute_force_full


class Model(eqx.Module):
    """Everything that a module may hold."""

    weight: jax.Array
    constant: jax.Array
    function: Any
    number: Any
    fixed: Any = eqx.field(static=True)

    def __call__(self, x):
        if self.fixed is True:
            x = x + 1
        if isinstance(self.number, float):
            x = 2 * x
        return self.function(self.weight @ (x + self.constant)) * self.number


def model(
    function=jnp.tanh,
    number: Any = 2,
    fixed: Any = 0,
    seed=0,
    shape=(2, 3),
    dtype=None,
    constant=0.0,
):
    weight = jr.normal(jr.key(seed), shape, dtype)
    return Model(weight, jnp.asarray(constant, weight.dtype), function, number, fixed)


@pytest.fixture
def x():
    return jr.normal(jr.key(1), (4, 3))


def expected(net, x, trainable=None):
    if trainable is None:
        trainable = eqx.is_inexact_array
    return average_of(brute_force_full(net, x, trainable=trainable))


def traced_calls(function, monkeypatch):
    """How often the models' code is run by a function, to trace it."""
    calls = []
    call = Model.__call__
    monkeypatch.setattr(
        Model, "__call__", lambda self, x: (calls.append(0), call(self, x))[1]
    )
    function()
    monkeypatch.undo()
    return len(calls)


def test_a_model_of_the_same_structure_is_not_traced_again(x, monkeypatch):
    new = functools.partial(model, number=11)  # no other test has this structure
    assert traced_calls(lambda: nt.ntk(new(), x), monkeypatch) == 1
    again = lambda: nt.ntk(new(seed=5, constant=3.0), x + 1)
    assert traced_calls(again, monkeypatch) == 0
    assert_close(again(), expected(new(seed=5, constant=3.0), x + 1))


def test_nothing_is_compiled_again(x):
    first = lambda seed: (
        nt.ntk(model(seed=seed), x, batch_size=2),
        nt.ntk_diag(model(seed=seed), x),
        nt.ntk_full(model(seed=seed), x, x[:3]),
    )
    first(0)
    compiled = []
    listen = lambda event, *_, **__: compiled.append(event)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        first(1)
    finally:
        jax.monitoring.clear_event_listeners()
    assert not [event for event in compiled if "compile" in event]


def scaled_by(scale):
    return lambda y: jnp.tanh(scale * y)


def test_models_that_differ_in_what_is_no_array_have_kernels_of_their_own(x):
    models = [
        model(),
        model(jnp.sin),
        model(scaled_by(2.0)),
        model(scaled_by(3.0)),
        model(number=1),
        model(number=1.0),  # equal to 1, and not the same to this model
        model(fixed=1),  # equal to True
        model(fixed=True),
        model(number=0.5, fixed=True),
    ]
    for _ in range(2):
        for net in models:
            assert_close(nt.ntk(net, x), expected(net, x))


def test_what_is_asked_for_has_an_answer_of_its_own(x):
    net = model()
    only = lambda name: jax.tree_util.tree_map_with_path(
        lambda path, _: path[0].name == name, net
    )
    masks = [None, only("weight"), only("constant"), eqx.is_inexact_array]
    for _ in range(2):
        for mask in masks:
            assert_close(nt.ntk(net, x, trainable=mask), expected(net, x, mask))
        full = brute_force_full(net, x)
        assert_close(nt.ntk_full(net, x), full)
        assert_close(nt.ntk_full(net, x, average=[0]), average_of(full))
        assert_close(nt.ntk_full(net, x, diagonal=[0]), nt.ntk_per_output(net, x))
        assert_close(
            nt.empirical_nngp_full(net, x)[0, 1], np.outer(net(x[0]), net(x[1]))
        )
        parts = nt.ntk_by_parameter(net, x)
        assert_close(parts.weight + parts.constant, average_of(full))


def test_precisions_have_answers_of_their_own():
    for dtype in (jnp.float64, jnp.float32, jnp.float64):
        net, x = model(dtype=dtype), jr.normal(jr.key(1), (4, 3), dtype)
        got = nt.ntk(net, x)
        assert got.dtype == dtype
        assert_close(got, expected(net, x))


def test_configurations_of_jax_have_answers_of_their_own(x):
    # the same NumPy arrays, whose precision the configuration decides
    net = eqx.tree_at(lambda m: m.weight, model(), np.ones((2, 3)))
    net = eqx.tree_at(lambda m: m.constant, net, np.zeros(()))
    x = np.asarray(x)
    for _ in range(2):
        assert nt.ntk(net, x).dtype == jnp.float64
        with jax.enable_x64(False):
            assert nt.ntk(net, x).dtype == jnp.float32
    mixed = model(dtype=jnp.float32)
    with jax.numpy_dtype_promotion("standard"):
        kernel = nt.ntk(mixed, x)
    with pytest.raises(Exception, match="implicit dtype promotion"):
        nt.ntk(mixed, x)
    assert kernel.dtype == jnp.float32


def test_another_kind_of_random_keys_is_another_model(x):
    class Drawn(eqx.Module):
        weight: jax.Array

        def __call__(self, x):
            return jr.normal(jr.key(0), (2, 3)) @ (self.weight * x)

    net = Drawn(jnp.ones(3))
    kernels = {}
    for _ in range(2):
        for kind in ("threefry2x32", "rbg"):
            with jax.default_prng_impl(kind):
                kernels[kind] = nt.ntk(net, x)
                assert_close(kernels[kind], expected(net, x))
    assert not np.allclose(kernels["rbg"], kernels["threefry2x32"])


def test_examples_of_another_shape_or_dtype_are_read_anew(x):
    class Sum(eqx.Module):
        weight: jax.Array

        def __call__(self, x):
            return self.weight * jnp.sum(x.astype(float) ** 2)

    net = Sum(jnp.asarray(2.0))
    for batch in (x, x[:, :2], x.astype(jnp.float32), x > 0, x[..., None]):
        squares = jnp.sum(batch.reshape(4, -1).astype(float) ** 2, axis=1)
        assert_close(nt.ntk(net, batch), jnp.outer(squares, squares), 1e-6)


def test_transformations_of_the_caller_share_what_was_read_and_leak_nothing(x):
    net, other = model(), model(seed=3)
    total = lambda net: jnp.sum(nt.ntk(net, x) ** 2)
    for _ in range(2):
        plain = nt.ntk(net, x)
        assert_close(eqx.filter_jit(nt.ntk)(net, x), plain)
        gradient = eqx.filter_grad(total)(net).weight
        along = lambda h: total(eqx.tree_at(lambda m: m.weight, net, net.weight + h))
        slope = (along(1e-5) - along(-1e-5)) / 2e-5
        assert_close(jnp.sum(gradient), slope, 1e-7)
        both = jax.tree.map(
            lambda a, b: jnp.stack([a, b]) if eqx.is_array(a) else a, net, other
        )
        several = eqx.filter_vmap(lambda net: nt.ntk(net, x))(both)
        assert_close(several[1], nt.ntk(other, x))

    def inside(scale):
        # a function that closes over what is being traced
        return jnp.sum(nt.ntk(model(scaled_by(scale)), x))

    h = 1e-5
    slope = (inside(2.0 + h) - inside(2.0 - h)) / (2 * h)
    for _ in range(2):
        assert_close(jax.grad(inside)(2.0), slope, 1e-8)
        assert_close(jax.jit(inside)(3.0), inside(3.0))


def test_a_leaf_that_cannot_be_hashed_is_read_each_time(x):
    class Scaled(eqx.Module):
        weight: jax.Array
        scales: Any

        def __call__(self, x):
            return self.weight @ x * sum(self.scales)

    class Numbers:
        __hash__: Any = None

        def __init__(self, *numbers):
            self.numbers = numbers

        def __iter__(self):
            return iter(self.numbers)

    for numbers in ((1.0, 2.0), (1.0, 3.0)):
        net = Scaled(jnp.ones((2, 3)), Numbers(*numbers))
        assert_close(nt.ntk(net, x), sum(numbers) ** 2 * x @ x.T)


def test_parameters_are_not_kept_alive(x):
    net = model(seed=7)
    kept = weakref.ref(net.weight), weakref.ref(net.constant)
    for kernel in (nt.ntk, nt.ntk_diag, nt.empirical_nngp):
        kernel(net, x)
    del net
    gc.collect()
    assert [reference() for reference in kept] == [None, None]


def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(_cache, "_MOST_KEPT", 3)
    monkeypatch.setattr(_cache, "_MOST_BYTES", 100)
    made = []

    def get(key, n_bytes: int | None = 0):
        make = lambda: made.append(key) or f"of {key}"
        assert _cache.remembered(("test", key), make, lambda _: n_bytes) == f"of {key}"

    for key in (1, 2, 3, 1, 4, 1, 2):
        get(key)
    assert made == [1, 2, 3, 4, 2]  # 2 was the one that was asked for longest ago
    get("large", 101)
    get("large", 101)
    get("traced", None)
    get("traced", None)
    assert made[5:] == ["large", "large", "traced", "traced"]
