"""The incumbent's virtual environment: it cannot share one with current JAX."""

import shutil
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = (
    "neural-tangents==0.6.5",
    "jax==0.4.25",
    "jaxlib==0.4.25",
    "numpy<2",
    "scipy<1.13",
    "tf2jax==0.3.6",
)
PYTHON = "3.11"  # the newest that the incumbent was tested with
_VERSIONS = """
from importlib.metadata import version
for name in ("neural-tangents", "jax", "jaxlib"):
    print(f"{name}=={version(name)}")
"""


def ensure(folder: Path, python: str | None = None) -> Path:
    """The interpreter of a complete environment, built first where it is missing.

    Args:
        folder: where it lies or shall lie. One that this function left unfinished is
            finished; one made by somebody else is used as it is, or not at all.
        python: a Python 3.11 to build it with; `None` looks for one.

    Raises:
        SystemExit: if there is no such Python, the packages cannot be installed, or
            the folder holds something else.
    """
    stamp, interpreter = folder / "benchmark.txt", folder / "bin" / "python"
    complete = "\n".join(REQUIREMENTS) + "\n"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == complete:
        return interpreter
    if not stamp.is_file() and folder.exists() and any(folder.iterdir()):
        if _output(str(interpreter), _VERSIONS).splitlines() == list(REQUIREMENTS[:3]):
            return interpreter
        raise SystemExit(
            f"{folder} is not an environment that this benchmark made, nor one with "
            f"{', '.join(REQUIREMENTS[:3])}, so it is left alone. Pass another "
            "`--venv`, or an empty folder."
        )
    print(f"Building {folder} (once, some minutes)", file=sys.stderr, flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    stamp.write_text("unfinished\n", encoding="utf-8")
    _run(find_python(python), "-m", "venv", str(folder))
    _run(str(interpreter), "-m", "pip", "install", "--quiet", *REQUIREMENTS)
    _run(str(interpreter), "-c", "import neural_tangents")
    stamp.write_text(complete, encoding="utf-8")
    return interpreter


def find_python(python: str | None = None) -> str:
    """A command that starts Python 3.11: the one given, or the first found."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    candidates = (f"python{PYTHON}", "python3", sys.executable)
    for candidate in candidates if python is None else (python,):
        if _output(candidate, code) == PYTHON:
            return candidate
    found = "none is on the PATH" if python is None else f"`{python}` is not one"
    raise SystemExit(
        f"The incumbent's environment needs a Python {PYTHON}, but {found}. Install "
        f"one and pass `--python /path/to/python{PYTHON}`, or choose workloads without "
        "the incumbent: `--workloads e,f,g`."
    )


def _output(python: str, code: str) -> str:
    """What the code prints, or nothing where the command does not start or fails."""
    if not shutil.which(python):
        return ""
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def _run(*command: str):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(
            f"Building the incumbent's environment failed in `{' '.join(command)}`:\n"
            f"{done.stderr[-2000:]}\nRunning the benchmark again goes on from there."
        )
