"""DataReport: what was understood of a data set, what was left out, and what can be done with the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from fewshot.errors import ImageError
from fewshot.images.audit import AuditedDataset
from fewshot.images.dataset import ImageDataset
from fewshot.images.findings import Finding, shortened, summarised
from fewshot.images.folds import MAX_FOLDS, units_per_class

SCHEMA_VERSION = 1
Verdict: TypeAlias = Literal["good", "warnings", "problems"]

UNEQUAL, VERY_UNEQUAL = 2.0, 10.0
"""Largest class over smallest: from the first on it is worth knowing, from the second on it looks wrong."""


@dataclass(frozen=True)
class SetReport:
    """One set of images.

    Attributes:
        source: how it was given.
        n_given: images that were found.
        n_used: images that are left: readable, each picture once, and in a test set none that is in training.
        classes: images of each class that are left.
        skipped: images that cannot be read, with the reason.
    """

    source: str
    n_given: int
    n_used: int
    classes: dict[str, int]
    skipped: tuple[ImageError, ...]

    @property
    def imbalance(self) -> float | None:
        """Images of the largest class over those of the smallest."""
        counts = self.classes.values()
        return max(counts) / min(counts) if counts and min(counts) else None

    def to_dict(self) -> dict[str, Any]:
        """Turn into plain data for JSON."""
        imbalance = self.imbalance
        return {
            "source": self.source,
            "n_given": self.n_given,
            "n_used": self.n_used,
            "classes": self.classes,
            "imbalance": None if imbalance is None else round(imbalance, 3),
            "skipped": [{"image": e.source, "code": e.code, "message": e.message} for e in self.skipped],
        }


@dataclass(frozen=True)
class Use:
    """Something that the images may be used for: whether they can, and why, or why not.

    ``name`` is ``"fit"``, ``"test-set"`` or ``"cross-validation"`` (an accuracy by it), or ``"episodes"``.
    """

    name: str
    possible: bool
    reason: str


@dataclass(frozen=True, repr=False)
class DataReport:
    """What was understood of a data set, what was left out, and what can be done with the rest.

    Attributes:
        train: the images to train on; ``None`` where they could not even be collected.
        test: those to test on, where there are any.
        findings: everything worth knowing, in the order it was found; see :mod:`fewshot.images.findings`.
        uses: what the images can be used for.
    """

    train: SetReport | None
    test: SetReport | None
    findings: tuple[Finding, ...]
    uses: tuple[Use, ...]

    def __str__(self) -> str:
        lines = [repr(self), *(f"{finding.severity}: {finding.message}" for finding in summarised(self.findings))]
        return "\n".join(lines)

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {code}" for code, count in self.counts().items())
        return f"<DataReport: {self.verdict}{f'; {counts}' if counts else ''}>"

    @property
    def verdict(self) -> Verdict:
        """``"problems"`` where training stops, ``"warnings"`` where something was left out or looks wrong."""
        severities = {finding.severity for finding in self.findings}
        return "problems" if "error" in severities else "warnings" if "warning" in severities else "good"

    def exit_code(self, *, strict: bool = False) -> int:
        """Give 0, or 1 where there are problems; with ``strict`` warnings are problems."""
        return int(self.verdict == "problems" or (strict and self.verdict == "warnings"))

    def counts(self) -> dict[str, int]:
        """Count findings by code."""
        return dict(Counter(finding.code for finding in self.findings))

    def to_dict(self) -> dict[str, Any]:
        """Turn into plain data for JSON."""
        return {
            "schema": SCHEMA_VERSION,
            "verdict": self.verdict,
            "train": None if self.train is None else self.train.to_dict(),
            "test": None if self.test is None else self.test.to_dict(),
            "uses": [asdict(use) for use in self.uses],
            "counts": self.counts(),
            "findings": [finding.to_dict() for finding in self.findings],
        }


def describe(
    train: AuditedDataset,
    test: AuditedDataset | None = None,
    *,
    source: str = "",
    test_source: str = "",
) -> DataReport:
    """Report on audited data.

    Args:
        train: the images to train on.
        test: those to test on, without those that are in training.
        source: how ``train`` was given.
        test_source: how ``test`` was given.
    """
    findings = [*train.findings, *(test.findings if test is not None else ())]
    findings += class_findings(train.dataset, test.dataset if test is not None else None)
    return DataReport(
        _set_report(train, source),
        None if test is None else _set_report(test, test_source),
        tuple(findings),
        tuple(_uses(train, test, findings)),
    )


def class_findings(train: ImageDataset, test: ImageDataset | None) -> list[Finding]:
    """Find what is wrong with the classes: too few, unequal, only in one of the sets."""
    counts, findings = {name: n for name, n in train.counts().items() if n}, []
    if len(counts) < 2:
        findings.append(Finding("TOO_FEW_CLASSES", too_few_classes(list(counts)), severity="error"))
    if test is not None:
        strangers = sorted(set(test.labels) - set(counts))
        if strangers:
            findings.append(Finding("UNKNOWN_CLASS", unknown_classes(strangers, list(counts)), severity="error"))
        missing = sorted(set(counts) - set(test.labels))
        if missing:
            findings.append(Finding("UNTESTED_CLASS", untested_classes(missing), severity="warning"))
    findings += imbalance(train, "")
    return findings + (imbalance(test, " in the test set") if test is not None else [])


def imbalance(dataset: ImageDataset, where: str) -> list[Finding]:
    """Note where a class has many more images than another."""
    counts = {name: n for name, n in dataset.counts().items() if n}
    if not counts or max(counts.values()) < UNEQUAL * min(counts.values()):
        return []
    small, large = min(counts, key=lambda name: counts[name]), max(counts, key=lambda name: counts[name])
    said = (
        f"Classes are unequal{where}: {counts[large]} images of {large!r}, {counts[small]} of {small!r}. Read the "
        "balanced accuracy beside the accuracy."
    )
    severe = counts[large] >= VERY_UNEQUAL * counts[small]
    return [Finding("IMBALANCE", said, severity="warning" if severe else "info")]


def too_few_classes(names: Sequence[str]) -> str:
    """Say that a classifier needs two classes."""
    said = (
        f"Found {len(names)} class{'' if len(names) == 1 else 'es'} ({', '.join(map(repr, names))}); a classifier "
        "needs images of at least 2 classes. Put them into one folder per class."
    )
    return f"{said} To tell what is not of a single class: `fewshot fit --single-class`." if len(names) == 1 else said


def unknown_classes(strangers: Sequence[str], known: Sequence[str]) -> str:
    """Say that the test set has classes that training has not."""
    return (
        f"The test set has classes that training has not: {', '.join(map(repr, strangers))}. Training has "
        f"{', '.join(map(repr, known))}. Rename or remove them in the test set, or add training images of them."
    )


def untested_classes(missing: Sequence[str]) -> str:
    """Say that the test set lacks classes."""
    return f"No test images of {', '.join(missing)}: nothing is known about these classes."


def _set_report(audited: AuditedDataset, source: str) -> SetReport:
    counts = {name: n for name, n in audited.dataset.counts().items() if n}
    return SetReport(source, audited.n_given, len(audited.dataset), counts, audited.skipped)


_OF_TESTING = ("UNKNOWN_CLASS", "NOTHING_TO_TEST")
"""Errors that leave the training images as good as they were."""


def _uses(train: AuditedDataset, test: AuditedDataset | None, findings: Sequence[Finding]) -> list[Use]:
    """Tell what the images can be used for: training, both kinds of accuracy, episodes."""
    errors = list(dict.fromkeys(finding.code for finding in findings if finding.severity == "error"))
    stops = [code for code in errors if code not in _OF_TESTING]
    if stops:
        names = ("fit", "cross-validation", "episodes")
        return [Use(name, False, f"first mend {', '.join(stops)}") for name in names]
    uses = [Use("fit", True, "every class has an image")]
    if bad := [code for code in errors if code in _OF_TESTING]:
        uses.append(Use("test-set", False, f"first mend {', '.join(bad)}"))
    elif test is not None and len(test.dataset):
        uses.append(Use("test-set", True, f"{len(test.dataset)} test images"))
    units = units_per_class(train.dataset.labels, train.groups)
    single = [name for name, n in units.items() if n < 2]
    if single:
        why = f"needs 2 images of every class that are not versions of one picture; there is one of {shortened(single)}"
        uses.append(Use("cross-validation", False, why))
    else:
        uses.append(Use("cross-validation", True, f"{min(MAX_FOLDS, *units.values())} folds"))
    fewest = min(train.dataset.counts().values())
    if fewest < 2:
        why = "needs 2 images of every class: one to learn from, one to ask about"
        uses.append(Use("episodes", False, why))
    else:
        why = f"up to {fewest - 1} training images per class, and one to ask about"
        uses.append(Use("episodes", True, why))
    return uses
