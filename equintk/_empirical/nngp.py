r"""The covariance of a network's outputs over initialisations, by Monte Carlo.

$$K(x, x') = E_\theta[f_\theta(x) f_\theta(x')]$$

Source: Lee et al., arXiv:1711.00165; Matthews et al., arXiv:1804.11271.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import _checks, _inputs
from .._compiled import filter_jit
from .._parameters import output_struct
from .._types import Examples, Integer, Key, Model, ModelFn, Progress
from .monte_carlo import monte_carlo
from .outputs import outputs


def nngp(
    model_fn: ModelFn,
    key: Key,
    x1: Examples,
    x2: Examples | None = None,
    n_samples: Integer = 100,
    batch_size: Integer = 32,
    *,
    progress: Progress = False,
) -> Float[Array, "n1 n2"]:
    """Estimate `E[f(x1) f(x2)]`, averaged over output entries, from drawn networks.

    For one output of a wide network the relative Frobenius error is
    `sqrt((1 + tr(K)² / ||K||²) / n_samples)` at any width; more outputs divide it by
    the root of their number. The rank is at most `n_samples * out_size`.

    Args:
        model_fn: builds a model from a key; `model(x)` maps one example to an array.
        key: draw number `i` is `model_fn(jax.random.fold_in(key, i))`.
        x1: the examples that index the rows; the first axis counts them.
        x2: the examples that index the columns; `None` means `x1` again.
        n_samples: the number of networks drawn.
        batch_size: the largest number of examples evaluated at once.
        progress: `True` for lines on stderr, or a function of (draws done, draws).

    Returns:
        `[i, j]`, in outputs², on the same scale as `ntk`.

    Raises:
        ValueError: as `monte_carlo`, and for inputs whose shapes do not match.
    """
    _checks.positive_integer("n_samples", n_samples)
    _checks.positive_integer("batch_size", batch_size)
    x1, x2 = _inputs.pair(x1, x2)

    checked = False

    def second_moment(model: Model) -> Array:
        nonlocal checked
        if not checked:
            output_struct(model, _inputs.one_example(x1))
            checked = True
        f1 = outputs(model, x1, batch_size)
        f2 = f1 if x2 is None else outputs(model, x2, batch_size)
        return _averaged_product(f1, f2)

    return monte_carlo(second_moment, model_fn, key, n_samples, progress=progress).mean


@filter_jit
def _averaged_product(f1: Array, f2: Array) -> Float[Array, "n1 n2"]:
    one, two = (f.reshape(f.shape[0], -1) for f in (f1, f2))
    return jnp.einsum("ia,ja->ij", one, two, precision="highest") / one.shape[1]
