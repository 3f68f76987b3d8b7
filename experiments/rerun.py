"""The command that computes a finished run again and compares every number.

    python -m experiments.rerun r0123456789ab     a run in outputs, by its id
    python -m experiments.rerun outputs/mine/r01  or by its path; a beginning will do

On the same machine, versions and number of cores the numbers are the same bit for bit;
otherwise it says what changed. Writes nothing.
"""  # noqa: D208

import argparse
import csv
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from experiments import store
from experiments.schema import Config

# Columns of `summary.csv` that no two runs share.
_TIMES = ("seconds",)


class NotFound(ValueError):
    """No run, or no single run, fits what was asked for; says what to type."""


class Comparison(NamedTuple):
    """Numbers of a run beside those of its repetition."""

    n_numbers: int
    n_different: int
    n_unmatched: int  # measured only then, or only now
    largest: float  # relative difference
    where: str


def main(
    arguments: Sequence[str] | None = None,
    prog: str = "python -m experiments.rerun",
) -> int:
    """Run the command; 0 if every number is the same bit for bit."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="""  %(prog)s r0123456789ab     a run in outputs, by its id
  %(prog)s outputs/mine/r01  or by its path; a beginning will do

Computes a finished run again and compares every number. On the same machine, versions
and number of cores the numbers are the same bit for bit; otherwise it says what
changed. Writes nothing.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", help="the id or the path of a run, or its beginning")
    parser.add_argument(
        "--in", dest="root", type=Path, default=Path("outputs"), metavar="PATH",
        help="where to look for an id; outputs by default",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    try:
        place = find(given.run, given.root)
        then = _record(place)
        config = restored(place, then)
    except NotFound as error:
        print(error, file=sys.stderr)
        return 1
    print(f"Computing {place} again: {' '.join(then.get('overrides', []))}", flush=True)
    _keep_to(then.get("cores"))
    found, now = _compute(config, then)
    compared = compare(place, config, found)
    print(_verdict(place, compared, then, now))
    return 1 if compared.n_different or compared.n_unmatched else 0


def find(run: str, root: Path) -> Path:
    """The directory of the only finished run that this may mean.

    Raises:
        NotFound: if there is none, or there are several.
    """
    path = Path(run)
    if path.name != run:
        root = path.parent
    places = sorted(
        status.parent for status in root.rglob(f"{path.name}*/status.json")
        if not any(part.startswith(("_", ".")) for part in
                   status.relative_to(root).parts)
    )  # fmt: skip
    if not places:
        raise NotFound(
            f"There is no run `{run}` in {root}. `equintk status` lists studies; their "
            "directories are named by the ids of runs. --in PATH looks elsewhere."
        )
    if len({place.name for place in places}) > 1:
        some = ", ".join(str(place) for place in places[:3])
        raise NotFound(f"`{run}` may be {len(places)} runs: {some}. Type more of it.")
    done = [place for place in places if store.status(place) == "DONE"]
    if not done:
        raise NotFound(
            f"{places[0]} has not finished, so there is nothing to compare with. "
            "`equintk run` with its overrides, in provenance.json, runs it again."
        )
    return done[0]


def restored(place: Path, record: dict[str, Any]) -> Config:
    """The config of a run, from its own files.

    Raises:
        NotFound: if it cannot be read, or would be another run today.
    """
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from experiments import identity, schema, tree, validation

    schema.register()
    tree.register()
    dirs = [Path(path) for path in record.get("config_dirs", []) if Path(path).is_dir()]
    offered = tree.options(*dirs)
    choices = [
        f"{group}={name}"
        for group, name in record.get("choices", {}).items()
        if name in offered.get(group, []) and group not in ("experiment",)
        if not group.startswith("hydra")
    ]
    more = ",".join(f"file://{path}" for path in dirs)
    if more:
        choices.append(f"hydra.searchpath=[{more}]")
    commit = record.get("git", {}).get("commit")
    then = f"Check out the commit that it was computed with, {commit}."
    GlobalHydra.instance().clear()
    try:
        saved = yaml.safe_load((place / "config.yaml").read_text(encoding="utf-8"))
        with hydra.initialize_config_dir(
            version_base="1.3", config_dir=str(tree.CONF.resolve())
        ):
            composed = hydra.compose("config", choices)
        decides = {key: saved[key] for key in identity.IDENTITY if key in saved}
        config = validation.typed(OmegaConf.merge(composed, decides))  # type: ignore
    except (OSError, yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise NotFound(
            f"The config in {place} cannot be used today: {error}. {then}"
        ) from error
    if store.run_id(config) != place.name:
        raise NotFound(
            f"The config in {place} means another run today ({store.run_id(config)}): "
            f"keys were added or changed since. {then}"
        )
    return config


def compare(place: Path, config: Config, found: Any) -> Comparison:
    """Every number of the run on disk beside that of its repetition, as text.

    A float is written in the shortest digits that give it back, so equal texts are
    equal bits.
    """
    from experiments.tables import CURVE_COLUMNS

    texts = store.tables(config, found.curves, list(CURVE_COLUMNS), found.summary)
    n_numbers = n_different = n_unmatched = 0
    largest, where = 0.0, ""
    for name, text in texts.items():
        then = _cells((place / name).read_text(encoding="utf-8").splitlines())
        now = _cells(text.splitlines())
        for key in dict.fromkeys([*then, *now]):
            if key[-1] in _TIMES:
                continue
            if key not in then or key not in now:
                n_unmatched += 1
                continue
            n_numbers += 1
            old, new = then[key], now[key]
            if old != new:
                n_different += 1
                gap = _gap(old, new)
                if gap >= largest:
                    largest, where = gap, f"{name}: {' '.join(key)}"
    return Comparison(n_numbers, n_different, n_unmatched, largest, where)


def _cells(lines: Iterable[str]) -> dict[tuple[str, ...], str]:
    """What a table holds, by the names that belong to each value."""
    rows = list(csv.DictReader(lines))
    if rows and "value" in rows[0]:
        return {
            (row["network"], row["metric"], row["split"], "step", row["step"]): (
                f"{row['value']} {row['time']}"
            )
            for row in rows
        }
    return {(name,): value for row in rows for name, value in row.items()}


def _gap(old: str, new: str) -> float:
    try:
        a, b = float(old.split()[0]), float(new.split()[0])
    except (ValueError, IndexError):
        return float("inf")
    return abs(a - b) / max(abs(a), abs(b), 1e-300)


def _compute(config: Config, then: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    from experiments import compilation, pipeline, provenance

    compilation.use_cache(config)
    began = time.time()
    found = pipeline.run(config, store.run_id(config))
    return found, provenance.describe(began, {})


def _keep_to(n_cores: int | None) -> None:
    """Use as many cores as the run did: their number decides how sums are split."""
    if n_cores is None or not hasattr(os, "sched_setaffinity"):
        return
    mine = sorted(os.sched_getaffinity(0))
    if n_cores < len(mine):
        os.sched_setaffinity(0, mine[:n_cores])


def _record(place: Path) -> dict[str, Any]:
    try:
        return json.loads((place / "provenance.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NotFound(f"{place / 'provenance.json'} cannot be read: {error}") from None


def _verdict(
    place: Path, compared: Comparison, then: dict[str, Any], now: dict[str, Any]
) -> str:
    from experiments import provenance

    changed = provenance.differences(then, now)
    patch = place / "changes.patch"
    before = patch.read_text(encoding="utf-8") if patch.exists() else ""
    if before != provenance.checkout().patch:
        changed.append("the uncommitted changes to the code (then: changes.patch)")
    n, wrong = compared.n_numbers, compared.n_different
    if not wrong:
        lines = [f"{n} numbers, all the same bit for bit."]
    else:
        lines = [
            f"{wrong} of {n} numbers differ, by up to {compared.largest:.2g} relative "
            f"({compared.where})."
        ]
    if compared.n_unmatched:
        lines.append(f"{compared.n_unmatched} were measured only then, or only now.")
    if changed:
        lines += ["What is not as it was then:", *(f"  {line}" for line in changed)]
    elif wrong:
        lines.append(
            "Machine, versions, cores, settings and code are as they were: this should "
            "not be, and is worth an issue."
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
