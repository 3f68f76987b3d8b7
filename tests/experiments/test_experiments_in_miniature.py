import re

import pytest
import yaml

from experiments import validation
from experiments.reading import load_runs

from .commands import CONF, compose, run_command

pytestmark = pytest.mark.usefixtures("runs_may_set_jax")

EXPERIMENTS = sorted((CONF / "experiment").glob("*.yaml"))
TINY = ["n_train=6", "n_test=6", "steps=4", "time_grid.n_times=2", "seeds=1"]
# Networks and kernels like those of the other studies, so that they share compilations.
MINIATURES = {
    "depth_scaling": {"depth": "2", "model.activation": "erf"},
    "laziness": {"precision.x64": "false"},
    "nngp_convergence": {
        "kernel.measure_error": "false",
        "kernel.measure_limit": "false",
    },
    "image_regression": {"dataset.size": "4"},
    "small_data": {"task.max_depth": "1"},
}


def read(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_runs_in_miniature_and_ends_with_its_tables(
    path, tmp_path, capsys
):
    swept = read(path)["hydra"]["sweeper"]["params"]
    first = {key: str(values).split(",")[0] for key, values in swept.items()}
    first |= {"width": "8"} | MINIATURES.get(path.stem, {})  # compiled once for all
    given = [f"{key}={value}" for key, value in first.items()]
    arguments = [f"experiment={path.stem}", f"output_dir={tmp_path}", *given, *TINY]
    assert run_command(*arguments) == 0
    said = capsys.readouterr().out
    assert "1 job, 1 run, 0 finished before" in said
    assert read(path)["analysis"]["question"] in said
    study = tmp_path / read(path)["study"]
    assert len(load_runs(study)[0]) == 1
    for made in ("_tables/runs.csv", "_tables/aggregate.csv", "_tables/verdicts.csv"):
        assert f"Wrote {study / made}" in said


def test_every_study_over_widths_tells_how_far_infinite_width_is():
    of_widths = []
    for path in sorted((CONF / "experiment").rglob("*.yaml")):
        name = path.relative_to(CONF / "experiment").with_suffix("").as_posix()
        hydra = read(path).get("hydra", {"sweeper": {"params": {}}})
        if {"width", "model.width"} & set(hydra["sweeper"]["params"]):
            of_widths.append(name)
            assert compose(f"experiment={name}").kernel.measure_limit, name
    assert len(of_widths) > 10


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_the_head_of_every_experiment_gives_its_command_and_what_to_expect(path):
    head = re.match(r"(#.*\n)+", path.read_text(encoding="utf-8"))
    assert head
    assert f"python -m experiments.run experiment={path.stem}\n" in head[0]
    assert "# Expected" in head[0]


def test_trained_networks_approach_their_kernel_at_the_rates_of_the_width_study(
    tmp_path, capsys
):
    # The study itself, on a quarter of its examples and steps. With eight seeds at each
    # of two widths the 95 % intervals of the slopes are 0.1 to 0.2 to either side,
    # and the slopes lie 0.08 or more inside the study's own bands. The seeds fix them
    # to several digits: rounding on another machine cannot carry them out.
    assert run_command(
        "experiment=width_scaling", f"output_dir={tmp_path}", "width=48,384", "seeds=8",
        "n_train=16", "n_test=32", "steps=64", "time_grid.n_times=1",
        "analysis.x_from=48", "kernel.measure_limit=false",
    ) == 0  # fmt: skip
    assert re.search("Verdict: all [0-9]+ expectations met.", capsys.readouterr().out)

    slopes = {
        row["metric"]: row
        for row in load_table(tmp_path / "width_scaling" / "_tables" / "slopes.csv")
    }
    for metric, law in (
        ("relative_divergence_test", -1),
        ("kernel_drift", -1),
        ("movement_relative/input", -0.5),
        ("movement_relative/hidden[0]", -1),
        ("movement_relative/readout", -0.5),
        ("movement_absolute/all", 0),
    ):
        assert float(slopes[metric]["slope"]) == pytest.approx(law, abs=0.16), metric
        assert float(slopes[metric]["low"]) < law < float(slopes[metric]["high"]), (
            metric
        )
        assert int(slopes[metric]["n_points"]) == 16


def load_table(path):
    import csv

    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_the_paper_size_of_every_experiment_asks_the_same_of_more(path):
    if path.stem == "smoke":
        return
    size = CONF / "experiment" / "paper" / path.name
    command = f"python -m experiments.run experiment=paper/{path.stem}\n"
    assert command in size.read_text(encoding="utf-8")
    small = compose(f"experiment={path.stem}")
    large = compose(f"experiment=paper/{path.stem}")
    assert large.study == f"paper/{small.study}"
    assert large.analysis == small.analysis
    validation.typed(large)
