"""Fit a picture with a coordinate network, and with its kernel, without training it.

    python examples/image_reconstruction.py

A checkerboard of pixels is seen; the kernel says what the network will paint on the
others at any time of its training. Then the network is trained, to compare. Needs the
`experiments` extra. Writes image_reconstruction.png.
"""

import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_image

import equintk as nt

matplotlib.use("Agg")

SIZE = 20  # pixels along each side
STEPS = (16, 128, 1024)


class CoordinateNetwork(eqx.Module):
    """Sines of a stretched linear map, then an MLP: coordinates to colours."""

    first: eqx.nn.Linear
    rest: eqx.nn.MLP
    frequency: float = 3.0

    def __init__(self, width: int, *, key):
        first, rest = jr.split(key)
        self.first = eqx.nn.Linear(2, width, key=first)
        self.rest = eqx.nn.MLP(width, 3, width, 1, activation=jnp.sin, key=rest)

    def __call__(self, x):
        """Colours, relative to grey, at one point."""
        return self.rest(jnp.sin(self.frequency * self.first(x)))


def main(
    size: int = SIZE,
    width: int = 256,
    steps: tuple[int, ...] = STEPS,
    path: str = "image_reconstruction.png",
) -> dict:
    """Predict, train, compare and draw.

    Returns:
        for each number of steps, the root-mean-square error on the unseen pixels of the
        prediction and of the trained network, and the distance between the two.
    """
    box = 384 // size
    picture = load_sample_image("china.jpg")[: size * box, : size * box] / 255.0
    colours = picture.reshape(size, box, size, box, 3).mean(axis=(1, 3))
    axis = np.linspace(-1, 1, size)
    coordinates = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
    seen = np.indices((size, size)).sum(axis=0) % 2 == 0
    x, y = coordinates[seen], colours[seen] - 0.5
    everywhere = coordinates.reshape(-1, 2)

    network = CoordinateNetwork(width, key=jr.key(0))
    network = nt.parameterize(network, x[0], jr.key(1), "ntk", W_std=1.4, b_std=0.1)

    kernel = nt.ntk_full(network, x)
    rate = 0.5 * float(nt.metrics.max_learning_rate(kernel))
    descent = nt.predict.GradientDescent(kernel, y, learning_rate=rate)
    f0_seen, f0 = (jax.vmap(network)(jnp.asarray(points)) for points in (x, everywhere))
    predicted = descent.test(
        list(steps), nt.ntk_full(network, everywhere, x), f0_seen, f0
    )

    trained = _train(
        network, jnp.asarray(x), jnp.asarray(y), rate, jnp.asarray(everywhere), steps
    )
    errors = {}
    for s, p, f in zip(steps, predicted, trained, strict=True):
        p, f = (np.asarray(a).reshape(size, size, 3) for a in (p, f))
        truth = colours - 0.5
        errors[s] = {
            "prediction": _rms(p[~seen] - truth[~seen]),
            "network": _rms(f[~seen] - truth[~seen]),
            "between them": _rms(p[~seen] - f[~seen]),
        }
        print(
            f"after {s} steps: "
            + ", ".join(f"{k} {v:.3f}" for k, v in errors[s].items())
        )
    _draw(colours, seen, steps, np.asarray(predicted) + 0.5, trained + 0.5, path)
    return errors


def _train(network, x, y, rate, everywhere, steps) -> np.ndarray:
    """Outputs of the network at all pixels after each of `steps` full-batch steps."""
    params, static = eqx.partition(network, eqx.is_inexact_array)
    outputs = jax.jit(lambda p, x: jax.vmap(eqx.combine(p, static))(x))

    @jax.jit
    def step(params):
        gradient = jax.grad(lambda p: 0.5 * jnp.sum((outputs(p, x) - y) ** 2))(params)
        return jax.tree.map(lambda p, g: p - rate * g, params, gradient)

    found = []
    for i in range(1, steps[-1] + 1):
        params = step(params)
        if i in steps:
            found.append(outputs(params, everywhere))
    return np.stack(found)


def _rms(error: np.ndarray) -> float:
    return float(np.sqrt(np.mean(error**2)))


def _draw(colours, seen, steps, predicted, trained, path) -> None:
    size = len(colours)
    figure = Figure(figsize=(2 * (len(steps) + 1), 4.4), layout="constrained")
    axes = figure.subplots(2, len(steps) + 1)
    shown = [
        [("picture", colours)],
        [("seen", np.where(seen[..., None], colours, 1.0))],
    ]
    for row, name, frames in zip(
        shown, ("kernel", "trained network"), (predicted, trained), strict=True
    ):
        row += [
            (f"{name}, {s} steps", frame.reshape(size, size, 3))
            for s, frame in zip(steps, frames, strict=True)
        ]
    for ax, (title, image) in zip(axes.flat, shown[0] + shown[1], strict=True):
        ax.imshow(np.clip(image, 0, 1))
        ax.set_title(title, fontsize=9)
        ax.axis("off")
    figure.savefig(path, dpi=150)
    print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
