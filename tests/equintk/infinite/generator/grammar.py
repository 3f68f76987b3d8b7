"""Sentences: random models, written down so that they can be shortened."""

from contextlib import nullcontext
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax

from ..architectures import Net
from . import images, operations as words
from .later import (
    FIRST_OF_LAST,
    FIRST_OF_MORE,
    LAST_SEQUENCE,
    LAST_VECTOR,
    MORE_SEQUENCE,
    MORE_VECTOR,
)
from .operations import IN, LAYERS, TOKENS, Operation, relu, tanh
from .primitives import spelt

VECTOR: dict[str, Operation] = {
    "in": Operation("x", "h", lambda p, x: p(x), "in", 2.0),
    "in, no bias": Operation("x", "h", lambda p, x: p(x), "in, no bias", 0.7),
    "hidden": Operation("h", "h", lambda p, h: p(h), "hidden", 6.0),
    "hidden of relu": Operation("h", "h", lambda p, h: p(relu(h)), "hidden", 4.0),
    "no bias": Operation("h", "h", lambda p, h: p(h), "hidden, no bias", 2.0),
    "transposed": Operation("h", "h", lambda p, h: p.weight.T @ h, "hidden", 1.0),
    "turned": Operation("h", "h", lambda p, h: p.weight[::-1] @ h, "hidden", 0.4),
    "columns turned": Operation(
        "h", "h", lambda p, h: p.weight[:, ::-1] @ h, "hidden", 0.4
    ),
    "half its inputs": Operation(
        "h", "h", lambda p, h: p.weight[:, : h.size // 2] @ h[: h.size // 2],
        "hidden", 0.5,
    ),
    "other half": Operation(
        "h", "h", lambda p, h: p.weight[:, : h.size // 2] @ h[h.size // 2 :],
        "hidden", 0.5,
    ),
    "half its outputs": Operation(
        "h", "h",
        lambda p, h: jnp.concatenate([p.weight[: h.size // 2] @ h] * 2), "hidden", 0.5,
    ),
    "weight of few inputs": Operation(
        "x", "h", lambda p, x: p.weight[:, :2] @ x[:2], "in", 0.5
    ),
    "weight as bias": Operation("h", "h", lambda p, h: h + p.weight[:, 0], "in", 0.4),
    "bias again": Operation("h", "h", lambda p, h: h + p.bias, "hidden", 0.6),
    "bias as factor": Operation("h", "h", lambda p, h: h * p.bias, "hidden", 0.4),
    "weight norm": Operation(
        "h", "h", lambda p, h: p.weight / jnp.linalg.norm(p.weight) @ h, "hidden", 0.3
    ),
    "symmetric": Operation(
        "h", "h", lambda p, h: (p.weight + p.weight.T) @ h, "hidden", 0.3
    ),
    "weight squared": Operation(
        "h", "h", lambda p, h: p.weight @ (p.weight @ h), "hidden", 0.7
    ),
    "tanh of weight": Operation(
        "h", "h", lambda p, h: tanh(p.weight) @ h, "hidden", 0.3
    ),
    "repeated": Operation("h", "h", words.repeated, "hidden", 1.0),
    "looped": Operation("h", "h", words.looped, "hidden", 0.7),
    "carried": Operation("h", "h", words.carried, "hidden, no bias", 0.7),
    "decaying": Operation("h", "h", words.decaying, "hidden, no bias", 0.4),
    "turning": Operation("h", "h", words.turning, "hidden, no bias", 0.4),
    "stacked": Operation("h", "h", words.stacked, "stack", 0.7),
    "second of stack": Operation("h", "h", lambda p, h: p.weight[1] @ h, "stack", 0.5),
    "gated": Operation(
        "h", "h", lambda p, h: jnp.multiply(*jnp.split(p(h), 2)), "double", 1.0
    ),
    "bottleneck": Operation("h", "h", lambda p, h: p(jnp.tile(h, 2)), "halve", 0.3),
    "both": Operation(
        "hh", "h", lambda p, a, b: p(jnp.concatenate([a, b])), "halve", 1.5
    ),
    "norm": Operation("h", "h", lambda p, h: p(h), "norm", 2.0),
    "plain norm": Operation("h", "h", lambda p, h: p(h), "plain norm", 0.7),
    "root norm": Operation("h", "h", lambda p, h: p(h), "root norm", 1.0),
    "gain alone": Operation("h", "h", lambda p, h: p.weight * h, "norm", 0.6),
    "relu of gain": Operation("h", "h", lambda p, h: relu(p.weight * h), "norm", 0.6),
    "number of narrow": Operation("h", "s", lambda p, h: jnp.mean(p(h)), "narrow", 0.4),
    "number of one": Operation("h", "s", lambda p, h: p(h)[0], "one", 0.4),
    "of few units": Operation("h", "h", lambda p, h: p(h[:2]), "few", 0.4),
    "looked up": Operation("x", "h", lambda p, x: p(jnp.argmax(x[:4])), "table", 1.0),
    "row looked up": Operation(
        "x", "h", lambda p, x: p.weight[jnp.argsort(x)[0] % 4], "table", 0.5
    ),
    "table as weight": Operation("x", "h", lambda p, x: x[:4] @ p.weight, "table", 0.6),
}  # fmt: skip
SEQUENCE: dict[str, Operation] = {
    "in": Operation("x", "t", lambda p, x: jax.vmap(p)(x), "in", 2.0),
    "hidden": Operation("t", "t", lambda p, t: jax.vmap(p)(t), "hidden", 5.0),
    "no bias": Operation("t", "t", lambda p, t: jax.vmap(p)(t), "hidden, no bias", 2.0),
    "by product": Operation("t", "t", lambda p, t: t @ p.weight.T, "hidden", 0.7),
    "transposed": Operation("t", "t", lambda p, t: t @ p.weight, "hidden", 0.7),
    "norm": Operation("t", "t", lambda p, t: jax.vmap(p)(t), "norm", 2.0),
    "positions": Operation("t", "t", lambda p, t: t + p.weight, "positions", 0.6),
    "mixed by weights": Operation("t", "t", lambda p, t: p.weight @ t, "mixing", 0.5),
    "convolved": Operation(
        "t", "t", lambda p, t: p(jnp.pad(t, ((1, 0), (0, 0))).T).T, "kernel", 1.5
    ),
    "depthwise": Operation(
        "t", "t", lambda p, t: p(jnp.pad(t, ((1, 0), (0, 0))).T).T, "depthwise", 0.4
    ),
    "over time": Operation("t", "h", words.over_time, "hidden, no bias", 1.0),
    "outputs over time": Operation(
        "t", "t", words.outputs_over_time, "hidden", 1.0
    ),
    "flattened": Operation("t", "h", lambda p, t: p(t.ravel()), "flat", 1.0),
    "mean": Operation("t", "h", lambda t: jnp.mean(t, 0), weight=1.0),
    "sum": Operation("t", "h", lambda t: jnp.sum(t, 0), weight=0.5),
    "last": Operation("t", "h", lambda t: t[-1], weight=0.7),
    "of units": Operation("h", "h", lambda p, h: p(relu(h)), "hidden", 1.0),
    "norm of units": Operation("h", "h", lambda p, h: p(h), "norm", 0.5),
    "sum of units": Operation("hh", "h", lambda a, b: a + b, weight=0.7),
    "sine of units": Operation("h", "h", jnp.sin, weight=0.5),
    "largest": Operation("t", "h", lambda t: jnp.max(t, 0), weight=0.4),
    "weighted mean": Operation(
        "tx", "h", lambda t, x: jax.nn.softmax(x[:, 0]) @ t, weight=0.7
    ),
    "chosen by input": Operation(
        "tx", "h", lambda t, x: t[jnp.argmax(x[:, 0])], weight=0.7
    ),
    "ordered by input": Operation(
        "tx", "t", lambda t, x: t[jnp.argsort(x[:, 0])], weight=0.7
    ),
    "masked": Operation(
        "tx", "t", lambda t, x: jnp.where(x[:, :1] > 0, t, 0.0), weight=0.7
    ),
    "graph of inputs": Operation(
        "tx", "t", lambda t, x: jax.nn.softmax(x @ x.T) @ t, weight=0.7
    ),
    "segments": Operation(
        "tx", "t",
        lambda t, x: jax.ops.segment_sum(t, (x[:, 0] > 0).astype(jnp.int32), TOKENS),
        weight=0.5,
    ),
    "reversed": Operation("t", "t", lambda t: t[::-1], weight=0.7),
    "running sum": Operation("t", "t", lambda t: jnp.cumsum(t, 0), weight=0.7),
    "sorted": Operation("t", "t", lambda t: jnp.sort(t, 0), weight=0.3),
    "differences": Operation("t", "t", lambda t: t - jnp.roll(t, 1, 0), weight=0.7),
    "fixed mix": Operation(
        "t", "t", lambda t: jnp.asarray(np.tri(TOKENS)) @ t / 2, weight=0.7
    ),
    "centred": Operation(
        "t", "t", lambda t: t - jnp.mean(t, 0, keepdims=True), weight=0.7
    ),
    "centred over units": Operation(
        "t", "t", lambda t: t - jnp.mean(t, 1, keepdims=True), weight=0.7
    ),
    "norm over all": Operation(
        "t", "t", lambda t: t / jnp.sqrt(0.1 + jnp.var(t)), weight=0.7
    ),
    "norm over tokens": Operation(
        "t", "t", lambda t: t / jnp.sqrt(0.1 + jnp.mean(t**2, 0)), weight=0.5
    ),
    "transposed tokens": Operation(
        "t", "t", lambda t: t.T.reshape(t.shape), weight=0.4
    ),
    "softmax over tokens": Operation(
        "t", "t", lambda t: jax.nn.softmax(t, 0), weight=0.3
    ),
    "padded": Operation("t", "t", lambda t: jnp.pad(t, ((1, 0), (0, 0)))[:-1]),
    "pooled": Operation(
        "t", "t",
        lambda t: lax.reduce_window(t, 0.0, lax.add, (2, 1), (1, 1), "SAME") / 2,
    ),
    "attention of tied softmax": Operation(
        "t", "t", lambda t: words.attention(t, t, t, 1.0, True), weight=0.7
    ),
    "linear attention": Operation(
        "ttt", "t", lambda q, k, v: words.attention(q, k, v, 1.0, False), weight=0.7
    ),
    "softmax attention": Operation(
        "ttt", "t", lambda q, k, v: words.attention(q, k, v, 1.0, True), weight=0.7
    ),
    "attention over root": Operation(
        "ttt", "t", lambda q, k, v: words.attention(q, k, v, 0.5, False), weight=0.5
    ),
    "softmax over root": Operation(
        "ttt", "t", lambda q, k, v: words.attention(q, k, v, 0.5, True), weight=0.4
    ),
    "unit mixing": Operation("t", "t", lambda t: t @ t.T @ t / t.size, weight=0.5),
    "sum of tokens": Operation("tt", "t", lambda a, b: a + b, weight=3.0),
    "product of tokens": Operation("tt", "t", lambda a, b: a * b, weight=1.0),
    "gate of tokens": Operation("tt", "t", lambda a, b: a * jax.nn.sigmoid(b)),
    "relu of tokens' sum": Operation("tt", "t", lambda a, b: relu(a + b)),
    "side by side": Operation(
        "tt", "t", lambda a, b: jnp.concatenate([a[:2], b[:1]]), weight=0.7
    ),
    "to all tokens": Operation("th", "t", lambda t, h: t + h[None], weight=0.7),
    "times unit": Operation("th", "t", lambda t, h: t * h[None], weight=0.7),
}  # fmt: skip
ENDS: dict[str, tuple[Any, float]] = {
    "": (lambda y: y, 12.0),
    "centred": (lambda y: y - jnp.mean(y), 1.0),
    "normed": (lambda y: y * jnp.sqrt(y.size) / jnp.linalg.norm(y), 0.7),
    "softmax": (lambda y: jax.nn.softmax(y) * y.size, 0.5),
    "plus reversed": (lambda y: y + y[::-1], 0.5),
    "sum of halves": (lambda y: y[: y.size // 2] + y[y.size // 2 :], 0.7),
    "tanh": (tanh, 1.0),
    "relu": (relu, 0.7),
    "mean": (lambda y: jnp.mean(y, keepdims=True), 0.7),
    "square": (lambda y: jnp.outer(y, y)[0], 0.4),
}
"""What is done to outputs."""


def _filled() -> None:
    for name, (function, weight) in words.POINTWISE.items():
        VECTOR[name] = Operation("h", "h", function, weight=0.5 * weight)
        if name != "of a derivative":
            SEQUENCE[name] = Operation("t", "t", function, weight=0.4 * weight)
    for table, takes, gives in (
        (words.UNITS, "h", "h"), (words.NUMBERS, "h", "s"),
        (words.OF_NUMBERS, "s", "s"),
        (words.WITH_NUMBERS, "hs", "h"), (words.PAIRS, "hh", "h"),
        (words.WITH_EXAMPLES, "hx", "h"),
    ):  # fmt: skip
        for name, (function, weight) in table.items():
            VECTOR[f"{takes} {name}"] = Operation(takes, gives, function, weight=weight)


_filled()


class Statement(NamedTuple):
    """An operation, the numbers of its operands, and that of its layer."""

    name: str
    operands: tuple[int, ...]
    layer: int | None


class Sentence(NamedTuple):
    """A model.

    Attributes:
        is_sequence: whether an example is several tokens.
        statements: in order; the example is number 0, their results the next ones.
        layers: their names.
        end: what is done to the outputs.
        scheme: the parameterization.
        rates: the learning rate of each layer and of the readout; empty for ones.
        is_image: whether an example is an image.
        readout: the name of the last layer.
    """

    is_sequence: bool
    statements: tuple[Statement, ...]
    layers: tuple[str, ...]
    end: str
    scheme: str
    rates: tuple[float, ...] = ()
    is_image: bool = False
    readout: str = "read"

    @property
    def words(self) -> dict[str, Operation]:
        """The operations that it may be made of."""
        if self.is_image:
            return images.IMAGE
        if self.is_sequence:
            return SEQUENCE | MORE_SEQUENCE | LAST_SEQUENCE
        return VECTOR | MORE_VECTOR | LAST_VECTOR

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an example."""
        if self.is_image:
            return images.SHAPE
        return (TOKENS, IN) if self.is_sequence else (IN,)

    @property
    def finite(self) -> tuple[int, ...]:
        """The numbers of the layers whose own axes do not go to infinity."""
        every = (*self.layers, self.readout)
        return tuple(i for i, name in enumerate(every) if name.startswith("finite"))

    def __str__(self) -> str:
        lines = [
            f"{i} = {s.name}({', '.join(map(str, s.operands))})"
            + ("" if s.layer is None else f" by {s.layer}")
            for i, s in enumerate(self.statements, 1)
        ]
        end = f" -> {self.end}" if self.end else ""
        rates = f" {self.rates}" if self.rates else ""
        read = "" if self.readout == "read" else f" -> {self.readout}"
        return f"{'; '.join(lines)}{read}{end} [{self.scheme}{rates}]"

    def build(self, n: int, key: Any, is_spelt: bool = True) -> Net:
        """The model of this width, with what primitives do written out, or not."""
        keys = jr.split(key, len(self.layers) + 1)
        names = (*self.layers, self.readout)
        layers = [LAYERS[name](n, k) for name, k in zip(names, keys, strict=True)]
        return Net(layers, _Call(self, is_spelt))


class _Call(NamedTuple):
    sentence: Sentence
    is_spelt: bool

    def __call__(self, layers: Any, x: Any) -> Any:
        with spelt() if self.is_spelt else nullcontext():
            return self._result(layers, x)

    def _result(self, layers: Any, x: Any) -> Any:
        values = [x]
        for statement in self.sentence.statements:
            operation = self.sentence.words[statement.name]
            given = [] if statement.layer is None else [layers[statement.layer]]
            values.append(
                operation.call(*given, *(values[i] for i in statement.operands))
            )
        return ENDS[self.sentence.end][0](layers[-1](values[-1]))


def sentence(seed: int) -> Sentence:
    """The model of a seed."""
    rng = np.random.default_rng(seed)
    is_sequence = bool(rng.random() < 0.35)
    table = SEQUENCE if is_sequence else VECTOR
    if seed >= FIRST_OF_MORE:
        table = table | (MORE_SEQUENCE if is_sequence else MORE_VECTOR)
    is_image, readout = False, "read"
    if seed >= FIRST_OF_LAST:
        table = table | (LAST_SEQUENCE if is_sequence else LAST_VECTOR)
        is_image = bool(rng.random() < 0.6)
        is_sequence = is_sequence and not is_image
        table = images.IMAGE if is_image else table
        readout = "read" if rng.random() < 0.7 else "finite read"
    one_start = is_sequence or is_image or rng.random() < 0.9
    start = "in" if one_start else "in, no bias"
    layer_of_start = table[start].layer
    assert layer_of_start is not None
    statements, layers = [Statement(start, (0,), 0)], [layer_of_start]
    kinds = ["x", table[start].gives]
    length = int(rng.integers(3, 8))
    while len(statements) < length or kinds[-1] != "h":
        last = len(statements) >= length
        name = _chosen(rng, table, kinds, last)
        operation = table[name]
        operands = tuple(_operand(rng, kinds, kind) for kind in operation.takes)
        layer = None
        if operation.layer is not None:
            old = [i for i, n in enumerate(layers) if n == operation.layer]
            if old and rng.random() < 0.4:
                layer = int(rng.choice(old))
            else:
                layer = len(layers)
                layers.append(operation.layer)
        statements.append(Statement(name, operands, layer))
        kinds.append(operation.gives)
    ends = list(ENDS)
    weights = np.array([w for _, w in ENDS.values()])
    if readout != "read":  # one output fluctuates too much; a square has all pairs
        weights *= [name not in ("mean", "square") for name in ends]
        weights[ends.index("")] /= 4
    end = ends[rng.choice(len(ends), p=weights / weights.sum())]
    scheme = "ntk" if rng.random() < 0.85 else "standard"
    rates: tuple[float, ...] = ()
    if seed >= FIRST_OF_MORE and rng.random() < 0.5:
        of_layers = rng.choice([0.0, 0.3, 1.0, 2.0], len(layers)).tolist()
        rates = (*of_layers, 1.0)
    found = Sentence(
        is_sequence, tuple(statements), tuple(layers), end, scheme, rates, is_image,
        readout,
    )  # fmt: skip
    return needed(found)


def _chosen(rng: Any, table: dict[str, Operation], kinds: list[str], last: bool) -> str:
    names = [
        name
        for name, o in table.items()
        if all(kind in kinds for kind in o.takes) and (not last or o.gives == "h")
    ]
    weights = np.array([table[name].weight for name in names])
    return names[rng.choice(len(names), p=weights / weights.sum())]


def _operand(rng: Any, kinds: list[str], kind: str) -> int:
    several = [i for i, k in enumerate(kinds) if k == kind]
    weights = np.array([0.5 ** (len(several) - i) for i in range(len(several))])
    return int(several[rng.choice(len(several), p=weights / weights.sum())])


def needed(whole: Sentence) -> Sentence:
    """Without statements and layers that the output does not depend on."""
    used, kept = {len(whole.statements)}, []
    for i in range(len(whole.statements), 0, -1):
        if i in used:
            used |= set(whole.statements[i - 1].operands)
            kept.append(i)
    kept.reverse()
    number = {0: 0} | {old: new for new, old in enumerate(kept, 1)}
    old_layers = sorted({
        s.layer for i in kept if (s := whole.statements[i - 1]).layer is not None
    })  # fmt: skip
    statements = tuple(
        Statement(
            s.name,
            tuple(number[j] for j in s.operands),
            None if s.layer is None else old_layers.index(s.layer),
        )
        for s in (whole.statements[i - 1] for i in kept)
    )
    layers = tuple(whole.layers[i] for i in old_layers)
    rates = whole.rates and (*(whole.rates[i] for i in old_layers), whole.rates[-1])
    return whole._replace(statements=statements, layers=layers, rates=rates)


def shorter(whole: Sentence) -> list[Sentence]:
    """Sentences with one statement less, or a simpler end."""
    found = [whole._replace(end="")] if whole.end else []
    for i, s in enumerate(whole.statements, 1):
        kind = whole.words[s.name].gives
        for j in s.operands:
            mine = "x" if j == 0 else whole.words[whole.statements[j - 1].name].gives
            if mine == kind:
                turned = lambda k, i=i, j=j: j if k == i else k
                statements = tuple(
                    t._replace(operands=tuple(map(turned, t.operands)))
                    for t in whole.statements
                )
                if i == len(statements):
                    statements = statements[:j]
                found.append(needed(whole._replace(statements=statements)))
                break
    return found
