import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from experiments import job, pipeline, store, tree
from experiments.identity import identity
from experiments.reading import load_runs
from experiments.tables import (
    CURVE_COLUMNS,
    METRICS,
    N_EIGENVALUES,
    describe,
    summary_column,
)

from .commands import ROOT, SMALL, imported_by, options, run_command, small

pytestmark = pytest.mark.usefixtures("runs_may_set_jax")

VARIANTS = {
    "images, projections": "model=cnn width=4 kernel=mc dataset=digits_3v8 "
    "time_grid=linear precision=f32",
    "coordinates": "model=siren dataset=image dataset.size=4 parameterization=equinox",
    "regression, flow": "model=residual_mlp dataset=diabetes dynamics=flow loss=mean "
    "ridge=0.1",
    "last layer": "kernel=nngp dataset=teacher precision=f64",
    "ten classes": "model=mlp kernel=exact dataset=digits10 parameterization=standard "
    "precision=f32 optimizer.learning_rate_unit=absolute "
    "optimizer.learning_rate=1e-4 loss=mean_over_examples kernel.coupled=false",
    "momentum": "optimizer=momentum parameterization=mean_field loss=logistic "
    "dataset=digits_3v8",
    "infinite width": "kernel=infinite model=mlp parameterization=ntk precision=f32",
    "minibatches": "optimizer=minibatch optimizer.batch_size=4 loss=softmax "
    "parameterization=mup dataset=iris dataset.n_train=6 dataset.n_test=5",
}
# What is run by a test of its own.
ELSEWHERE = {
    "task=classification", "dataset=wine", "dataset=breast_cancer", "dataset=file",
    "dataset=openml", "dataset=custom", "model=custom", "kernel=custom",
}  # fmt: skip


def len_train(config):
    return getattr(config.dataset, "n_train", 8)  # of the picture


def here(tmp_path, *overrides):
    return small(f"output_dir={tmp_path}", *overrides)


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS)
def test_a_run_writes_the_declared_files_columns_and_metrics(
    tmp_path, capsys, overrides
):
    config = here(tmp_path, *overrides.split())
    assert job.run_once(config)
    place = store.directory(config)
    assert str(place) in capsys.readouterr().out
    assert set(os.listdir(place)) - {"changes.patch"} == {
        "config.yaml", "curves.csv", "provenance.json", "status.json", "summary.csv",
    }  # fmt: skip

    record = json.loads((place / "provenance.json").read_text())
    assert record["x64"] is config.precision.x64

    summaries, curves = load_runs(tmp_path)
    layers = ["input", "readout", "all"] + ["hidden[0]"] * (
        config.model.depth > 1 or config.model.name == "residual_mlp"
    )
    classes = config.dataset.name in ("digits", "iris")
    networks = ["readout", "all"] if config.kernel.name == "nngp" else ["all"]
    squared = config.loss.name not in ("softmax", "logistic")

    def parts(name, metric):
        numbered = range(1, min(len_train(config), N_EIGENVALUES) + 1)
        every = numbered if name == "eigenvalue" else layers
        return every if metric.per_layer else layers[:1]

    measured = {
        (network, split, f"{name}/{layer}" if metric.per_layer else name)
        for name, metric in METRICS.items()
        for network in networks
        for split in metric.splits
        for layer in parts(name, metric)
        if classes or not name.startswith("accuracy")
        if squared or not name.startswith("error")
    }
    assert list(curves) == list(CURVE_COLUMNS)
    assert (
        set(zip(curves["network"], curves["split"], curves["metric"], strict=True))
        == measured
    )
    assert len(curves) == len(measured) * curves["step"].nunique()
    assert {0, config.time_grid.steps} <= set(curves["step"])
    assert np.isfinite(curves["value"]).all()

    ends = {
        summary_column(metric, split, None if network == networks[0] else network)
        for network, split, metric in measured
    }
    scalars = {
        "n_params",
        "learning_rate",
        "largest_eigenvalue",
        "stability_bound",
        "seconds",
    }
    scalars |= {"loss_peak", "target_alignment_gain"}
    scalars |= {"posterior_rmse_test" if networks[0] == "readout" else "drift_halfway"}
    if config.kernel.measure_limit:
        scalars |= {"limit_distance", "limit_missing"}
    values = store._flat(identity(config)).keys() | {"run", "seed"}
    assert set(summaries) == ends | scalars | values
    for column in summaries:
        describe(column)


def test_every_group_is_run_by_some_variant():
    # A new model, data set or kernel belongs into `VARIANTS`.
    words = {word for overrides in VARIANTS.values() for word in overrides.split()}
    by_default = {"parameterization=ntk", "time_grid=log", "optimizer=sgd"}
    by_default |= {"task=training"}
    for group, names in options().items():
        if group != "experiment":
            assert {
                f"{group}={name}" for name in names
            } <= words | by_default | ELSEWHERE


def test_a_finished_run_is_not_computed_again_unless_forced(
    tmp_path, monkeypatch, capsys
):
    config = here(tmp_path)
    calls = []
    compute = pipeline.run
    monkeypatch.setattr(
        pipeline, "run", lambda *args: calls.append(1) or compute(*args)
    )
    assert job.run_once(config)
    assert job.run_once(config)
    assert len(calls) == 1
    assert "seed 0: finished before, see" in capsys.readouterr().out
    assert job.run_once(here(tmp_path, "force=true"))
    assert len(calls) == 2


