"""Makes neural_tangents_mlp.npz with neural-tangents, the archived reference.

It runs in an environment of its own, which cannot hold equintk (Python 3.11):

    pip install neural-tangents==0.6.5 jax==0.4.25 jaxlib==0.4.25 tf2jax==0.3.6 \
        "numpy<2" "scipy<1.13"
    python tests/golden/neural_tangents_mlp.py

Its squared loss is half the mean over examples and outputs, its time learning rate 1
times steps, and its kernels average over outputs where they do not couple them.
"""

from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)

import neural_tangents as nt  # noqa: E402
import numpy as np  # noqa: E402

SIZES = (5, 32, 32, 3)
TIMES = (0.5, 5.0, 50.0)


def outputs(parameters, x):
    """An MLP with erf activations, on a batch."""
    for i in range(len(SIZES) - 1):
        x = x @ parameters[f"weight{i}"].T + parameters[f"bias{i}"]
        x = jax.scipy.special.erf(x) if i < len(SIZES) - 2 else x
    return x


def main():
    """Draw parameters and data with NumPy; save them with what neural-tangents says."""
    rng = np.random.default_rng(0)
    parameters = {}
    for i, (n_in, n_out) in enumerate(zip(SIZES[:-1], SIZES[1:], strict=True)):
        parameters[f"weight{i}"] = rng.normal(size=(n_out, n_in)) / n_in**0.5
        parameters[f"bias{i}"] = 0.1 * rng.normal(size=n_out)
    x1, x2, y = (rng.normal(size=shape) for shape in ((7, 5), (4, 5), (7, 3)))

    full = nt.empirical_ntk_fn(outputs, trace_axes=(), vmap_axes=0)
    averaged = nt.empirical_ntk_fn(outputs, trace_axes=(-1,), vmap_axes=0)
    k_tt, k_st = full(x1, None, parameters), full(x2, x1, parameters)
    predict = nt.predict.gradient_descent_mse(k_tt, y, trace_axes=())
    f0, f0_test = outputs(parameters, x1), outputs(parameters, x2)
    predicted = [predict(t, f0, f0_test, k_st)[1] for t in (*TIMES, None)]
    np.savez_compressed(
        Path(__file__).with_suffix(".npz"),
        **parameters, x1=x1, x2=x2, y=y, times=[*TIMES, np.inf],
        full_train=k_tt, full_test=k_st, averaged_train=averaged(x1, None, parameters),
        averaged_test=averaged(x2, x1, parameters), predicted=np.stack(predicted),
    )  # fmt: skip


if __name__ == "__main__":
    main()
