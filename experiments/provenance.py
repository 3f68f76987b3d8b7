"""What a run was computed with: code, packages, machine, settings, times."""

import os
import platform
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

_PACKAGES = (
    "equintk", "jax", "jaxlib", "equinox", "lineax", "diffrax", "optax", "numpy",
    "scipy", "scikit-learn", "pandas", "hydra-core", "omegaconf",
)  # fmt: skip

# Settings of the environment that can change numbers. Others may be secrets.
_SETTINGS = ("XLA_", "JAX_", "OMP_", "OPENBLAS_", "MKL_", "CUDA_VISIBLE", "NPROC")

# Beyond this only the names of files that git does not know are recorded.
_LARGEST_PATCH = 1_000_000


class Checkout(NamedTuple):
    """The commit of the code that runs, and what differs from it, as a patch."""

    commit: str | None
    patch: str


def describe(began: float, how: Mapping[str, Any]) -> dict[str, Any]:
    """Everything but the uncommitted changes, for `provenance.json`.

    Args:
        began: when the run began, in seconds since 1970.
        how: how it was asked for: command, overrides, engine.
    """
    import jax

    now = time.time()
    commit, patch = checkout()
    config = jax.config
    return {
        **how,
        "started": _date(began),
        "finished": _date(now),
        "seconds": round(now - began, 3),
        "git": {"commit": commit, "changed": None if commit is None else bool(patch)},
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "host": socket.gethostname(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": cores(),
        "devices": [str(device) for device in jax.devices()],
        "device_kinds": sorted({device.device_kind for device in jax.devices()}),
        "settings": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(_SETTINGS)
        },
        "x64": config.jax_enable_x64,  # type: ignore
        "matmul_precision": config.jax_default_matmul_precision,  # type: ignore
    }


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A line for each thing that may change numbers and is not what it was."""
    old, new = dict(_decisive(then)), dict(_decisive(now))
    return [
        f"{name}: {old.get(name)} then, {new.get(name)} now"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _decisive(record: Mapping[str, Any]) -> list[tuple[str, Any]]:
    plain = ("python", "host", "processor", "cores", "device_kinds", "x64")
    found = [(name, record.get(name)) for name in (*plain, "matmul_precision")]
    for group in ("git", "packages", "settings"):
        found += [
            (f"{group}.{name}", value) for name, value in record.get(group, {}).items()
        ]
    return found


@cache  # as it was when the process began to compute
def checkout() -> Checkout:
    """The commit of the code that runs, and what differs from it, as a patch.

    That is the checkout of this file; where it is installed, that of the working
    directory, which may hold a model of the user's own.

    Returns:
        `None` and nothing outside a checkout. Files that git does not know are part of
        the patch, unless it ignores them.
    """
    code = Path(__file__).resolve()
    known = _git(code.parent, "ls-files", "--error-unmatch", code.name)
    place = code.parent if known else Path.cwd()
    commit, top = (
        _git(place, "rev-parse", *what) for what in (["HEAD"], ["--show-toplevel"])
    )
    if commit is None or top is None:
        return Checkout(None, "")
    git = partial(_git, Path(top.strip()))
    with tempfile.TemporaryDirectory() as own:
        index = {}
        if git("ls-files", "--others", "--exclude-standard"):
            # an index of our own: the user's must stay as it is
            index = {"GIT_INDEX_FILE": str(Path(own) / "index")}
            git("read-tree", "HEAD", **index)
            git("add", "--intent-to-add", "--all", **index)
        patch = git("diff", "HEAD", "--binary", **index) or ""
    if len(patch) > _LARGEST_PATCH:
        names = git("status", "--porcelain") or ""
        patch = f"More was changed than is kept here:\n{names}"
    return Checkout(commit.strip(), patch)


def cores() -> int | None:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _git(place: Path, *arguments: str, **environment: str) -> str | None:
    """What git says in a directory; `None` outside a checkout."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=place, timeout=30, check=True,
            capture_output=True, text=True, errors="replace",
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", **environment},
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


@cache
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        if package != "equintk":  # which also runs from a checkout
            return None
        import equintk

        return getattr(equintk, "__version__", None)


@cache
def _processor() -> str:
    """The processor's model: its instructions decide how numbers are rounded."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))
