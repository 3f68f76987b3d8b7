import dataclasses
import enum
import math
import re

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import ValidationError

from experiments import identity, schema, validation
from experiments.schema import Config, ConfigError

from .commands import compose, config, options

GROUPS = {group: names for group, names in options().items() if group != "experiment"}
# The root stands for the values that are in no group.
EVERY_CHOICE = [("", ""), ("analysis", "")] + [
    (group, option) for group, names in GROUPS.items() for option in names
]
every_choice = pytest.mark.parametrize("group, option", EVERY_CHOICE)


# What else a choice needs to go with the others.
COMPANIONS = {
    ("parameterization", "mean_field"): ["depth=1"],
    ("model", "custom"): ["model.build=mine:build"],
    ("kernel", "custom"): ["kernel.build=mine:kernel"],
    ("dataset", "custom"): ["dataset.build=mine:data"],
    ("dataset", "file"): ["dataset.path=mine.csv"],
}


def composed(group, option):
    if not option:
        return compose()
    return compose(f"{group}={option}", *COMPANIONS.get((group, option), []))


def fields_of(typed, group):
    """The keys of a choice, and the fields that declare them."""
    node = getattr(typed, group) if group else typed
    for f in dataclasses.fields(node):
        if not dataclasses.is_dataclass(getattr(node, f.name)):
            yield f"{group}.{f.name}".lstrip("."), f


def beyond(f):
    """Values out of a field's range, and what is to be said of the range."""
    low, high = f.metadata["low"], f.metadata["high"]
    least = f"above {low}" if f.metadata["open_low"] else f"at least {low}"
    yield f.type(low - 1), least
    if f.metadata["open_low"]:
        yield f.type(low), least
    if f.type is float:
        yield from ((math.nan, least), (math.inf, least), (-math.inf, least))
    if high < math.inf:
        yield f.type(high + 1), f"at most {high}"


@every_choice
def test_every_number_out_of_its_range_is_refused_with_key_value_and_range(
    group, option
):
    good = composed(group, option)
    for key, f in fields_of(validation.typed(good), group):
        for value, words in beyond(f) if "low" in f.metadata else ():
            bad = good.copy()
            OmegaConf.update(bad, key, value)
            text = re.escape(f"{key}={value} is out of range: it must be") + ".*"
            with pytest.raises(ConfigError, match=text + re.escape(words)):
                validation.typed(bad)


@every_choice
def test_every_number_has_a_range(group, option):
    for key, f in fields_of(validation.typed(composed(group, option)), group):
        assert ("low" in f.metadata) == (f.type in (int, float)), key


@every_choice
def test_every_value_of_a_wrong_type_is_refused_with_its_key(group, option):
    good = composed(group, option)
    for key, f in fields_of(validation.typed(good), group):
        if f.type in (str, str | None):
            continue
        with pytest.raises(ValidationError, match=f"full_key: {re.escape(key)}"):
            OmegaConf.update(good, key, "no such thing")


@every_choice
def test_an_unknown_word_is_refused_with_the_words_there_are(group, option):
    good = composed(group, option)
    for key, f in fields_of(validation.typed(good), group):
        if isinstance(f.type, enum.EnumMeta):
            with pytest.raises(ValidationError, match=", ".join(f.type.__members__)):
                OmegaConf.update(good, key, "hinge")


