"""Inline SVG pictures of a report, made by hand: no script, no font, colours from the page."""

from fewshot.report.svg.base import FAMILIES, family, key_mark
from fewshot.report.svg.confusion import confusion
from fewshot.report.svg.curves import training_curves
from fewshot.report.svg.rows import accuracy, difference, draws, log_loss

__all__ = [
    "FAMILIES",
    "accuracy",
    "confusion",
    "difference",
    "draws",
    "family",
    "key_mark",
    "log_loss",
    "training_curves",
]
