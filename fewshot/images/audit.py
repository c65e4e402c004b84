"""What is wrong with a data set before anything is computed: unreadable files, repeats, conflicts, leakage."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import joblib

from fewshot.errors import DatasetError, ImageError
from fewshot.images.dataset import ImageDataset
from fewshot.images.findings import Finding, messages
from fewshot.images.reader import ImageLike, decode, read_payload

MAX_BAD_SHARE = 0.05
"""With more unreadable images than this share, a run stops: something is wrong with the data as a whole."""


@dataclass(frozen=True)
class AuditedDataset:
    """A data set whose images all decode.

    Attributes:
        dataset: the readable images, each picture once; the class names are those that have images.
        digests: (n,) content digest of each image, all different.
        skipped: why each left-out image was left out.
        findings: what was understood when the images were collected, and what was found now.
    """

    dataset: ImageDataset
    digests: tuple[str, ...]
    skipped: tuple[ImageError, ...]
    findings: tuple[Finding, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What was found, one sentence each."""
        return messages(self.findings)


def audit(dataset: ImageDataset, *, strict: bool = False) -> AuditedDataset:
    """Read every image once; leave out those that cannot be read and exact repeats, and say so.

    A picture that is there twice would count twice in an accuracy, and could be trained on in one fold of a
    cross-validation and tested in another.

    Args:
        dataset: what to look at.
        strict: raise at the first unreadable image instead of leaving it out.

    Raises:
        ImageError: with ``strict``, the first unreadable image.
        DatasetError: more than 5 % of the images cannot be read, or all of a class; or one picture has two labels.
    """
    with ThreadPoolExecutor(int(joblib.cpu_count())) as pool:
        outcomes = list(pool.map(_digest_or_error, dataset.sources))
    skipped = tuple(outcome for outcome in outcomes if isinstance(outcome, ImageError))
    if strict and skipped:
        raise skipped[0]
    readable = {i: outcome for i, outcome in enumerate(outcomes) if isinstance(outcome, str)}
    _stop_if_too_many(dataset, dataset.subset(list(readable)), skipped)
    left_out = [Finding(error.code, f"Left out: {error}", (error.source,), "warning") for error in skipped]
    findings = (*dataset.findings, *left_out, *_repeats(dataset, readable))
    once = {digest: i for i, digest in reversed(readable.items())}
    kept = sorted(once.values())
    return AuditedDataset(_only(dataset, kept), tuple(readable[i] for i in kept), skipped, findings)


def without_leakage(train: AuditedDataset, test: AuditedDataset) -> AuditedDataset:
    """Take out of the test set what is also, byte for byte, in the training set.

    Returns:
        The cleaned test set, with a finding for each picture taken out.

    Raises:
        DatasetError: nothing is left to test on.
    """
    trained = dict(zip(train.digests, train.dataset.names, strict=True))
    leaked = [i for i, digest in enumerate(test.digests) if digest in trained]
    if not leaked:
        return test
    if len(leaked) == len(test.digests):
        raise DatasetError("Every test image is also a training image; give other images to test on.")
    names = test.dataset.names
    label_of = dict(zip(train.digests, train.dataset.labels, strict=True))
    leaks = []
    for i in leaked:
        twin = trained[test.digests[i]]
        said = f"Leakage: {names[i]} is the same file as {twin} and was taken out of the test set."
        said += _other_label(test.dataset.labels[i], label_of[test.digests[i]])
        leaks.append(Finding("LEAKAGE", said, (names[i], twin), "warning"))
    kept = [i for i in range(len(test.digests)) if i not in set(leaked)]
    digests = tuple(test.digests[i] for i in kept)
    return AuditedDataset(_only(test.dataset, kept), digests, test.skipped, (*test.findings, *leaks))


def _only(dataset: ImageDataset, kept: list[int]) -> ImageDataset:
    part = dataset.subset(kept)
    return replace(part, class_names=tuple(sorted(set(part.labels))))


def _other_label(test: str, train: str) -> str:
    return f" LABEL_CONFLICT: there it is {test!r}, in training {train!r}." if test != train else ""


def _digest_or_error(source: ImageLike) -> str | ImageError:
    try:
        payload = read_payload(source)
        decode(payload)
    except ImageError as error:
        return error
    return payload.digest


def _stop_if_too_many(before: ImageDataset, after: ImageDataset, skipped: tuple[ImageError, ...]) -> None:
    if not skipped:
        return
    shown = "; ".join(str(error) for error in skipped[:5]) + (
        f"; and {len(skipped) - 5} more" if len(skipped) > 5 else ""
    )
    emptied = sorted(set(before.labels) - set(after.labels))
    if emptied:
        raise DatasetError(f"No image of {', '.join(map(repr, emptied))} can be read: {shown}.")
    if len(skipped) > MAX_BAD_SHARE * len(before):
        raise DatasetError(
            f"{len(skipped)} of {len(before)} images cannot be read, more than {MAX_BAD_SHARE:.0%}: {shown}. "
            "Replace or remove them."
        )


def _repeats(dataset: ImageDataset, digests: Mapping[int, str]) -> list[Finding]:
    """Note repeated pictures; refuse one picture under two labels."""
    groups: dict[str, list[int]] = defaultdict(list)
    for position, digest in digests.items():
        groups[digest].append(position)
    names, findings = dataset.names, []
    for members in groups.values():
        if len(members) == 1:
            continue
        labels = sorted({dataset.labels[i] for i in members})
        images = tuple(names[i] for i in members)
        listing = ", ".join(images)
        if len(labels) > 1:
            raise DatasetError(
                f"LABEL_CONFLICT: one picture is labelled {' and '.join(map(repr, labels))}: {listing}. "
                "Keep one of them."
            )
        said = f"The same picture is there {len(members)} times and counts once: {listing}."
        findings.append(Finding("DUPLICATE", said, images, "warning"))
    return findings
