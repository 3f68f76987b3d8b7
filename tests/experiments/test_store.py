import dataclasses
import enum
import json
import os
import stat

import pytest
import yaml

from experiments import store
from experiments.reading import InputError, load_runs
from experiments.schema import Config, identity
from experiments.tables import CURVE_COLUMNS

from .commands import config, options

GROUPS = {group: names for group, names in options().items() if group != "experiment"}
SUMMARY = {"n_params": 7, "rmse_test": 0.25}


def at(tmp_path, *overrides) -> Config:
    return config(f"output_dir={tmp_path}", "study=mine", *overrides)


def write(run, value=0.25):
    row = (store.run_id(run), run.seed, "exact", "all", 4, 0.5, "test", "rmse", value)
    summary = {**SUMMARY, "rmse_test": value}
    return store.write_done(run, [row], list(CURVE_COLUMNS), summary, seconds=1.5)


def other(value, kind):
    """Another value of a config field."""
    if isinstance(kind, enum.EnumMeta):
        return next(member for member in kind if member is not value)
    if kind is bool:
        return not value
    return value[::-1] if isinstance(value, list) else value + 1


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


@pytest.mark.parametrize(
    "choice", [f"{group}={name}" for group, names in GROUPS.items() for name in names]
)
def test_the_id_changes_with_every_value_that_decides_the_results_and_no_other(choice):
    run = config(choice)
    decides = store._flat(identity(run)).keys() | {"seed"}
    for key, changed in changed_once(run):
        assert (store.run_id(changed) != store.run_id(run)) == (key in decides), key


@pytest.mark.parametrize(
    "overrides",
    ["proj_dim=7", "n_samples=7", "study=else", "output_dir=else", "force=true",
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
    assert (store.RESULTS_FORMAT, store.run_id(run)) == (1, "r76ce541c8f34")


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
    assert provenance["seconds"] == 1.5
    assert provenance["packages"]["jax"]
    assert provenance["devices"]
    assert store.status(place) == "DONE"


def test_others_may_read_a_run(tmp_path):
    place = write(at(tmp_path))
    assert stat.S_IMODE(place.stat().st_mode) == 0o755


def test_a_run_that_failed_gives_way_to_one_that_did_not(tmp_path):
    run = at(tmp_path)
    place = store.write_failed(run, "Traceback ...\nOSError: no luck", 0.1)
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
    assert os.listdir(tmp_path / "mine") == [store.run_id(run)]


def test_a_repetition_that_fails_leaves_the_finished_results(tmp_path):
    run = at(tmp_path)
    write(run)
    place = store.write_failed(run, "OSError: no luck", 0.1)
    assert store.status(place) == "DONE"
    assert (place / "error.txt").read_text() == "OSError: no luck"
    summaries, _ = load_runs(tmp_path)
    assert summaries["rmse_test"].tolist() == [0.25]


class Killed(BaseException):
    """Ends a process at once; no `except Exception` catches it."""


def no_cleaning(monkeypatch):
    """A killed process does not remove its files either."""
    monkeypatch.setattr(store.shutil, "rmtree", lambda *args, **kwargs: None)


@pytest.mark.parametrize("n_renamed", [0, 1])
def test_a_kill_at_a_rename_leaves_the_run_whole_or_not_at_all(
    tmp_path, monkeypatch, n_renamed
):
    # First the old run is moved aside, then the new one into its place.
    run = at(tmp_path)
    write(run, value=1.0)
    write(at(tmp_path, "seed=1"), value=3.0)
    renames, rename = [], os.rename

    def kill(source, target):
        if len(renames) == n_renamed:
            raise Killed
        renames.append(rename(source, target))

    with monkeypatch.context() as patch:
        patch.setattr(store.os, "rename", kill)
        no_cleaning(patch)
        with pytest.raises(Killed):
            write(run, value=2.0)
    summaries, curves = load_runs(tmp_path)
    assert sorted(summaries["rmse_test"]) == [[1.0, 3.0], [3.0]][n_renamed]
    assert len(curves) == len(summaries)
    # what was left behind does not hinder the next attempt
    write(run, value=2.0)
    assert sorted(load_runs(tmp_path)[0]["rmse_test"]) == [2.0, 3.0]


@pytest.mark.parametrize("n_written", range(5))
def test_a_kill_while_writing_leaves_no_run(tmp_path, monkeypatch, n_written):
    run = at(tmp_path)
    written, fsync = [], os.fsync

    def kill(file):
        if len(written) == n_written:
            raise Killed
        written.append(fsync(file))

    with monkeypatch.context() as patch:
        patch.setattr(store.os, "fsync", kill)
        no_cleaning(patch)
        with pytest.raises(Killed):
            write(run)
    (left,) = os.listdir(tmp_path / "mine")
    assert left.startswith(".")
    assert store.status(store.directory(run)) is None
    with pytest.raises(InputError, match="There are no runs in"):
        load_runs(tmp_path)


def test_an_error_while_writing_cleans_up(tmp_path, monkeypatch):
    def full(file):
        raise OSError("No space left on device")

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(at(tmp_path))
    assert os.listdir(tmp_path / "mine") == []


def test_a_rename_that_fails_puts_the_finished_run_back(tmp_path, monkeypatch):
    run = at(tmp_path)
    write(run, value=1.0)
    rename = os.rename

    def broken(source, target):
        if target == store.directory(run) and not source.name.endswith(".old"):
            raise OSError("Input/output error")
        rename(source, target)

    monkeypatch.setattr(store.os, "rename", broken)
    with pytest.raises(OSError, match="Input/output error"):
        write(run, value=2.0)
    assert load_runs(tmp_path)[0]["rmse_test"].tolist() == [1.0]


def test_of_two_processes_that_finish_one_run_the_first_wins_silently(
    tmp_path, monkeypatch
):
    run = at(tmp_path)
    rename = os.rename

    def overtaken(source, target):
        if target == store.directory(run):
            monkeypatch.setattr(store.os, "rename", rename)
            write(run, value=1.0)
        rename(source, target)

    monkeypatch.setattr(store.os, "rename", overtaken)
    write(run, value=2.0)
    assert load_runs(tmp_path)[0]["rmse_test"].tolist() == [1.0]
    assert os.listdir(tmp_path / "mine") == [store.run_id(run)]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_status_that_cannot_be_read_is_no_status(tmp_path, text):
    (tmp_path / "status.json").write_text(text)
    assert store.status(tmp_path) is None
