import json
import re

import pytest
import yaml

from experiments import job, notebook, provenance, rerun, store
from experiments.rerun import NotFound

from .commands import SMALL, small

pytestmark = pytest.mark.usefixtures("runs_may_set_jax")

RUN = ("loss=mean", "seed=3")


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return tmp_path_factory.mktemp("output")


@pytest.fixture
def place(output):
    """A run, computed once and read by every test."""
    notebook.run([f"output_dir={output}", *SMALL, *RUN])
    return store.directory(small(f"output_dir={output}", *RUN))


def again(place, output, capsys):
    code = rerun.main([place.name[:6], "--in", str(output)])
    return code, capsys.readouterr().out


def test_a_run_computed_again_gives_the_same_numbers_bit_for_bit(place, output, capsys):
    code, said = again(place, output, capsys)
    assert code == 0
    (n,) = re.findall(r"^(\d+) numbers, all the same bit for bit\.$", said, re.M)
    assert int(n) > 50
    assert "What is not as it was" not in said


def test_what_differs_is_told_with_what_changed_since(place, output, capsys):
    curves = place / "curves.csv"
    record = place / "provenance.json"
    before = curves.read_text(), record.read_text()
    lines = before[0].splitlines(keepends=True)
    last = lines[-1].rstrip().rpartition(",")
    lines[-1] = f"{last[0]},{float(last[2]) * (1 + 1e-12)!r}\n"
    then = json.loads(before[1])
    then["packages"]["jax"] = "0.1"
    then["cores"] = 4096
    try:
        curves.write_text("".join(lines))
        record.write_text(json.dumps(then))
        code, said = again(place, output, capsys)
    finally:
        curves.write_text(before[0])
        record.write_text(before[1])
    assert code == 1
    assert re.search(
        r"\n1 of \d+ numbers differ, by up to 1e-12 relative \(curves", said
    )
    assert "packages.jax: 0.1 then, " in said
    assert "cores: 4096 then, " in said


def test_a_run_knows_what_it_was_computed_with(place):
    record = json.loads((place / "provenance.json").read_text())
    assert record["overrides"][-2:] == list(RUN)
    assert (record["seed"], record["engine"], record["x64"]) == (3, "notebook", True)
    assert record["matmul_precision"] == "highest"
    assert record["packages"]["jax"] and record["devices"] and record["processor"]
    assert record["cores"] == provenance.cores()
    assert record["started"] <= record["finished"]
    assert record["choices"]["dataset"] == "teacher"
    commit = provenance.checkout()
    assert record["git"] == {
        "commit": commit.commit,
        "changed": bool(commit.patch) if commit.commit else None,
    }
    assert (place / "changes.patch").exists() == bool(commit.patch)
    saved = yaml.safe_load((place / "config.yaml").read_text())
    assert (saved["loss"], saved["seed"], saved["seeds"]) == ("mean", 3, 1)


def test_settings_that_change_numbers_are_recorded_and_secrets_are_not(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "hush")
    record = provenance.describe(0.0, {})
    assert record["settings"]["XLA_FLAGS"] == "--xla_cpu_enable_fast_math=false"
    assert "hush" not in json.dumps(record)


@pytest.mark.parametrize(
    "name, text",
    [("rffffffffffff", "There is no run `rfff.*--in PATH looks elsewhere"),
     ("r", "may be 2 runs: .*Type more of it")],
)  # fmt: skip
def test_a_run_that_is_not_the_only_one_is_asked_for_again(
    place, output, capsys, name, text
):
    (output / "other" / "r000000000000").mkdir(parents=True, exist_ok=True)
    (output / "other" / "r000000000000" / "status.json").write_text("{}")
    assert rerun.main([name, "--in", str(output)]) == 1
    assert re.search(text, capsys.readouterr().err)


def test_a_run_of_an_older_meaning_names_its_commit(place, monkeypatch):
    monkeypatch.setattr(store, "RESULTS_FORMAT", 0)
    record = {"git": {"commit": "abc"}, "choices": {"dataset": "teacher"}}
    with pytest.raises(NotFound, match="another run today .*computed with, abc"):
        rerun.restored(place, record)


def test_a_notebook_gets_a_row_for_each_run_and_computes_none_twice(
    output, place, monkeypatch
):
    overrides = [f"output_dir={output}", *SMALL, "loss=mean", "seed=3,4"]
    table = notebook.run(overrides)
    assert table[["loss", "seed"]].values.tolist() == [["mean", 3], ["mean", 4]]
    monkeypatch.setattr(job, "_compute", None)
    assert notebook.run(overrides).equals(table)


def test_a_notebook_is_told_of_a_run_that_failed(tmp_path, monkeypatch):
    from experiments import pipeline

    def fail(*args):
        raise OSError("bad luck")

    monkeypatch.setattr(pipeline, "run", fail)
    with pytest.raises(
        notebook.RunFailed, match="1 of 1 runs are not there, see .*err"
    ):
        notebook.run([f"output_dir={tmp_path}", *SMALL])
