"""The README's code runs, and prints the shapes that it says."""

import ast
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def as_a_user_has_it():
    """JAX as it starts, not as strict as the other tests want it."""
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield


def test_python_blocks_run_and_give_the_values_in_their_comments(as_a_user_has_it):
    names: dict = {}
    n_compared = 0
    for block in blocks("python"):
        lines = block.splitlines()
        for statement in ast.parse(block).body:
            code = ast.get_source_segment(block, statement)
            assert code is not None and statement.end_lineno is not None
            comment = lines[statement.end_lineno - 1].partition("  # ")[2]
            if isinstance(statement, ast.Expr):
                assert repr(eval(code, names)) == comment.strip(), code
                n_compared += 1
            else:
                exec(code, names)
    assert n_compared >= 8


def test_the_sweep_runs_as_written(tmp_path):
    (command,) = (
        line.partition("#")[0]
        for block in blocks("sh")
        for line in block.splitlines()
        if "kernel=mc" in line
    )
    python, *arguments = shlex.split(command)
    assert python == "python" and arguments[-1] == "-m"
    small = ["width=8", "steps=4", "n_train=8", "n_test=8", f"output_dir={tmp_path}"]
    done = subprocess.run(
        [sys.executable, *arguments[:-1], *small, "-m"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 of 2 runs finished" in done.stdout
    assert len(list(tmp_path.glob("default/r*/summary.csv"))) == 2


def test_the_image_example_draws_a_network_that_follows_its_kernel(
    as_a_user_has_it, tmp_path
):
    path = tmp_path / "picture.png"
    example = runpy.run_path(str(ROOT / "examples" / "image_reconstruction.py"))
    errors = example["main"](size=8, width=64, steps=(4, 16), path=str(path))
    assert errors[16]["between them"] < 0.5 * errors[16]["network"]
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_attribution_example_ranks_better_with_more_projections(as_a_user_has_it):
    example = runpy.run_path(str(ROOT / "examples" / "attribution.py"))
    found = example["main"](n_train=60, n_test=6, proj_dims=(8, 512), width=16, steps=9)
    assert found[512] > 0.75 and found[512] > found[8] + 0.2


def test_every_file_that_the_readme_names_exists():
    named = re.findall(r"\]\(((?!http)[^)]+)\)|`((?:examples|docs)/[^`]+)`", README)
    assert named
    for groups in named:
        assert (ROOT / next(filter(None, groups))).exists()


def test_continuous_integration_runs_exactly_the_test_line():
    (line,) = (
        line
        for block in blocks("sh")
        for line in block.splitlines()
        if "pytest" in line
    )
    assert line.startswith("${PYTHON:-python3} -m venv .venv")
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "README.md" in script and "pip install" not in script
