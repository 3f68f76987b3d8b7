"""The project as pip installs it, in an environment of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .commands import CONF, ROOT, SMALL


def ask(*command, cwd):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd, capture_output=True, text=True,
        env={**environment, "JAX_PLATFORMS": "cpu", "HOME": str(cwd)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_runs_studies_from_any_directory(tmp_path):
    there = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", there], check=True)
    python, equintk = there / "bin" / "python", there / "bin" / "equintk"
    install = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt"]
    subprocess.run([*install, f"{ROOT}[experiments]"], check=True)

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    place = ask(python, "-c", "import experiments; print(experiments.__path__[0])",
                cwd=elsewhere).strip()  # fmt: skip
    assert place.startswith(str(there))
    configs = {path.relative_to(CONF) for path in CONF.rglob("*.yaml")}
    packed = Path(place, "conf")
    assert configs == {path.relative_to(packed) for path in packed.rglob("*.yaml")}

    said = ask(equintk, "run", "kernel=exact,mc", *SMALL, "-m", cwd=elsewhere)
    assert "2 of 2 runs finished" in said
    (study,) = (elsewhere / "outputs").iterdir()
    runs = [path.parent for path in study.glob("r*/summary.csv")]
    assert len(runs) == 2
    record = json.loads((runs[0] / "provenance.json").read_text())
    assert record["packages"]["equintk"]
    assert "2 of 2" in ask(equintk, "status", cwd=elsewhere)
    ask(equintk, "analyze", study, cwd=elsewhere)
    assert (study / "report.html").exists()
    assert "bit for bit" in ask(equintk, "rerun", runs[0].name, cwd=elsewhere)
