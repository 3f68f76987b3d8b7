"""Words that sentences of later seeds may have, too.

Earlier seeds do not, so that their sentences stay as they are.
"""

import jax
import jax.numpy as jnp
from equinox import nn

from . import operations as words
from .operations import IN, LAYERS, Operation, relu
from .primitives import gated, neighbours, normed, slanted, stepped, times

FIRST_OF_MORE, FIRST_OF_LAST = 1000, 2000
"""The seeds from which on sentences have more words, and these and the last ones."""

MORE_VECTOR: dict[str, Operation] = {
    "dropped": Operation("h", "h", lambda p, h: p(h), "dropout", 3.0),
    "dropped after relu": Operation("h", "h", lambda p, h: p(relu(h)), "dropout", 3.0),
    "dropped and kept": Operation("h", "h", lambda p, h: h + p(h), "dropout", 1.0),
    "norm of dropped": Operation(
        "h", "h", lambda p, h: (d := p(h)) / jnp.sqrt(0.1 + jnp.mean(d**2)),
        "dropout", 1.5,
    ),
    "opaque abs": Operation("h", "h", words.opaque_abs, weight=4.0),
    "multiple of opaque abs": Operation(
        "h", "h", lambda h: 0.7 * words.opaque_abs(-0.6 * h), weight=2.0
    ),
    "gate of opaque abs": Operation(
        "hh", "h", lambda a, b: a * words.opaque_abs(b), weight=2.0
    ),
}  # fmt: skip
MORE_SEQUENCE: dict[str, Operation] = {
    "dropped": Operation("t", "t", lambda p, t: p(t), "dropout", 3.0),
    "dropped alike": Operation("t", "t", lambda p, t: jax.vmap(p)(t), "dropout", 3.0),
    "opaque abs": Operation("t", "t", words.opaque_abs, weight=4.0),
}

LAYERS |= {
    "finite narrow": lambda n, key: nn.Linear(n, 4, key=key),
    "finite in": lambda n, key: nn.Linear(IN, 4, key=key),
    "finite read": lambda n, key: nn.Linear(n, 128, key=key),
}
LAST_VECTOR: dict[str, Operation] = {
    "slanted": Operation("h", "h", lambda h: slanted(h, slope=0.2), weight=4.0),
    "normed by primitive": Operation("h", "h", normed, weight=3.0),
    "neighbours": Operation("h", "h", lambda h: neighbours(h, axis=0), weight=0.5),
    "times by primitive": Operation(
        "h", "h", lambda p, h: times(p.weight, relu(h)), "hidden, no bias", 4.0
    ),
    "times of transposed": Operation(
        "h", "h", lambda p, h: times(p.weight.T, h), "hidden, no bias", 0.7
    ),
    "gated by primitive": Operation("hh", "h", gated, weight=3.0),
    "slanted number": Operation("s", "s", lambda s: slanted(s, slope=0.5), weight=1.0),
    "stepped number": Operation("s", "s", stepped, weight=0.7),
    "mean of finite": Operation(
        "h", "s", lambda p, h: jnp.mean(p(h)), "finite narrow", 0.7
    ),
    "norm of finite": Operation(
        "h", "s", lambda p, h: jnp.linalg.norm(p(h)), "finite narrow", 0.7
    ),
    "one of finite": Operation(
        "x", "s", lambda p, x: jax.nn.softmax(p(x))[0], "finite in", 0.7
    ),
}  # fmt: skip
LAST_SEQUENCE: dict[str, Operation] = {
    "slanted": Operation("t", "t", lambda t: slanted(t, slope=0.2), weight=3.0),
    "normed by primitive": Operation("t", "t", normed, weight=2.0),
    "neighbours": Operation("t", "t", lambda t: neighbours(t, axis=0), weight=3.0),
    "neighbouring units": Operation(
        "t", "t", lambda t: neighbours(t, axis=1), weight=0.4
    ),
    "gated by primitive": Operation("tt", "t", gated, weight=3.0),
}
