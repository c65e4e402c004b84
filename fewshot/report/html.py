"""The report as one HTML page that needs nothing but itself: no network, no script, no font."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from fewshot.report import svg
from fewshot.report.markdown import (
    MIN_FOR_RANGE,
    best_row,
    headline,
    population,
    show_accuracy,
    show_difference,
    show_seconds,
)
from fewshot.report.model import Report, percent


@dataclass(frozen=True)
class Answer:
    """A class some strategies chose for an image; ``right`` is ``None`` where the image has no label."""

    predicted: str
    right: bool | None
    strategies: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Disputed:
    """An image that the strategies disagree on, with the training image most like it."""

    name: str
    label: str | None
    picture: bytes
    answers: tuple[Answer, ...]
    nearest_name: str
    nearest_label: str | None
    nearest_picture: bytes | None


def render(report: Report) -> str:
    """Give the report as one self-contained HTML page."""
    predicted = bool(report.results and report.test_images)
    several = len(report.strategies) > 1
    page = page_environment().get_template("page.html.jinja")
    text = page.render(
        report=report,
        headline=headline(report),
        best=best_row(report).strategy if report.has_accuracy and several else "",
        population=population(report) if report.has_accuracy else "",
        rows=list(zip(report.strategies, report.summary(), strict=True)),
        families=_families(report),
        disputed=_disputed(report) if predicted and several else [],
        n_disputed=len(report.disagreements()) if predicted and several else 0,
        agreement=predicted and several and not report.has_accuracy,
        curves=svg.training_curves(report),
        svg=svg,
        min_for_range=MIN_FOR_RANGE,
        data=embedded_json(report),
    )
    # Names of files may hold bytes that are no UTF-8; they are escaped rather than lost.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def embedded_json(report: Report) -> str:
    """Give the report as JSON that cannot end the script element it is written into."""
    return safe_json(report.to_dict())


def safe_json(data: Mapping[str, Any]) -> str:
    """Write JSON that no HTML parser reads markup in.

    Outside ASCII everything is escaped, and inside what HTML gives a meaning to; in JSON these characters occur in
    strings only, where an escape means the same character.
    """
    text = json.dumps(data, allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def page_environment() -> Environment:
    """Load the templates, with everything escaped and the number formats as filters."""
    environment = Environment(
        loader=PackageLoader("fewshot.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "accuracy": show_accuracy,
        "difference": show_difference,
        "seconds": show_seconds,
        "percent": percent,
        "jpeg": _data_uri,
        "breakable": _breakable,
    }
    return environment


def _data_uri(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"


def _breakable(path: str) -> Markup:
    """Allow a line to end after the separators of a path, rather than in the middle of a word."""
    return Markup("").join(escape(part) + Markup("<wbr>") * (part in "/\\_") for part in re.split(r"([/\\_])", path))


def _families(report: Report) -> list[tuple[str, str]]:
    """The families that occur, in the order of the legend, with their meaning."""
    present = {svg.family(info) for info in report.strategies}
    return [(name, meaning) for name, meaning in svg.FAMILIES.items() if name in present]


def _disputed(report: Report) -> list[Disputed]:
    chosen = {info.name: _chooser(report, info.name) for info in report.strategies}
    shown = []
    for i in report.disagreements():
        if i not in report.pictures.test:
            continue
        image, like = report.test_images[i], report.nearest[i] if i < len(report.nearest) else None
        nearest = report.train_images[like] if like is not None else None
        shown.append(
            Disputed(
                name=image.name,
                label=image.label,
                picture=report.pictures.test[i],
                answers=_answers(report, image.label, {name: pick(i) for name, pick in chosen.items()}),
                nearest_name=nearest.name if nearest else "",
                nearest_label=nearest.label if nearest else None,
                nearest_picture=report.pictures.train.get(like) if like is not None else None,
            )
        )
    return shown


def _chooser(report: Report, strategy: str) -> Callable[[int], tuple[int, float]]:
    """Look up a strategy's class for an image, and the probability it gives that class."""
    predicted, proba = report.predicted(strategy), report.proba(strategy)
    return lambda i: (int(predicted[i]), float(proba[i, predicted[i]]))


def _answers(report: Report, label: str | None, chosen: dict[str, tuple[int, float]]) -> tuple[Answer, ...]:
    """Group strategies by the class they chose, the right one first, then by votes."""
    votes: dict[str, list[tuple[str, float]]] = {}
    for strategy, (predicted, share) in chosen.items():
        votes.setdefault(report.class_names[predicted], []).append((strategy, share))
    answers = [
        Answer(predicted, predicted == label if report.has_accuracy else None, tuple(chosen))
        for predicted, chosen in votes.items()
    ]
    return tuple(sorted(answers, key=lambda answer: (not answer.right, -len(answer.strategies))))
