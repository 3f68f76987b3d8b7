"""Whether a composed config can be run: every problem at once, and what to type.

Imports no jax, so that a refused value answers at once.
"""

import dataclasses
import difflib
import enum
import math
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments import question
from experiments.question import AnalysisConfig
from experiments.schema import (
    CHOICES,
    LARGEST_SEED,
    ClaimsConfig,
    Config,
    ConfigError,
    DigitsConfig,
    Dynamics,
    Loss,
    Scheme,
)


def typed(config: DictConfig) -> Config:
    """The config as dataclasses, checked.

    Raises:
        ConfigError: naming each value out of its range, the range, and what to type.
    """
    found = OmegaConf.to_object(config)
    assert isinstance(found, Config)
    problems = [*_out_of_range(found, ""), *_contradictions(found)]
    # A short name is repeated in the group that refers to it: once is enough.
    problems = [p for p in problems if not any(p.endswith(f".{q}") for q in problems)]
    if problems:
        raise ConfigError("\n".join(problems))
    return found


def nearest_key(wrong: str) -> str | None:
    """The config key that a mistyped one most likely meant."""
    keys = _kinds()
    wrong = wrong.lstrip("+~")
    if wrong in keys or wrong.startswith(("hydra", "experiment")):
        return None
    initials = {_initials(key): key for key in sorted(keys, reverse=True)}
    if wrong in initials:  # `optimizer.lr`
        return initials[wrong]
    close = difflib.get_close_matches(wrong, sorted(keys), n=1, cutoff=0.6)
    return close[0] if close else None


def _initials(key: str) -> str:
    group, dot, name = key.rpartition(".")
    return group + dot + "".join(word[:1] for word in name.split("_"))


def nearest_name(key: str, wrong: str) -> str | None:
    """The name that was most likely meant as the value of a key that takes names."""
    kind = _kinds().get(key.lstrip("+~"))
    if not (isinstance(kind, type) and issubclass(kind, enum.Enum)):
        return None
    names = [name.name for name in kind]
    close = difflib.get_close_matches(wrong, names, n=1, cutoff=0.5)
    return close[0] if close and wrong not in names else None


def _kinds() -> dict[str, Any]:
    """The type of the value of every config key."""
    kinds = {f.name: f.type for f in dataclasses.fields(Config)}
    nodes = [(group, n) for group, choices in CHOICES.items() for n in choices.values()]
    for group, node in [*nodes, ("analysis", AnalysisConfig), ("claims", ClaimsConfig)]:
        kinds |= {f"{group}.{f.name}": f.type for f in dataclasses.fields(node)}
    return kinds


def _out_of_range(node: Any, prefix: str) -> Iterator[str]:
    """One line for each number below `node` that is outside its range."""
    for f in dataclasses.fields(node):
        value, name = getattr(node, f.name), f"{prefix}{f.name}"
        if dataclasses.is_dataclass(value):
            yield from _out_of_range(value, f"{name}.")
        elif "low" in f.metadata:
            low, high = f.metadata["low"], f.metadata["high"]
            too_low = value <= low if f.metadata["open_low"] else value < low
            if too_low or value > high or not math.isfinite(value):
                least = "above" if f.metadata["open_low"] else "at least"
                most = "" if math.isinf(high) else f" and at most {high}"
                yield f"{name}={value} is out of range: it must be {least} {low}{most}."


def _contradictions(config: Config) -> Iterator[str]:
    """One line for each pair of values that cannot go together."""
    for group, choices in CHOICES.items():
        node = getattr(config, group)
        if choices.get(getattr(node, "name", ""), type(node)) is not type(node):
            yield (
                f"{group}.name={node.name} does not fit the other values of `{group}`. "
                f"Type {group}={node.name}, which brings its own."
            )
    scheme = config.parameterization.scheme
    if config.kernel.name == "nngp" and scheme is not Scheme.ntk:
        yield (
            "kernel=nngp predicts the training of the last layer alone, whose tangent "
            "kernel is the NNGP kernel in the ntk parameterization only. Type "
            "parameterization=ntk, or kernel=exact."
        )
    yield from question.problems(config.analysis)
    if scheme is Scheme.mean_field and config.model.depth != 1:
        yield (
            f"parameterization=mean_field is that of one hidden layer, but the model "
            f"has depth={config.model.depth}. Type depth=1, or parameterization=mup."
        )
    yield from _no_regime(config)
    yield from _not_given(config)
    last = config.seed + config.seeds - 1
    if config.seed <= LARGEST_SEED < last:
        yield (
            f"seed={config.seed} with seeds={config.seeds} goes up to {last}, but "
            f"{LARGEST_SEED} is the largest seed. Type a smaller seed."
        )
    if config.claims.stale < 3 * config.claims.heartbeat:
        yield (
            f"claims.stale={config.claims.stale} is so close to claims.heartbeat="
            f"{config.claims.heartbeat} that a busy run would be taken for a dead one. "
            f"Type claims.stale={3 * config.claims.heartbeat:g} or more."
        )
    for name in ("study", "output_dir"):
        if not getattr(config, name).strip():
            yield f"{name} is empty; give a name such as {name}=default."
    if any(part[:1] in ("_", ".") for part in config.study.split("/") if part):
        yield (
            f"study={config.study} would not be found again: names that start with `_` "
            "or `.` are not runs. Type another name, or output_dir= for another place."
        )


def _not_given(config: Config) -> Iterator[str]:
    """One line for each function or file of the user's that has no name yet."""
    for group in CHOICES:
        node = getattr(config, group)
        for f in dataclasses.fields(node):
            value = getattr(node, f.name)
            if f.metadata.get("own") == "code" and not _names_a_function(value):
                yield (
                    f"{group}.{f.name}={value} must name a function of yours, as "
                    f"{group}.{f.name}=my_module:{f.name}."
                )
            elif f.metadata.get("own") == "file" and not value:
                yield f"{group}.{f.name} is empty; type {group}.{f.name}=FILE."


def _names_a_function(text: str) -> bool:
    module, _, name = text.partition(":")
    return name.isidentifier() and all(p.isidentifier() for p in module.split("."))


_REGRESSIONS = ("diabetes", "teacher", "image")


def _no_regime(config: Config) -> Iterator[str]:
    """One line for each reason why nothing predicts what is asked for."""
    if config.dynamics is Dynamics.flow and config.optimizer.name != "sgd":
        yield (
            f"optimizer={config.optimizer.name} takes steps that no gradient flow "
            "follows. Type dynamics=descent, or optimizer=sgd."
        )
    if config.loss not in (Loss.softmax, Loss.logistic):
        return
    dataset = config.dataset
    if isinstance(dataset, DigitsConfig):
        wanted = Loss.logistic if len(dataset.classes) == 2 else Loss.softmax
        if config.loss is not wanted:
            yield (
                f"loss={config.loss.name} does not fit the {len(dataset.classes)} "
                f"classes of dataset.classes={list(dataset.classes)}. Type loss="
                f"{wanted.name}."
            )
    elif dataset.name in _REGRESSIONS:
        yield (
            f"loss={config.loss.name} needs classes, but dataset={dataset.name} is a "
            "regression. Type loss=mean, or dataset=digits_3v8 or dataset=digits10."
        )
