import dataclasses
import enum
import json
import os
import stat

import pytest
import yaml

from experiments import store
from experiments.identity import identity
from experiments.reading import load_runs
from experiments.schema import Config
from experiments.tables import CURVE_COLUMNS

from .commands import config, options

GROUPS = {group: names for group, names in options().items() if group != "experiment"}
SUMMARY = {"n_params": 7, "rmse_test": 0.25}


def at(tmp_path, *overrides) -> Config:
    return config(f"output_dir={tmp_path}", "study=mine", *overrides)


RECORD = {"seconds": 1.5}


def claimed(run):
    claim = store.claim(run, {})
    assert claim is not None
    return claim


def write(run, value=0.25, claim=None):
    row = (store.run_id(run), run.seed, "exact", "all", 4, 0.5, "test", "rmse", value)
    summary = {**SUMMARY, "rmse_test": value}
    return store.write_done(
        run, claim or claimed(run), [row], list(CURVE_COLUMNS), summary, RECORD
    )


def write_failed(run, error):
    return store.write_failed(run, claimed(run), error, RECORD)


def other(value, kind):
    """Another value of a config field."""
    if isinstance(kind, enum.EnumMeta):
        return next(member for member in kind if member is not value)
    if kind is bool:
        return not value
    if isinstance(value, list):
        return [*value, *value, "more"]
    return 1 if value is None else value + 1


def changed_once(node, prefix=""):
    """Copies of a config that differ from it in one value, by the key of that value."""
    for f in dataclasses.fields(node):
        value = getattr(node, f.name)
        if dataclasses.is_dataclass(value):
            for key, changed in changed_once(value, f"{prefix}{f.name}."):
                yield key, dataclasses.replace(node, **{f.name: changed})
        elif f.type not in (str, str | None) and not isinstance(value, dict):
            changed = dataclasses.replace(node, **{f.name: other(value, f.type)})
            yield f"{prefix}{f.name}", changed


# What a user's own code and files do to the id is asked in `test_own_things`.
@pytest.mark.parametrize(
    "choice",
    [
        f"{group}={name}"
        for group, names in GROUPS.items()
        for name in names
        if name not in ("custom", "file")
    ],
)
def test_the_id_changes_with_every_value_that_decides_the_results_and_no_other(choice):
    run = config(choice, "depth=1")
    decides = store._flat(identity(run)).keys() | {"seed"}
    for key, changed in changed_once(run):
        assert (store.run_id(changed) != store.run_id(run)) == (key in decides), key


@pytest.mark.parametrize(
    "overrides",
    ["proj_dim=7", "n_samples=7", "study=else", "output_dir=else", "force=true",
     "retry=false", "dry_run=true", "compilation_cache=false", "claims.stale=900",
     "claims.heartbeat=1", "objective=rmse_test",
     "seeds=3", "analysis.question=why analysis.x_from=3", "ridge=0", "loss=sum"],
)  # fmt: skip
def test_what_the_results_do_not_depend_on_leaves_the_id(overrides):
    assert store.run_id(config(*overrides.split())) == store.run_id(config())


def test_the_same_values_given_through_short_names_or_groups_are_one_run():
    by_group = config("model.width=64", "dataset.n_train=10")
    assert store.run_id(by_group) == store.run_id(config("width=64", "n_train=10"))


def test_ids_are_those_of_the_results_on_disk():
    # A change here orphans every result that anybody has: make it only together with
    # `RESULTS_FORMAT`, when the meaning of a value or of a result has changed.
    run = config(
        "width=256", "depth=2", "n_train=64", "n_test=64", "steps=256",
        "time_grid.n_times=10", "optimizer.learning_rate=0.5", "model.activation=erf",
        "kernel.batch_size=32", "parameterization.weight_variance=2",
        "parameterization.bias_variance=0.01",
    )  # fmt: skip
    assert (store.RESULTS_FORMAT, store.run_id(run)) == (2, "ra9ac864ed3b4")


def test_what_is_written_is_read_back(tmp_path):
    run = at(tmp_path, "kernel=mc", "seed=5")
    place = write(run)
    assert place == tmp_path / "mine" / store.run_id(run)
    assert sorted(os.listdir(place)) == [
        "config.yaml", "curves.csv", "provenance.json", "status.json", "summary.csv",
    ]  # fmt: skip
    summaries, curves = load_runs(tmp_path)
    (row,) = summaries.to_dict("records")
    assert row["run"] == store.run_id(run)
    assert (row["seed"], row["kernel.proj_dim"], row["rmse_test"]) == (5, 1000, 0.25)
    assert row["model.activation"] == "erf"
    (curve,) = curves.to_dict("records")
    assert (curve["metric"], curve["step"], curve["value"]) == ("rmse", 4, 0.25)


def test_a_run_says_what_it_was_and_what_it_was_computed_with(tmp_path):
    place = write(at(tmp_path, "seeds=1"))
    written = yaml.safe_load((place / "config.yaml").read_text())
    assert (written["model"]["width"], written["loss"], written["seeds"]) == (
        256,
        "sum",
        1,
    )
    provenance = json.loads((place / "provenance.json").read_text())
    assert provenance == RECORD
    assert store.status(place) == "DONE"


def test_others_may_read_a_run(tmp_path):
    place = write(at(tmp_path))
    assert stat.S_IMODE(place.stat().st_mode) == 0o755


def test_a_run_that_failed_gives_way_to_one_that_did_not(tmp_path):
    run = at(tmp_path)
    place = write_failed(run, "Traceback ...\nOSError: no luck")
    assert store.status(place) == "FAILED"
    assert (place / "error.txt").read_text().endswith("no luck")
    assert not (place / "summary.csv").exists()
    assert write(run) == place
    assert store.status(place) == "DONE"
    assert not (place / "error.txt").exists()


def test_a_repetition_replaces_the_results(tmp_path):
    run = at(tmp_path)
    write(run, value=1.0)
    write(run, value=2.0)
    summaries, _ = load_runs(tmp_path)
    assert summaries["rmse_test"].tolist() == [2.0]
    assert sorted(os.listdir(tmp_path / "mine")) == ["_running", store.run_id(run)]
    assert os.listdir(tmp_path / "mine" / "_running") == []


def test_a_repetition_that_fails_leaves_the_finished_results(tmp_path):
    run = at(tmp_path)
    write(run)
    place = write_failed(run, "OSError: no luck")
    assert store.status(place) == "DONE"
    assert (place / "error.txt").read_text() == "OSError: no luck"
    assert os.listdir(tmp_path / "mine" / "_running") == []
    summaries, _ = load_runs(tmp_path)
    assert summaries["rmse_test"].tolist() == [0.25]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_status_that_cannot_be_read_is_no_status(tmp_path, text):
    (tmp_path / "status.json").write_text(text)
    assert store.status(tmp_path) is None
