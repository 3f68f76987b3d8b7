"""Makes neural_tangents_predict.npz: what neural-tangents predicts from its kernels.

It runs in an environment of its own, which cannot hold equintk (Python 3.11):

    pip install neural-tangents==0.6.5 jax==0.4.25 jaxlib==0.4.25 tf2jax==0.3.6 \
        "numpy<2" "scipy<1.13"
    python tests/golden/neural_tangents_predict.py

Its squared loss is half the mean over examples and outputs, its time counts steps of
the learning rate, and its regularisation is relative to the mean diagonal.
"""

from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import neural_tangents as nt  # noqa: E402
import numpy as np  # noqa: E402
from neural_tangents import stax  # noqa: E402

N_TRAIN, N_TEST, OUT = 7, 4, 3
LEARNING_RATE, REGULARISATION = 0.7, 0.1
TIMES = (0.0, 0.5, 5.0, 50.0, 5e3)
ODE_TIMES = (1.0, 10.0, 100.0)
SMALL_RATE, MOMENTUM, MOMENTUM_STEPS = 1e-3, 0.9, (100.0, 1000.0)


def cross_entropy(f, y):
    """Of softmax, the mean over examples and outputs."""
    return -jnp.mean(jax.nn.log_softmax(f) * y)


def squared(f, y):
    """Half the mean over examples and outputs."""
    return 0.5 * jnp.mean((f - y) ** 2)


def main():
    """Draw data with NumPy; save kernels and what is predicted from them."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape))
    x, x_test = normal(N_TRAIN, 5), normal(N_TEST, 5)
    y, f0, f0_test = normal(N_TRAIN, OUT), normal(N_TRAIN, OUT), normal(N_TEST, OUT)
    classes = jnp.eye(OUT)[rng.integers(0, OUT, N_TRAIN)]
    features = normal(N_TRAIN + N_TEST, OUT, 40) / 40**0.5
    full = jnp.einsum("iap,jbp->ijab", features, features)
    full_train, full_test = full[:N_TRAIN, :N_TRAIN], full[N_TRAIN:, :N_TRAIN]

    kernel_fn = stax.serial(
        stax.Dense(1, W_std=1.5, b_std=0.1), stax.Erf(),
        stax.Dense(1, W_std=1.5, b_std=0.1), stax.Relu(), stax.Dense(1, W_std=1.2),
    )[2]  # fmt: skip
    both = ("nngp", "ntk")
    pairs = ((x, None), (x_test, x), (x_test, None))
    k_tt, k_st, k_ss = (kernel_fn(*pair, both) for pair in pairs)
    saved = {
        "y": y, "f0": f0, "f0_test": f0_test, "classes": classes,
        "times": [*TIMES, np.inf], "full_train": full_train, "full_test": full_test,
    }  # fmt: skip
    for kind in both:
        for name, kernel in (("train", k_tt), ("test", k_st), ("test_test", k_ss)):
            saved[f"{kind}_{name}"] = getattr(kernel, kind)

    def over_times(predict, *arguments):
        results = [predict(t, *arguments) for t in (*TIMES, None)]
        return [np.stack(parts) for parts in zip(*results, strict=True)]

    squared_loss = {
        "averaged": (k_tt.ntk, k_st.ntk, (-1,)),
        "full": (full_train, full_test, ()),
    }
    for kind, (train, test, trace_axes) in squared_loss.items():
        for name, options in {
            "": {},
            "_relative": {"diag_reg": REGULARISATION},
            "_absolute": {"diag_reg": REGULARISATION, "diag_reg_absolute_scale": True},
        }.items():
            predict = nt.predict.gradient_descent_mse(
                train, y, learning_rate=LEARNING_RATE, trace_axes=trace_axes, **options
            )
            on_train, on_test = over_times(predict, f0, f0_test, test)
            saved[f"mse_{kind}{name}_test"] = on_test
            if not options:  # with regularisation it ignores it on the training set
                saved[f"mse_{kind}_train"] = on_train

    regular = nt.predict.gradient_descent_mse(
        k_tt.ntk, y, learning_rate=LEARNING_RATE, diag_reg=REGULARISATION
    )
    on_train = over_times(regular, f0, f0, k_tt.ntk)[1]
    saved["mse_averaged_relative_train"] = on_train

    for name, regularisation in {"": 0.0, "_relative": REGULARISATION}.items():
        ensemble = nt.predict.gradient_descent_mse_ensemble(
            kernel_fn, x, y, learning_rate=LEARNING_RATE, diag_reg=regularisation
        )
        for kind in both:
            mean, covariance = over_times(ensemble, x_test, kind, True)
            saved[f"ensemble_{kind}{name}_mean"] = mean
            saved[f"ensemble_{kind}{name}_covariance"] = covariance
        if not regularisation:
            mean, covariance = over_times(ensemble, None, "ntk", True)
            saved["ensemble_train_mean"], saved["ensemble_train_covariance"] = (
                mean, covariance,
            )  # fmt: skip

    inference = nt.predict.gp_inference(k_tt, y, diag_reg=REGULARISATION)
    for kind in ("nngp", "ntk", "ntkgp"):
        gaussian = inference(kind, k_st, k_ss)
        saved[f"gp_{kind}_mean"] = gaussian.mean
        saved[f"gp_{kind}_covariance"] = gaussian.covariance

    flow = nt.predict.gradient_descent(
        cross_entropy, full_train, classes, LEARNING_RATE, trace_axes=()
    )
    saved["ode_times"] = ODE_TIMES
    saved["cross_entropy_train"], saved["cross_entropy_test"] = flow(
        jnp.array(ODE_TIMES), f0, f0_test, full_test
    )
    saved["momentum_steps"] = MOMENTUM_STEPS
    for name, loss, target in (
        ("squared", squared, y),
        ("cross_entropy", cross_entropy, classes),
    ):
        heavy = nt.predict.gradient_descent(
            loss, full_train, target, SMALL_RATE, momentum=MOMENTUM, trace_axes=()
        )
        saved[f"momentum_{name}_train"], saved[f"momentum_{name}_test"] = heavy(
            jnp.array(MOMENTUM_STEPS), f0, f0_test, full_test
        )
    flat = full_train.transpose(0, 2, 1, 3).reshape(N_TRAIN * OUT, -1)
    rates = [nt.predict.max_learning_rate(flat, momentum=m) for m in (0.0, MOMENTUM)]
    rates.append(nt.predict.max_learning_rate(k_tt.ntk, y_train_size=y.size))
    saved["max_learning_rates"] = rates
    # Its open issues 197 and 198: in float32 this kernel is indefinite.
    hidden = [stax.Dense(512, W_std=1.5, b_std=0.05), stax.Relu(do_stabilize=True)]
    relu_fn = stax.serial(*hidden, *hidden, stax.Dense(1, W_std=1.5, b_std=0.05))[2]
    grid = jnp.linspace(-10 * np.pi, 10 * np.pi, 100, dtype=jnp.float32)[:, None]
    jax.config.update("jax_enable_x64", False)
    saved["relu_grid"] = relu_fn(grid, None, "ntk")
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **saved)


if __name__ == "__main__":
    main()
