"""Findings: what was understood of a data set and what was left out, for people and for programs alike.

Codes are stable. Besides the reason codes of :mod:`fewshot.images.reader`, which unreadable images keep, and those of
remarks on images that were read (``examine`` in :mod:`fewshot.images.decoding`):

What was collected: ``SPLITS`` train and test folders recognised · ``WRAPPER`` a folder that only holds another ·
``SKIPPED_FILES`` files without an image suffix · ``SKIPPED_FOLDERS`` folders that are no classes · ``IGNORED`` hidden
files and what systems leave behind · ``LINKS`` links to what is there already · ``PERMISSION``, ``VANISHED``,
``NOT_A_FILE``, ``UNREADABLE`` files and folders that could not be listed · ``EMPTY_CLASS`` a class folder without
images · ``LOOSE_IMAGES`` images outside any class folder · ``MERGED_LABELS`` labels written differently that are one
class · ``SIMILAR_LABELS`` classes whose names hardly differ · ``UNUSED_COLUMNS`` columns of a table that are not
read · ``NOTE`` anything else.

What the images are to each other: ``DUPLICATE`` the same picture again, byte for byte · ``NEAR_DUPLICATE`` the same
picture saved again, smaller, cropped, brighter or mirrored · ``FRAMES`` images that look like frames of one video ·
``LABEL_CONFLICT`` one picture under two labels · ``NEAR_CONFLICT`` the same of near-duplicates · ``LEAKAGE`` a test
picture that is in training too · ``NEAR_LEAKAGE`` one whose near-duplicate is · ``FRAME_LEAKAGE`` frames of one video
in both · ``ALL_ALIKE`` so many near-duplicates that the data must all look alike: none were left out or grouped, and an
accuracy is flattered if they are versions of one picture · ``ONE_VIDEO`` a class that is all frames of one video, which
therefore count as images of their own · ``NEAR_SEARCH_CUT`` so many look-alikes that not all were compared.

What can be done with them: ``TOO_MANY_UNREADABLE`` · ``UNREADABLE_CLASS`` a class without a readable image ·
``TOO_FEW_CLASSES`` · ``UNKNOWN_CLASS`` a class of the test set that training lacks · ``UNTESTED_CLASS`` one that the
test set lacks · ``NOTHING_TO_TEST`` every test image is in training · ``IMBALANCE`` · ``FEW_IMAGES`` too few for
cross-validation · ``CANNOT_LOAD`` nothing could be collected at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Severity: TypeAlias = Literal["info", "warning", "error"]

SHOWN = 3
"""Findings of one kind that are told one by one; of more, the first is, and the others are counted."""


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
    """Give the sentences alone; of more than a few findings of one code only the first, with the number of the rest."""
    return tuple(finding.message for finding in summarised(findings))


def summarised(findings: Iterable[Finding]) -> list[Finding]:
    """Put more than a few findings of one code into one, which has all their images."""
    kinds: dict[str, list[Finding]] = {}
    for finding in findings:
        kinds.setdefault(finding.code, []).append(finding)
    result: list[Finding] = []
    for kind in kinds.values():
        result += [_merged(kind)] if len(kind) > SHOWN else kind
    return result


def _merged(findings: Sequence[Finding]) -> Finding:
    first, others = findings[0], findings[1:]
    # Only the first name of each: the others are what it is like.
    names = list(dict.fromkeys(finding.images[0] for finding in others if finding.images))
    listed = f": {shortened(names)}" if names else ""
    said = f"{first.message} {len(others)} more are like that [{first.code}]{listed}."
    images = tuple(dict.fromkeys(name for finding in findings for name in finding.images))
    severities = {finding.severity for finding in findings}
    worst: Severity = "error" if "error" in severities else "warning" if "warning" in severities else "info"
    return Finding(first.code, said, images, worst)


def shortened(names: Sequence[str], shown: int = SHOWN) -> str:
    """List the first few names, and say how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
