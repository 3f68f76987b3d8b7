"""Models made to mislead: refused by name and line, or right."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import equintk as nt
from tests.equintk.infinite.adversaries import ADVERSARIES

pytestmark = pytest.mark.slow

OPTIONS = {"parameterization": "ntk", "W_std": 1.2, "b_std": 0.3}

ANSWERED = {
    "halves swapped", "halves multiplied", "mean", "norm", "cube",
    "standard deviation", "residual after relu", "bias twice", "over time",
    "shared in depth, with skips", "layers of one stack", "tokens masked",
    "tokens reversed", "tokens, running sum",
}  # fmt: skip
REFUSED = sorted(set(ADVERSARIES) - ANSWERED)


def examples(name):
    return jr.normal(jr.key(1), (3, *ADVERSARIES[name][1]))


def test_every_answered_model_is_among_the_adversaries():
    assert set(ADVERSARIES) >= ANSWERED


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_known_limit_is_refused(name):
    model = ADVERSARIES[name][0](16, jr.key(0))
    with pytest.raises((nt.NoLimitError, ValueError)) as caught:
        nt.infinite_kernels(model, examples(name), **OPTIONS)
    ours = (
        "No infinite-width kernel",
        "output of the model is deterministic",
        "no role that can be read",
        "is used with the roles",
        "Hermite series",
        "share something random",
        "dependent Gaussians",
    )
    assert any(text in str(caught.value) for text in ours), str(caught.value)


def test_the_error_names_the_primitive_and_the_line():
    model = ADVERSARIES["sorted"][0](16, jr.key(0))
    with pytest.raises(nt.NoLimitError, match=r"`sort` after .*adversaries.py:\d+"):
        nt.infinite_kernels(model, examples("sorted"), **OPTIONS)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ANSWERED))
def test_what_is_answered_agrees_with_wide_networks(name):
    x, build = examples(name), ADVERSARIES[name][0]
    limit = nt.infinite_kernels(build(16, jr.key(0)), x, **OPTIONS)
    wide = build(512, jr.key(0))
    drawn = []
    for i in range(40):
        model = nt.parameterize(wide, x[0], jr.key(i), "ntk", 1.2, 0.3)
        y = jax.vmap(model)(x)
        drawn.append((y @ y.T / y.shape[1], nt.ntk(model, x)))
    for which, expected in enumerate((limit.nngp, limit.ntk)):
        several = np.stack([np.asarray(d[which]) for d in drawn])
        error = np.linalg.norm(several.mean(axis=0) - expected)
        noise = np.linalg.norm(several.std(axis=0)) / np.sqrt(len(several))
        # Four standard errors, and what networks of width 512 differ by.
        assert error < 4 * noise + 0.03 * np.linalg.norm(expected), (error, noise)


def test_a_deterministic_scan_is_no_obstacle():
    def call(p, x):
        weights, _ = jax.lax.scan(lambda c, a: (c + a, None), jnp.zeros(5), x[None])
        return p[0](weights)

    from tests.equintk.infinite.adversaries import IN, net

    model = net(call, IN)(16, jr.key(0))
    x = jr.normal(jr.key(1), (3, 5))
    got = nt.infinite_kernels(model, x, **OPTIONS)
    np.testing.assert_allclose(got.nngp, 1.2**2 * x @ x.T / 5 + 0.3**2, rtol=1e-12)
