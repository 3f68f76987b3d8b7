"""Where the configs are, and what they offer, read from the files themselves."""

import sys
from importlib.util import find_spec
from pathlib import Path

from omegaconf import OmegaConf

_HERE = Path(__file__).parent
# Installed, they lie inside the package; in a checkout, beside it.
CONF = next(p for p in (_HERE / "conf", _HERE.parent / "conf") if p.is_dir())

# What a preset of launchers or sweepers needs: a module, and the extra that brings it.
_EXTRAS = {
    "loky": ("hydra_plugins.hydra_joblib_launcher", "joblib"),
    "slurm": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
    "slurm_rehearsal": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
    "ray_local": ("hydra_plugins.hydra_ray_launcher", "ray"),
    "ray_cluster": ("hydra_plugins.hydra_ray_launcher", "ray"),
    "search": ("hydra_plugins.hydra_optuna_sweeper", "optuna"),
}


def options(*more: Path) -> dict[str, list[str]]:
    """The choices of each group, from the files below `conf/`.

    Args:
        more: further directories of configs, such as the user's own.
    """
    found: dict[str, set[str]] = {}
    for root in (CONF, *more):
        for path in root.rglob("*.yaml"):
            folders = path.relative_to(root).with_suffix("").parts
            # Of Hydra's own groups the folders are two deep; in the others a folder
            # below is part of a choice's name, as in experiment=paper/losses.
            depth = 2 if folders[0] == "hydra" else 1
            if len(folders) > depth:
                group = "/".join(folders[:depth])
                found.setdefault(group, set()).add("/".join(folders[depth:]))
    return {group: sorted(names) for group, names in sorted(found.items())}


def register() -> None:
    """Give the configs what they ask of the tree and of the machine."""
    from experiments import provenance

    OmegaConf.register_new_resolver("options", _listed, replace=True)
    OmegaConf.register_new_resolver("command", _command, replace=True)
    OmegaConf.register_new_resolver("cores", provenance.cores, replace=True)


def _command(name: str) -> str:
    """A command as it is typed here: by the console script or by its module."""
    by_script = sys.argv[0].startswith("equintk ")
    return f"equintk {name}" if by_script else f"python -m experiments.{name}"


def missing_extra(preset: str) -> str | None:
    """What to install for a preset that cannot be used yet."""
    module, extra = _EXTRAS.get(preset, (None, None))
    if module is None or find_spec("hydra_plugins") and _found(module):
        return None
    # Ray's launcher asks for an older package than the constraints have.
    exact = "" if extra == "ray" else "-c constraints.txt "
    return (
        f"`{preset}` needs packages that are not installed. Type "
        f'`pip install "equintk[experiments,{extra}]"`; in a checkout, '
        f'`pip install {exact}-e ".[experiments,{extra}]"`.'
    )


def _found(module: str) -> bool:
    return find_spec(module) is not None


def _listed() -> str:
    """The groups and their choices, as lines of the help text."""
    given = [
        Path(after)
        for before, after in zip(sys.argv, sys.argv[1:], strict=False)
        if before in ("--config-dir", "-cd")
    ]
    groups = options(*given)
    wide = max(map(len, groups))
    lines = []
    for group, names in groups.items():
        line = f"  {group:<{wide}}  "
        for i, name in enumerate(names):
            comma = ", " if i < len(names) - 1 else ""
            if len(line.rsplit("\n", 1)[-1] + name + comma) > 88:
                line = f"{line.rstrip()}\n{' ' * (wide + 4)}"
            line += name + comma
        lines.append(line)
    return "\n".join(lines)
