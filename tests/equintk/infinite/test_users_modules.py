"""Modules as users spell them, beside wide networks: an error of 5 % would be seen."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import equintk as nt
from tests.equintk.infinite.adversaries import array, linear, net, relu
from tests.equintk.infinite.generator.operations import OUT
from tests.equintk.infinite.generator.wide import STD, verdicts

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("optimised")]

IN, HID, READ = linear(5, 0), linear(0, 0), linear(0, OUT)
VECTOR, SEQUENCE = (5,), (4, 5)
NOISE = 0.0075
PLAN = ((128, 400), (256, 1000), (512, 1200))
FEW_UNITS = ((64, 400), (128, 1800))  # of which a layer has the third power


def bilinear(p, x):
    a, b = p[0](x), p[1](x)
    return p[3](relu(jnp.einsum("oab,a,b->o", p[2], a, relu(b))))


def tied_heads(p, x):
    """Four: their scores over `d` are no longer random, so that they may be few."""
    h = jax.vmap(p[0])(x)
    q, v = (jax.vmap(layer)(h).reshape(4, 4, -1) for layer in p[1:3])
    scores = jnp.einsum("shd,thd->hst", q, q) / q.shape[-1]
    mixed = jnp.einsum("hst,thd->shd", jax.nn.softmax(scores), v).reshape(4, -1)
    return p[4](jnp.mean(relu(jax.vmap(p[3])(mixed)), axis=0))


def scaled_residual(p, x):
    h = p[0](x)
    for layer in p[1:3]:
        h = h + 0.3 * layer(relu(h))
    return p[3](h)


def soft_cap(p, x):
    return 3 * jnp.tanh(p[1](relu(p[0](x))) / 3)


def class_token(p, x):
    h = jnp.concatenate([p[1][None], jax.vmap(p[0])(x)])
    h = h + jnp.mean(jax.vmap(p[2])(relu(h)), axis=0, keepdims=True)
    return p[3](h[0])


def layer_scale(p, x):
    h = p[0](x)
    return p[3](h + p[2] * relu(p[1](h)))


def low_rank(p, x):
    """Of half the width."""
    h = relu(p[0](x))
    return p[4](relu(p[1](h) + p[3] @ (p[2] @ h)))


def halves(n, key):
    return 0.5 * jnp.ones(n)


USERS = {
    "bilinear": (net(bilinear, IN, IN, array(0, 0, 0), READ), VECTOR),
    "heads": (net(tied_heads, IN, HID, HID, HID, READ), SEQUENCE),
    "residual": (net(scaled_residual, IN, HID, HID, READ), VECTOR),
    "soft cap": (net(soft_cap, IN, READ), VECTOR),
    "class token": (net(class_token, IN, array(0), HID, READ), SEQUENCE),
    "layer scale": (net(layer_scale, IN, HID, halves, READ), VECTOR),
    "low rank": (
        net(
            low_rank, IN, HID,
            lambda n, key: jr.normal(key, (n // 2, n)),
            lambda n, key: jr.normal(key, (n, n // 2)), READ,
        ), VECTOR,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", USERS)
def test_what_users_write_agrees_with_wide_networks(name):
    build, shape = USERS[name]
    x = np.asarray(jr.normal(jr.key(1), (3, *shape)))
    x = np.concatenate([x, -x[:1]])
    # A token is drawn like a row of a table, which cannot be read off its use.
    roles = {".layers[1]": 1} if name == "class token" else None

    def kernels(n):
        return nt.infinite_kernels(
            build(n, jr.key(0)), x, parameterization="ntk", W_std=STD[0],
            b_std=STD[1], roles=roles,
        )[:2]  # fmt: skip

    plan = FEW_UNITS if name == "bilinear" else PLAN
    found = verdicts(kernels, build, "ntk", x, plan, NOISE, (), roles)
    assert all(c.agrees(NOISE) for c in found), found