def test_a_run_that_raises_is_written_with_its_traceback_and_tried_again(
    tmp_path, monkeypatch, capsys
):
    config = here(tmp_path)

    def fail(*args):
        raise MemoryError("no room for the kernel")

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "run", fail)
        assert not job.run_once(config)
    place = store.directory(config)
    said = capsys.readouterr().out
    assert (
        f"seed 0: FAILED, see {place / 'error.txt'}\n  no room for the kernel" in said
    )
    error = (place / "error.txt").read_text()
    assert error.startswith("Traceback") and "in fail" in error
    assert store.status(place) == "FAILED"

    assert job.run_once(config)
    assert store.status(place) == "DONE"
    assert not (place / "error.txt").exists()


def test_an_interruption_writes_nothing(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        job.run_once(here(tmp_path))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_the_runs_of_a_job_have_one_seed_each():
    runs = job.split_seeds(small("seed=4", "seeds=3"))
    assert [(r.seed, r.seeds) for r in runs] == [(4, 1), (5, 1), (6, 1)]
    assert len({store.run_id(r) for r in runs}) == 3
    assert store.run_id(runs[1]) == store.run_id(small("seed=5"))


def test_one_failing_seed_does_not_keep_the_others_from_running(
    tmp_path, monkeypatch, capsys
):
    compute = pipeline.run

    def fail_at_1(config, run_id):
        if config.seed == 1:
            raise OSError("bad luck")
        return compute(config, run_id)

    monkeypatch.setattr(pipeline, "run", fail_at_1)
    assert run_command(f"output_dir={tmp_path}", "seeds=3", *SMALL) == 1
    said = re.findall(r"^seed (\d): (FAILED)?", capsys.readouterr().out, re.MULTILINE)
    assert said == [("0", ""), ("1", "FAILED"), ("2", "")]
    assert load_runs(tmp_path)[0]["seed"].isin([0, 2]).tolist() == [True, True]


@pytest.mark.parametrize(
    "arguments, text",
    [
        ("projdim=3", "`projdim` is no key: did you mean `proj_dim`"),
        ("model.widht=3", "`model.widht` is no key: did you mean `model.width`"),
        ("optimizer.lr=3", "`optimizer.lr` is no key: did you mean `optimizer.learni"),
        ("width=-1", "width=-1 is out of range: .* at least 1.\nNothing was computed"),
        ("width=many", "Value 'many' of type 'str' could not be converted to Integer"),
        ("loss=hinge", "Invalid value 'hinge', expected one of .sum, mean_over_exam"),
        ("model.activation=rellu", "no choice: did you mean `model.activation=relu`"),
        ("kernel=rbf", r"find 'kernel/rbf'\n\nAvailable options in 'kernel':\n\tcus"),
        ("kernel=nnpg", "`kernel=nnpg` is no choice: did you mean `kernel=nngp`"),
        ("dataset.name=teacher", "Type dataset=teacher, which brings its own"),
        ("width=16,32", "Ambiguous value for argument 'width=16,32'"),
    ],
)  # fmt: skip
def test_a_refused_command_says_what_to_type_and_writes_nothing(
    tmp_path, capsys, arguments, text
):
    assert run_command(f"output_dir={tmp_path}", *arguments.split()) == 1
    assert re.search(text, capsys.readouterr().err)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_option_between_values_is_told_where_it_belongs(capsys):
    assert run_command("width=8", "-m", "depth=1,2") == 2
    assert "Type options such as -m after all values." in capsys.readouterr().err


@pytest.mark.parametrize("mode", [[], ["width=8,9", "-m"]], ids=["run", "sweep"])
def test_a_place_that_cannot_be_written_to_is_named_before_anything_is_computed(
    tmp_path, capsys, monkeypatch, mode
):
    monkeypatch.setattr(pipeline, "run", None)
    (tmp_path / "file").touch()
    assert run_command(f"output_dir={tmp_path / 'file'}", *mode) == 1
    said = capsys.readouterr().err
    assert re.match(
        r"output_dir=\S*file cannot be written to: .*Not a directory.* Type output_dir="
        r"DIRECTORY, one that you may write to\.\nNothing was computed\.",
        said,
    )


@pytest.mark.parametrize(
    "arguments, code, answer",
    [
        ("--help", 0, "python -m experiments.run kernel=mc proj_dim=100,1000 -m"),
        ("experiment=width_scaling --cfg job", 0, "width: 256\n"),
        ("kernel=mc proj_dim=100,-5 -m", 1, "proj_dim=-5 is out of range"),
    ],
    ids=["help", "config", "refused sweep"],
)
def test_what_needs_no_computing_is_answered_without_jax(
    tmp_path, arguments, code, answer
):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "experiments.run",
         f"output_dir={tmp_path}", *arguments.split()],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == code
    assert answer in done.stdout + done.stderr
    assert "hydra" in (imported := imported_by(done.stderr))
    heavy = {"jax", "equintk", "pandas", "matplotlib", "sklearn"}
    assert heavy.isdisjoint(imported)
    assert os.listdir(tmp_path) == []


def test_help_shows_every_choice_that_the_files_offer(capsys, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").touch()
    assert run_command("--help", "--config-dir", str(tmp_path)) == 0
    said = capsys.readouterr().out
    for group, names in tree.options().items():
        more = ["mine"] if group == "model" else []
        block = re.search(rf"^  {group} +((.+)(\n {{8,}}.*)*)$", said, re.MULTILINE)
        assert block, group
        assert re.split(r",\s+", block[1]) == sorted([*names, *more])