@pytest.mark.parametrize(
    "overrides, text",
    [
        (
            "dataset.name=teacher",
            "dataset.name=teacher does not fit.*Type dataset=teacher",
        ),
        ("model.name=cnn", "model.name=cnn does not fit.*Type model=cnn"),
        (
            "kernel=nngp parameterization=standard",
            "kernel=nngp .*Type parameterization=ntk",
        ),
        (
            "kernel=nngp parameterization=equinox",
            "kernel=nngp .*Type parameterization=ntk",
        ),
        (
            "+analysis.expect={drift:{metric:kernel_drift,value:[1,-1]}}",
            r"expect.drift.value=\[1.0, -1.0\] must be the lowest",
        ),
        (
            "claims.stale=20",
            "claims.stale=20.0 is so close to claims.heartbeat=.*Type claims.stale=30",
        ),
        ("study=''", "study is empty; give a name such as study=default"),
        ("output_dir=''", "output_dir is empty"),
        (
            "study=_tables",
            "study=_tables would not be found again: names that start with",
        ),
        ("study=../else", "study=../else would not be found again.*output_dir="),
        (
            "seed=4294967290 seeds=7",
            "goes up to 4294967296, but 4294967295 is the largest",
        ),
        ("seed=4294967296", "seed=4294967296 is out of range: .*at most 4294967295"),
    ],
)
def test_values_that_cannot_go_together_are_refused_with_what_to_type(overrides, text):
    with pytest.raises(ConfigError, match=text):
        validation.typed(compose(*overrides.split()))


def test_all_problems_are_said_at_once_and_each_once():
    with pytest.raises(ConfigError) as refused:
        config("width=0", "ridge=-1", "model=siren", "model.omega=0")
    assert str(refused.value).splitlines() == [
        "model.omega=0.0 is out of range: it must be above 0.",
        "ridge=-1.0 is out of range: it must be at least 0.",
        "width=0 is out of range: it must be at least 1.",
    ]


@pytest.mark.parametrize(
    "wrong, meant",
    [
        ("projdim", "proj_dim"),
        ("model.widht", "model.width"),
        ("+widht", "width"),
        ("nsamples", "n_samples"),
        ("dataset.teacher_widht", "dataset.teacher_width"),
        ("optimizer.lr_unit", "optimizer.learning_rate_unit"),
        ("analysis.afer_sweep", "analysis.after_sweep"),
        ("parametrization", "parameterization"),
    ],
)
def test_a_mistyped_key_has_a_nearest_one(wrong, meant):
    assert validation.nearest_key(wrong) == meant


@pytest.mark.parametrize(
    "key",
    ["width", "kernel.proj_dim", "experiment", "hydra.mode", "hydra/launcher", "zzz"],
)
def test_a_key_that_exists_or_resembles_none_has_no_nearest_one(key):
    assert validation.nearest_key(key) is None


def test_every_choice_of_the_schema_has_a_file_that_uses_it():
    used = {group: set() for group in schema.CHOICES}
    for group, names in GROUPS.items():
        for option in names:
            used[group].add(
                type(getattr(validation.typed(composed(group, option)), group))
            )
    declared = {group: set(nodes.values()) for group, nodes in schema.CHOICES.items()}
    assert used == declared


def test_the_short_names_reach_the_groups_that_use_them():
    got = config(
        "kernel=mc",
        "width=3",
        "depth=4",
        "proj_dim=5",
        "n_train=6",
        "n_test=7",
        "steps=8",
    )
    assert (got.model.width, got.model.depth, got.time_grid.steps) == (3, 4, 8)
    plain = identity.plain(got)
    assert plain["kernel"]["proj_dim"] == 5
    assert (plain["dataset"]["n_train"], plain["dataset"]["n_test"]) == (6, 7)
    plain = identity.plain(config("kernel=nngp", "n_samples=9"))
    assert plain["kernel"]["n_samples"] == 9


def test_a_config_as_plain_values_has_neither_objects_nor_enums():
    def leaves(value):
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, list):
            return [leaf for item in value for leaf in leaves(item)]
        return [value]

    plain = identity.plain(
        validation.typed(
            compose("+analysis.expect={e:{metric:rmse_test,value:[-1,0]}}")
        )
    )
    assert {type(leaf) for leaf in leaves(plain)} <= {int, float, str, bool, type(None)}
    assert list(plain) == [f.name for f in dataclasses.fields(Config)]
    assert plain["loss"] == "sum"
    assert plain["analysis"]["expect"]["e"]["value"] == [-1, 0]
