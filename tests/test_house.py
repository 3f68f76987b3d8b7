"""The rules of the house that a program can check."""

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIBRARY = sorted((ROOT / "equintk").rglob("*.py"))
EXPERIMENTS = sorted(
    path
    for room in ("experiments", "hydra_plugins")
    for path in (ROOT / room).rglob("*.py")
)
BENCHMARKS = sorted(
    path
    for path in (ROOT / "benchmarks").rglob("*.py")
    if ".venvs" not in path.parts  # environments that a benchmark builds
)


def imported(path, late=True):
    """The dotted names that a file imports, relative ones made absolute.

    Those inside functions too, unless `late` is false.
    """
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    module = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(module) if late else module.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(
    "path", LIBRARY + EXPERIMENTS + BENCHMARKS, ids=lambda p: p.stem
)
def test_only_public_names_of_jax_are_imported(path):
    assert not [name for name in imported(path) if re.match(r"jax(lib)?\._", name)]
    assert "jax." + "_src" not in path.read_text(encoding="utf-8")


def test_matrix_products_are_not_compiled_by_jax_alone():
    # It gets some wrong: see `equintk.jit`. Of these, some hold functions of numbers.
    names = ("_compiled", "_checks", "_cache", "_decay", "_infinite/functions/unseen")
    exempt = {ROOT / "equintk" / f"{name}.py" for name in names}
    for path in set(LIBRARY + EXPERIMENTS) - exempt:
        code = re.sub("`.*?`", "", path.read_text(encoding="utf-8"))
        assert not re.search(r"\b(jax\.jit|eqx\.filter_jit)\b", code), path


def test_the_library_imports_nothing_that_only_experiments_need():
    heavy = {"hydra", "omegaconf", "optax", "pandas", "matplotlib", "sklearn", "rich"}
    # Estimators are for scikit-learn, and not imported with the library.
    library = [path for path in LIBRARY if path.stem != "estimators"]
    found = {name.split(".")[0] for path in library for name in imported(path)}
    assert not found & (heavy | {"experiments", "scipy"})


def test_applications_import_only_public_names_of_the_library():
    names = {name for path in EXPERIMENTS + BENCHMARKS for name in imported(path)}
    assert not [name for name in names if re.match(r"equintk\._|equintk\..*\._", name)]


def test_the_rooms_of_the_library_do_not_import_one_another():
    rooms = {"_empirical", "_infinite", "predict"}
    for path in LIBRARY:
        room = path.relative_to(ROOT / "equintk").parts[0]
        if room in rooms:
            others = {
                name.split(".")[1] for name in imported(path) if "equintk." in name
            }
            assert not others & (rooms - {room}), path


def test_imports_form_no_cycle():
    # Those inside functions count: they would only hide one.
    files = {}
    for path in LIBRARY + EXPERIMENTS + BENCHMARKS:
        parts = path.relative_to(ROOT).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    arrows = {}
    for module, path in files.items():
        found = set()
        for name in imported(path):
            while name and name not in files:
                name = name.rpartition(".")[0]
            found.add(name)
        arrows[module] = found - {"", module}
    TopologicalSorter(arrows).prepare()  # raises CycleError, with the cycle


def test_importing_the_library_loads_no_heavy_package():
    code = "import sys, equintk; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    heavy = {
        "hydra",
        "optax",
        "pandas",
        "matplotlib",
        "sklearn",
        "rich",
        "scipy.linalg",
    }
    jax_itself = subprocess.run(
        [sys.executable, "-c", "import sys, jax, equinox; print(*sys.modules)"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert not (set(loaded) - set(jax_itself)) & heavy


def test_every_dependency_has_a_lower_bound_and_an_exact_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    asked = project["dependencies"] + sum(project["optional-dependencies"].values(), [])
    asked = [line for line in asked if not line.startswith("equintk[")]
    assert all(">=" in line for line in asked)
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    exact = set(re.findall(r"^([\w.-]+)==", constraints, re.MULTILINE))
    names = {re.split(r"[>=<;\[]", line)[0] for line in asked}
    assert names <= {name.replace("_", "-").lower() for name in exact} | exact


def test_the_wheel_holds_the_library_the_experiments_and_their_configs():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = settings["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["equintk", "experiments", "hydra_plugins"]
    assert wheel["force-include"] == {"conf": "experiments/conf"}
    for package in wheel["packages"]:
        assert not list((ROOT / package).rglob("test*"))


def test_what_every_hydra_application_imports_is_light():
    # Hydra imports each file of `hydra_plugins`, whoever uses it.
    for path in (ROOT / "hydra_plugins").glob("*.py"):
        heads = {name.split(".")[0] for name in imported(path, late=False)}
        assert heads <= {"collections", "dataclasses", "typing", "hydra", "omegaconf"}
