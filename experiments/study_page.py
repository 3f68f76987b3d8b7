"""The page of a study: question, verdict, figures, tables, configuration, origin."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments import answers, page
from experiments.grouping import groups, varying_columns
from experiments.study import Study
from experiments.tables import is_config_column
from experiments.verdicts import MET, overall

# What differs between any two runs and says nothing of how they were made.
_OF_ONE_RUN = ("started", "finished", "seconds", "seed")


class Picture(NamedTuple):
    """A figure as it stands in a page."""

    png: bytes
    width: int  # in CSS pixels
    name: str
    description: str  # for who cannot see it


def page_of(study: Study, pictures: Sequence[Picture]) -> str:
    """The page of a study, as HTML."""
    return page.page(_title(study), _body(study, pictures))


def _title(study: Study) -> str:
    name = study.path.resolve().name
    return study.asked.question.strip() or f"The runs of {name}"


def _body(study: Study, pictures: Sequence[Picture]) -> Iterator[str]:
    summaries = study.runs.summaries
    origins = [_origin(directory) for directory in study.runs.directories]
    yield page.heading(_title(study), 1)
    n = len(summaries)
    dates = sorted(str(o["finished"])[:10] for o in origins if o.get("finished"))
    when = f", {dates[0]}" if dates else ""
    if dates and dates[-1] != dates[0]:
        when += f" to {dates[-1]}"
    name = study.path.resolve().name
    yield page.paragraph(f"Study {name}: {n} run{'s' * (n > 1)}{when}.", "soft")
    if len(study.verdicts):
        good = bool((study.verdicts["verdict"] == MET).all())
        text = overall(study.verdicts)
        kind = "verdict good" if good else "verdict bad"
        yield page.paragraph(f"{text[0].upper()}{text[1:]}.", kind)
        yield page.heading("What was expected")
        yield page.table(answers.verdicts(study))
    yield page.heading("Figures")
    for picture in pictures:
        caption = picture.name[0].upper() + picture.name[1:]
        yield page.figure(picture.png, picture.width, caption, picture.description)
    yield page.heading("Results")
    yield page.table(answers.means(study, intervals=True))
    if study.slopes_matter:
        yield page.table(answers.slopes(study))
    if notes := answers.notes(study):
        yield page.heading("Notes")
        yield from map(page.paragraph, notes)
    yield page.heading("Configuration")
    yield from _configuration(study)
    yield page.heading("Provenance")
    yield page.definitions(_provenance(origins))


def _configuration(study: Study) -> Iterator[str]:
    """What was swept, and what all runs share."""
    summaries = study.runs.summaries
    varying = varying_columns(summaries)
    columns = [name for name in summaries if is_config_column(str(name))]
    values = {
        str(name): [_word(value) for (value,), _ in groups(summaries, [str(name)])]
        for name in columns
    }
    seeds = sorted(set(summaries["seed"]))
    swept = {name: ", ".join(values[name]) for name in varying}
    yield page.paragraph("Swept:", "soft")
    yield page.definitions(swept | {"seed": ", ".join(map(str, seeds))})
    shared = {n: found[0] for n, found in values.items() if n not in varying}
    yield page.paragraph("The same in all runs:", "soft")
    yield page.definitions({n: value for n, value in shared.items() if value != "-"})


def _origin(directory: Path) -> dict[str, Any]:
    try:
        text = (directory / "provenance.json").read_text(encoding="utf-8")
        found = json.loads(text)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _provenance(origins: list[dict[str, Any]]) -> dict[str, str]:
    """What the runs were computed with, each thing with all values that it had."""
    values: dict[str, dict[str, int]] = {}
    for origin in origins:
        for name, value in _flat(origin):
            if name not in _OF_ONE_RUN:
                counts = values.setdefault(name, {})
                counts[value] = counts.get(value, 0) + 1
    seconds = [float(o["seconds"]) for o in origins if _is_number(o.get("seconds"))]
    found = {"time of all runs": f"{sum(seconds):.0f} s"} if seconds else {}
    without = sum(not origin for origin in origins)
    if without:
        found["no record"] = f"{without} run{'s' * (without > 1)}"
    for name, counts in values.items():
        listed = [
            value if len(counts) == 1 else f"{value} ({n} run{'s' * (n > 1)})"
            for value, n in sorted(counts.items(), key=lambda item: -item[1])
        ]
        more = f" and {len(listed) - 4} others" if len(listed) > 4 else ""
        found[name] = "; ".join(listed[:4]) + more
    return found


def _flat(origin: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in origin.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key} ")
        elif isinstance(value, list):
            yield f"{prefix}{key}", " ".join(map(str, value))
        elif value is not None and value != "":
            yield f"{prefix}{key}", str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and value == value


def _word(value: Any) -> str:
    return "-" if value is None or value != value else str(value)
