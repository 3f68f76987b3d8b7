"""Means over axes that go to infinity, where their fluctuations would count."""

import jax
import jax.numpy as jnp
import jax.random as jr
import pytest
from equinox import nn
from jax import lax

import equintk as nt
from tests.equintk.infinite.adversaries import HID, IN, READ, after, net, relu, tanh

OPTIONS = {"parameterization": "ntk", "W_std": 1.2, "b_std": 0.3}
N = 64


def length(h):
    return jnp.linalg.norm(h)


def answered(build):
    model = build(N, jr.key(0))
    return nt.infinite_kernels(model, jr.normal(jr.key(1), (2, 5)), **OPTIONS)


MULTIPLIED = {
    "the root of the size": lambda p, h: relu(h + jnp.mean(h) * jnp.sqrt(h.size)),
    "the size": lambda p, h: relu(h) + jnp.mean(h) * h.size,
    "the size, then a function": lambda p, h: relu(h) * jnp.cos(jnp.mean(h) * h.size),
    "a product and a root": lambda p, h: h + relu(h) * jnp.mean(h) * jnp.sqrt(h.size),
    "a root first": lambda p, h: h + (relu(h) * jnp.sqrt(h.size)) * jnp.mean(h),
    "a sum of its copies": lambda p, h: h + jnp.sum(jnp.mean(h) * jnp.ones(h.size)),
    "a logarithm": lambda p, h: h * jnp.log(jnp.sum(h**2)) * jnp.sqrt(h.size),
}
OPEN = {
    "difference of norms": lambda p, h: h * tanh(length(relu(h)) - length(relu(-h))),
    "cosine of a norm": lambda p, h: relu(h) * jnp.cos(length(h)),
    "sum of squares over the root": (
        lambda p, h: h + jnp.sum(h**2) / jnp.sqrt(h.size) - jnp.sqrt(h.size)
    ),
    "times an input": lambda p, h: relu(h) * jnp.sin(jnp.sum(h**2) * jnp.mean(h**2)),
}
FEW = {
    "pairs": lambda p, h: jnp.repeat(relu(h).reshape(-1, 2).mean(1), 2),
    "the first two": lambda p, h: relu(h) * jnp.mean(relu(h[:2])),
    "the last four": lambda p, h: relu(h) * jnp.mean(relu(h[-4:])),
    "every sixteenth": lambda p, h: relu(h) * jnp.mean(relu(h[::16])),
    "products of a few": lambda p, h: h * jnp.sum(h[:2] * h[2:4]),
}
ENDS = {
    "centred": lambda y: y - jnp.mean(y),
    "normed": lambda y: y / jnp.sqrt(jnp.mean(y**2)),
    "layer norm": nn.LayerNorm(16),
    "times itself": lambda y: y * jnp.mean(jnp.abs(y)),
}
FINE = {
    "normed": lambda p, h: jnp.sqrt(h.size) * h / length(h),
    "times three": lambda p, h: relu(h) * 3 * jnp.mean(h**2),
    "by groups": lambda p, h: h / jnp.sqrt(
        jnp.mean(h.reshape(4, -1) ** 2, 1).repeat(h.size // 4)),
    "half": lambda p, h: relu(h) * jnp.mean(h[: h.size // 2] ** 2),
    "a cosine of similarity": lambda p, h: h * (
        jnp.sum(h * relu(h)) / length(h) / length(relu(h))),
}  # fmt: skip


@pytest.mark.parametrize("name", MULTIPLIED)
def test_a_mean_times_what_grows_like_the_root_of_its_size_is_refused(name):
    with pytest.raises(nt.NoLimitError, match="which is multiplied by"):
        answered(after(MULTIPLIED[name]))


@pytest.mark.parametrize("name", OPEN)
def test_functions_of_sums_that_are_not_divided_are_refused(name):
    with pytest.raises(nt.NoLimitError, match="is not divided by its size"):
        answered(after(OPEN[name]))


VANISHING = {
    "projection": after(lambda p, h: h * jnp.mean(h * jnp.log(1 + h**2))),
    "a weight of it": net(
        lambda p, x: p[2](relu(p[1](jnp.mean(p[0](x), keepdims=True)))),
        IN, lambda n, key: nn.Linear(1, n, key=key), READ,
    ),
}  # fmt: skip


@pytest.mark.parametrize("scheme", ["standard", None])
@pytest.mark.parametrize("name", VANISHING)
def test_what_vanishes_is_refused_where_the_kernel_grows(name, scheme):
    # There, the width times what is left of it at that width counts beside the biases.
    model, x = VANISHING[name](N, jr.key(0)), jr.normal(jr.key(1), (2, 5))
    options = {"parameterization": scheme, "b_std": scheme and 0.3}
    with pytest.raises(nt.NoLimitError, match="a mean that is zero by symmetry"):
        nt.infinite_ntk(model, x, **options)
    nt.infinite_nngp(model, x, **options)
    nt.infinite_ntk(model, x, **OPTIONS)


@pytest.mark.parametrize("name", FEW)
def test_a_sum_over_a_few_of_the_entries_is_refused(name):
    with pytest.raises(nt.NoLimitError, match="of the 64 entries"):
        answered(after(FEW[name]))


def test_a_weight_of_a_few_of_the_entries_is_refused():
    few = net(
        lambda p, x: p[2](relu(p[1](relu(p[0](x))[:2]))),
        IN, lambda n, key: nn.Linear(2, n, key=key), READ,
    )  # fmt: skip
    with pytest.raises(nt.NoLimitError, match="a sum over 2 of the 64 entries"):
        answered(few)


def array(*shape):
    return lambda n, key: jr.normal(key, [s or n for s in shape])


def with_low_rank(p, x):
    h = relu(p[0](x))
    return p[4](relu(p[1](h) + p[3] @ (p[2] @ h)))


NARROW = {
    "low rank": net(with_low_rank, IN, HID, array(4, 0), array(0, 4), READ),
    "experts": net(
        lambda p, x: p[1](jnp.mean(relu(p[0] @ x), axis=0)), array(4, 0, 5), READ
    ),
    "bottleneck": net(
        lambda p, x: p[3](relu(p[2](relu(p[1](relu(p[0](x))))))),
        IN, lambda n, key: nn.Linear(n, 4, key=key),
        lambda n, key: nn.Linear(4, n, key=key), READ,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NARROW)
def test_a_sum_over_few_entries_beside_one_over_many_is_refused(name):
    with pytest.raises(nt.NoLimitError, match="a sum over 4 entries.*over 64 else"):
        answered(NARROW[name])


def vectors(n_several, n_long):
    return array(n_several, n_long, 5)


def overlaps(p, x):
    """Scalar products of pairs of vectors."""
    q, k = p[0] @ x, p[1] @ x
    return jnp.einsum("od,od->o", q, k) / q.shape[1] ** 0.5


def test_products_of_vectors_that_are_short_beside_their_number_are_refused():
    short = net(lambda p, x: p[2](relu(overlaps(p, x))), *[vectors(0, 4)] * 2, READ)
    with pytest.raises(nt.NoLimitError, match="a sum over 4 entries.*over 64 else"):
        answered(short)


def test_how_many_outputs_there_are_says_nothing_of_widths():
    # As long as one likes: of two Gaussians the product of covariances.
    few = net(overlaps, *[vectors(64, 4)] * 2)(N, jr.key(0))
    x = jr.normal(jr.key(1), (3, 5))
    got = nt.infinite_nngp(few, x, **OPTIONS)
    assert jnp.allclose(got, (1.2**2 * x @ x.T / 5) ** 2, rtol=1e-12)


def with_heads(n_heads):
    def call(p, x):
        q, k, v = (jax.vmap(a)(x).reshape(3, n_heads, -1) for a in p[:3])
        scores = jnp.einsum("shd,thd->hst", q, k) / jnp.sqrt(q.shape[-1])
        mixed = jnp.einsum("hst,thd->shd", scores, v).reshape(3, -1)
        return p[4](jnp.mean(jnp.sin(jax.vmap(p[3])(mixed)), axis=0))

    return net(call, IN, IN, IN, HID, READ)(N, jr.key(0))


def test_few_heads_are_few_however_many_units_they_have():
    x = jr.normal(jr.key(1), (2, 3, 5))
    with pytest.raises(nt.NoLimitError, match="a sum over 4 of the 64 entries"):
        nt.infinite_nngp(with_heads(4), x, **OPTIONS)
    assert nt.infinite_nngp(with_heads(8), x, **OPTIONS).shape == (2, 2)


@pytest.mark.parametrize("name", ENDS)
def test_a_mean_over_the_outputs_themselves_is_refused(name):
    with pytest.raises(nt.NoLimitError, match="entries of the output itself"):
        answered(net(lambda p, x: ENDS[name](p[1](relu(p[0](x)))), IN, READ))


@pytest.mark.slow
def test_a_block_may_normalise_what_it_returns():
    norm = lambda n, key: nn.LayerNorm(n)
    block = lambda p, x: (lambda h: h + p[2](relu(p[1](h))))(p[0](x))
    found = answered(net(block, IN, norm, HID))
    assert jnp.all(jnp.isfinite(found.ntk))


def square(h):
    return jnp.mean(h**2)


# In networks each is decided by fluctuations, however wide they are: means that are
# equal by symmetry, or are what they are compared with.
JUMPS = {
    "a sign": lambda p, h, g: jnp.where(jnp.mean(h) > 0, relu(h), -h),
    "two means": lambda p, h, g: jnp.where(square(h) > square(g), relu(h), tanh(h)),
    "a difference": lambda p, h, g: h * jnp.sign(square(h) - square(g)),
    "a ratio": lambda p, h, g: jnp.where(square(h) / square(g) > 1, relu(h), tanh(h)),
    "a half": lambda p, h, g: h * jnp.where(
        jnp.mean(jnp.sign(relu(h))) > 0.5, 1.0, 2.0),
    "in a loop": lambda p, h, g: h * lax.fori_loop(
        0, 2, lambda i, s: jnp.sign(s), jnp.mean(h)),
    "an angle": lambda p, h, g: h * jnp.arctan2(jnp.mean(h), jnp.mean(g)),
    "a whole number": lambda p, h, g: h * square(h).astype(jnp.int32).astype(h.dtype),
}  # fmt: skip
HIDDEN = {
    "the largest of means": lambda p, h, g: jnp.stack([h, g])[
        jnp.argmax(jnp.stack([square(h), square(g)]))
    ],
    "a branch": lambda p, h, g: h * lax.cond(True, jnp.sign, jnp.cos, jnp.mean(h)),
    "a loop until": lambda p, h, g: h * lax.while_loop(
        lambda s: s < 0, lambda s: s + 1, jnp.mean(h)),
    "bits": lambda p, h, g: jnp.where(jnp.signbit(jnp.mean(h)), h, relu(h)),
}  # fmt: skip
COPIES = {
    "a product": lambda h, m: h + jnp.dot(m, jnp.ones(h.size)),
    "a running sum": lambda h, m: h + jnp.cumsum(m)[-1],
}
SMOOTH = {
    "a guarded norm": lambda p, h, g: jnp.where(
        square(h) > 0, h / jnp.sqrt(square(h)), h),
    "a leaky mean": lambda p, h, g: h * jax.nn.leaky_relu(jnp.mean(h * relu(h))),
    "the larger of means": lambda p, h, g: h * jnp.maximum(jnp.mean(h), square(g)),
    "a loop": lambda p, h, g: h * lax.fori_loop(
        0, 2, lambda i, s: jnp.cos(s), square(h)),
    "a mean of copies": lambda p, h, g: h * jnp.dot(
        square(h) * jnp.ones(N), jnp.ones(N) / N),
}  # fmt: skip


def of_two(function):
    """A function of two hidden layers."""
    return net(lambda p, x: p[2](function(p, p[0](x), p[1](x))), IN, IN, READ)


@pytest.mark.parametrize("name", JUMPS)
def test_a_jump_at_a_mean_is_refused(name):
    with pytest.raises(nt.NoLimitError, match="a jump at the mean"):
        answered(of_two(JUMPS[name]))


@pytest.mark.parametrize("name", HIDDEN)
def test_what_may_hide_a_jump_at_a_mean_is_refused(name):
    with pytest.raises(
        nt.NoLimitError, match="no rule for what is done here to a mean"
    ):
        answered(of_two(HIDDEN[name]))


@pytest.mark.parametrize("name", COPIES)
def test_sums_of_copies_of_a_mean_are_multiples_of_it(name):
    several = lambda p, h: COPIES[name](h, jnp.mean(h) * jnp.ones(h.size))
    with pytest.raises(nt.NoLimitError, match="which is multiplied by 64"):
        answered(after(several))


def test_a_power_of_a_mean_that_grows_with_the_size_is_refused():
    power = lambda p, h: h * jnp.prod(1 + jnp.mean(h) * jnp.ones(h.size))
    with pytest.raises(nt.NoLimitError, match="to a power that grows"):
        answered(after(power))


@pytest.mark.slow
@pytest.mark.parametrize("name", SMOOTH)
def test_what_does_not_jump_at_a_mean_is_answered(name):
    assert jnp.all(jnp.isfinite(answered(of_two(SMOOTH[name])).ntk))


@pytest.mark.slow
@pytest.mark.parametrize("name", FINE)
def test_means_that_are_divided_are_answered(name):
    assert jnp.all(jnp.isfinite(answered(after(FINE[name])).ntk))


@pytest.mark.slow
def test_the_kernels_of_groups_are_those_of_a_norm_over_all():
    groups = answered(after(FINE["by groups"]))
    whole = answered(after(FINE["normed"]))
    assert jnp.allclose(groups.ntk, whole.ntk, rtol=1e-12)


@pytest.mark.slow
def test_a_mean_over_outputs_is_taken_where_they_are_finite():
    build = net(lambda p, x: (lambda y: y - jnp.mean(y))(p[1](relu(p[0](x)))), IN, READ)
    x = jr.normal(jr.key(1), (2, 5))
    model = build(N, jr.key(0))
    ours = nt.infinite_kernels(
        model, x, finite=(".layers[1].weight", ".layers[1].bias"), **OPTIONS
    )
    plain = nt.infinite_kernels(
        net(lambda p, x: p[1](relu(p[0](x))), IN, READ)(N, jr.key(0)), x, **OPTIONS
    )
    # Of each of 16 outputs a sixteenth is taken away, of all others too.
    one = jnp.einsum("ijaa->ija", ours.ntk)
    assert jnp.allclose(one, plain.ntk[..., None] * 15 / 16, rtol=1e-12)


def test_each_example_chooses_its_own_token():
    chosen = lambda p, x: p[1](jax.vmap(p[0])(x)[jnp.argmax(x[:, 0])])
    x = jr.normal(jr.key(1), (3, 3, 5))
    got = nt.infinite_nngp(net(chosen, IN, READ)(N, jr.key(0)), x, **OPTIONS)
    own = x[jnp.arange(3), jnp.argmax(x[:, :, 0], axis=1)]
    hidden = 1.2**2 * own @ own.T / 5 + 0.3**2
    assert jnp.allclose(got, 1.2**2 * hidden + 0.3**2, rtol=1e-12)


def test_a_kernel_in_which_no_example_is_seen_is_that_of_the_last_bias():
    def vanishes(p, x):
        h = p[0](x)
        return p[1](h * jnp.mean(h * jnp.log(1 + h**2)))

    kernels = answered(net(vanishes, IN, READ))
    assert jnp.allclose(kernels.nngp, 0.3**2)
    assert kernels.nngp.shape == kernels.ntk.shape == (2, 2)
