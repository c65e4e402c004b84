"""Findings: what was understood of a data set and what was left out, for people and for programs alike.

Codes (besides the reason codes of :mod:`fewshot.images.reader`, which unreadable images keep):

``SPLITS`` train and test folders recognised · ``SKIPPED_FILES`` files without an image suffix ·
``EMPTY_CLASS`` a class folder without images · ``LOOSE_IMAGES`` images outside any class folder ·
``MERGED_LABELS`` labels written differently that are one class · ``DUPLICATE`` the same picture again ·
``LABEL_CONFLICT`` one picture under two labels · ``LEAKAGE`` a test picture that is in training too ·
``NOTE`` anything else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Severity: TypeAlias = Literal["info", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One thing worth knowing about a data set.

    Attributes:
        code: a stable word for programs; see the module.
        message: a sentence for people, with what to do where something is to be done.
        images: names of the images it is about, all of them, however many the message shows.
        severity: ``"info"`` (understood so), ``"warning"`` (something was left out or looks wrong) or ``"error"``
            (nothing can be trained on it as it is).
    """

    code: str
    message: str
    images: tuple[str, ...] = ()
    severity: Severity = "info"

    def to_dict(self) -> dict[str, Any]:
        """Turn into plain data for JSON."""
        return {"code": self.code, "severity": self.severity, "message": self.message, "images": list(self.images)}


def messages(findings: Iterable[Finding]) -> tuple[str, ...]:
    """Give the sentences alone."""
    return tuple(finding.message for finding in findings)
