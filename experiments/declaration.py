"""The question of a study, left in its directory and read back.

A sweep leaves its `analysis` block in `<study>/study.yaml`: the newest declaration
counts, also where all runs were finished before it was changed. Without that file the
configs of the runs tell.
"""

import re
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from experiments.files import replacing
from experiments.question import AnalysisConfig, from_plain

FILE = "study.yaml"


def write(study: Path, analysis: AnalysisConfig) -> Path:
    """Leave a declaration in the study's directory."""
    import yaml

    text = yaml.safe_dump({"analysis": asdict(analysis)}, sort_keys=False)
    with replacing(study / FILE) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return study / FILE


def read(directories: Iterable[Path]) -> tuple[AnalysisConfig, list[str]]:
    """The one question of these run directories, and what a reader should know of it.

    Where the runs of several studies ask different things, none is taken.
    """
    by_study: dict[Path, list[Path]] = {}
    for directory in directories:
        by_study.setdefault(directory.parent, []).append(directory)
    notes: list[str] = []
    found: dict[Path, AnalysisConfig] = {}
    for study, runs in by_study.items():
        try:
            analysis = _declared(study, runs, notes)
        except _Unreadable as error:
            notes.append(str(error))
            continue
        if analysis != AnalysisConfig() and analysis not in found.values():
            found[study] = analysis
    if len(found) > 1:
        notes.append(
            f"The runs belong to {len(found)} studies that ask different things "
            f"({', '.join(map(str, found))}), so none is answered. Analyse one study "
            "at a time, or give --x and --from."
        )
    one = list(found.values())[0] if len(found) == 1 else AnalysisConfig()
    return one, notes


class _Unreadable(Exception):
    """A file that holds no declaration, and why."""


def _declared(study: Path, runs: list[Path], notes: list[str]) -> AnalysisConfig:
    if (study / FILE).exists():
        return _parsed(study / FILE, _block(study / FILE))
    configs = [run / "config.yaml" for run in runs]
    blocks = {path: _block(path) for path in configs}
    distinct = {text: path for path, text in blocks.items()}
    if len(distinct) > 1:
        newest = max(configs, key=lambda path: path.stat().st_mtime)
        notes.append(
            f"The runs in {study} carry {len(distinct)} different `analysis` blocks; "
            f"that of the newest run counts, see {newest}."
        )
        return _parsed(newest, blocks[newest])
    return _parsed(configs[0], blocks[configs[0]])


def _block(path: Path) -> str:
    """The text of the `analysis` block; parsing all of a thousand configs is slow."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise _Unreadable(f"{path} cannot be read: {error}") from error
    found = re.search(r"^analysis:.*\n((?:[ \t-].*\n|\n)*)", text + "\n", re.MULTILINE)
    return found[0] if found else ""


def _parsed(path: Path, text: str) -> AnalysisConfig:
    import yaml

    try:
        block: Any = yaml.safe_load(text) or {}
        # that a sweep analyses itself is no part of what it asks
        return replace(from_plain(block.get("analysis") or {}), after_sweep=False)
    except (AttributeError, TypeError, ValueError, yaml.YAMLError) as error:
        raise _Unreadable(
            f"{path}: its `analysis` block cannot be used: {error}"
        ) from error
