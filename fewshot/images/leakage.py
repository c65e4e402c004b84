"""Test images that are training images: byte for byte, as another version of the same picture, or as the next frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fewshot.errors import DatasetError
from fewshot.images.alike import one_picture, too_many
from fewshot.images.audit import AuditedDataset
from fewshot.images.findings import Finding
from fewshot.images.frames import frame_runs


@dataclass(frozen=True)
class Leak:
    """A test image that is in the training set.

    Attributes:
        test: position of the test image.
        train: position of the training image.
        similarity: 1 where they are the same, byte for byte.
        exact: whether they are.
    """

    test: int
    train: int
    similarity: float
    exact: bool


@dataclass(frozen=True)
class Leakage:
    """What two data sets share.

    Attributes:
        leaks: the test images that are in training, in order.
        gone: positions of those that are to be taken out of the test set.
        findings: what to tell.
    """

    leaks: tuple[Leak, ...]
    gone: frozenset[int]
    findings: tuple[Finding, ...]


def find_leaks(train: AuditedDataset, test: AuditedDataset) -> list[Leak]:
    """Find the test images that are in the training set, in order."""
    return _leaks(train, test)[0]


def find_leakage(train: AuditedDataset, test: AuditedDataset, *, keep_near_duplicates: bool = False) -> Leakage:
    """Find what two data sets share, and decide what is to be taken out of the test set.

    What is the same byte for byte always is. A near-duplicate is not where training has it under another label (the
    hardest images would go, and the accuracy be flattered), nor where so many would go that the data all look alike.
    """
    leaks, findings = _leaks(train, test)
    mine, theirs = test.dataset.labels, train.dataset.labels
    near = [leak for leak in leaks if not leak.exact]
    same = [leak.test for leak in near if mine[leak.test] == theirs[leak.train]]
    gone = {leak.test for leak in leaks if leak.exact}
    if too_many(mine, [mine[i] for i in same]):
        told = [leak for leak in leaks if leak.exact]
        findings = [_all_alike(test, near), *findings]
    else:
        told = leaks
        gone |= set() if keep_near_duplicates else set(same)
    findings = [*leak_findings(train, test, told, kept=keep_near_duplicates), *findings, *split_frames(train, test)]
    return Leakage(tuple(leaks), frozenset(gone), tuple(findings))


def _leaks(train: AuditedDataset, test: AuditedDataset) -> tuple[list[Leak], list[Finding]]:
    trained = {digest: position for position, digest in enumerate(train.digests)}
    leaks = [Leak(i, trained[digest], 1.0, True) for i, digest in enumerate(test.digests) if digest in trained]
    exact = {leak.test for leak in leaks}
    others = [i for i in range(len(test.digests)) if i not in exact]
    tested = test.prints[others], test.tints[others], [test.dataset.labels[i] for i in others]
    same, other, cut = one_picture(tested, (train.prints, train.tints, train.dataset.labels))
    known = {pair.first for pair in same}
    for pair in (*same, *(pair for pair in other if pair.first not in known)):
        leaks.append(Leak(others[pair.first], pair.second, pair.similarity, False))
    return sorted(leaks, key=lambda leak: leak.test), cut


def _all_alike(test: AuditedDataset, near: Sequence[Leak]) -> Finding:
    said = (
        f"The data all look alike: {len(near)} of {len(test.digests)} test images look like versions of training "
        "images. All were kept in the test set. Where they are versions of the same pictures, the accuracy is "
        "flattered: tell by hand."
    )
    return Finding("ALL_ALIKE", said, tuple(test.dataset.names[leak.test] for leak in near), "warning")


def without_leakage(
    train: AuditedDataset, test: AuditedDataset, *, keep_near_duplicates: bool = False
) -> AuditedDataset:
    """Take out of the test set what is also in the training set.

    Args:
        train: what is learned from.
        test: what is asked about.
        keep_near_duplicates: take out only what is the same byte for byte, and list the near-duplicates: pictures of
            flat things that are all photographed alike may be taken for each other.

    Returns:
        The cleaned test set, with a finding for each picture taken out.

    Raises:
        DatasetError: nothing is left to test on.
    """
    found = find_leakage(train, test, keep_near_duplicates=keep_near_duplicates)
    if found.gone and len(found.gone) == len(test.digests):
        raise DatasetError(nothing_left(found.leaks))
    if not found.findings:
        return test
    return test.only([i for i in range(len(test.digests)) if i not in found.gone], *found.findings)


def nothing_left(leaks: Sequence[Leak]) -> str:
    """Say that every test image is in training."""
    near = sum(not leak.exact for leak in leaks)
    also = f", {near} of them as near-duplicates (--keep-near-duplicates keeps these)" if near else ""
    return f"Every test image is also a training image{also}; give other images to test on."


def leak_findings(
    train: AuditedDataset, test: AuditedDataset, leaks: Sequence[Leak], *, kept: bool = False
) -> list[Finding]:
    """Describe leaks; ``kept`` says that near-duplicates stay in the test set."""
    names, twins = test.dataset.names, train.dataset.names
    findings = []
    for leak in leaks:
        name, twin = names[leak.test], twins[leak.train]
        mine, theirs = test.dataset.labels[leak.test], train.dataset.labels[leak.train]
        fate = "was taken out of the test set"
        if not leak.exact and mine != theirs:
            fate = "stays in the test set"
        elif not leak.exact and kept:
            fate = "was kept, as asked"
        if leak.exact:
            said, code = f"Leakage: {name} is the same file as {twin} and {fate}.", "LEAKAGE"
        else:
            said = f"Leakage: {name} shows the same picture as {twin} (similarity {leak.similarity:.3f}) and {fate}."
            code = "NEAR_LEAKAGE"
        if mine != theirs:
            conflict = "LABEL_CONFLICT" if leak.exact else "NEAR_CONFLICT"
            said += f" {conflict}: there it is {mine!r}, in training {theirs!r}."
        findings.append(Finding(code, said, (name, twin), "warning"))
    return findings


def split_frames(train: AuditedDataset, test: AuditedDataset) -> list[Finding]:
    """Find videos of which some frames are trained on and some tested on."""
    names, boundary = (*train.dataset.names, *test.dataset.names), len(train.digests)
    runs = frame_runs(
        names,
        (*train.dataset.labels, *test.dataset.labels),
        np.concatenate([train.prints, test.prints]),
        across_folders=True,
    )
    findings = []
    for run in runs:
        tested = sum(position >= boundary for position in run.members)
        if 0 < tested < len(run.members):
            said = (
                f"Frames of one video of {run.label!r} are in training ({len(run.members) - tested}) and in the test "
                f"set ({tested}), {names[run.members[0]]} to {names[run.members[-1]]}: its accuracy is that of "
                "recognising a scene. Split by video, not by frame."
            )
            findings.append(Finding("FRAME_LEAKAGE", said, tuple(names[i] for i in run.members), "warning"))
    return findings
