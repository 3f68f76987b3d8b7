"""The page docs/extending.md, followed step by step."""

import re
import shlex

import numpy as np
import pytest

from experiments.reading import load_runs

from .commands import ROOT, run_command

pytestmark = pytest.mark.usefixtures("runs_may_set_jax")

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]
# The commands themselves, on fewer steps.
TINY = ["depth=1", "steps=2", "time_grid.n_times=1"]


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """A working directory with the files of the page, and some data."""
    for kind, text in BLOCKS:
        if kind in ("python", "yaml"):
            path = tmp_path / text.split("\n", 1)[0].removeprefix("# ")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.split("\n", 1)[1], encoding="utf-8")
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 2)), rng.standard_normal(40)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    table = np.column_stack([x, y])
    np.savetxt(tmp_path / "data.csv", table, delimiter=",", header="a,b,y", comments="")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_of_the_page_makes_its_runs(directory):
    singles = [c for c in COMMANDS if "experiment=" not in c]
    assert len(singles) == 5
    for command in singles:
        words = shlex.split(command)
        assert words[:3] == ["python", "-m", "experiments.run"]
        assert run_command(*words[3:], *TINY) == 0, command
    summaries, _ = load_runs(directory / "outputs" / "default")
    assert len(summaries) == 5


@pytest.mark.slow
def test_the_study_of_the_page_sweeps_itself_and_answers(directory, capsys):
    (command,) = (c for c in COMMANDS if "experiment=" in c)
    assert f"#   {command}\n" in PAGE
    words = shlex.split(command)[3:]
    assert run_command(*words, *TINY, "width=4,8,16", "n_train=4", "n_test=3") == 0
    assert "Does a gated network approach its kernel" in capsys.readouterr().out
    summaries, _ = load_runs(directory / "outputs" / "gates")
    assert sorted(summaries["model.width"]) == [4, 8, 16]
