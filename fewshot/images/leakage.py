"""Test images that are training images: byte for byte, as another version of the same picture, or as the next frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fewshot.errors import DatasetError
from fewshot.images.audit import AuditedDataset
from fewshot.images.findings import Finding
from fewshot.images.frames import frame_runs
from fewshot.images.near import near_pairs


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


def find_leaks(train: AuditedDataset, test: AuditedDataset) -> list[Leak]:
    """Find the test images that are in the training set, in order."""
    trained = {digest: position for position, digest in enumerate(train.digests)}
    leaks = [Leak(i, trained[digest], 1.0, True) for i, digest in enumerate(test.digests) if digest in trained]
    exact = {leak.test for leak in leaks}
    others = [i for i in range(len(test.digests)) if i not in exact]
    for pair in near_pairs(test.prints[others], train.prints):
        position = others[pair.first]
        # Of two classes, mirror images may be what tells them apart, as b and d.
        if not pair.mirrored or test.dataset.labels[position] == train.dataset.labels[pair.second]:
            leaks.append(Leak(position, pair.second, pair.similarity, False))
    return sorted(leaks, key=lambda leak: leak.test)


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
    leaks = find_leaks(train, test)
    findings = [*leak_findings(train, test, leaks, kept=keep_near_duplicates), *split_frames(train, test)]
    gone = {leak.test for leak in leaks if leak.exact or not keep_near_duplicates}
    if gone and len(gone) == len(test.digests):
        raise DatasetError(nothing_left(leaks))
    if not findings:
        return test
    return test.only([i for i in range(len(test.digests)) if i not in gone], *findings)


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
        fate = "was kept, as asked" if kept and not leak.exact else "was taken out of the test set"
        if leak.exact:
            said, code = f"Leakage: {name} is the same file as {twin} and {fate}.", "LEAKAGE"
        else:
            said = f"Leakage: {name} shows the same picture as {twin} (similarity {leak.similarity:.3f}) and {fate}."
            code = "NEAR_LEAKAGE"
        mine, theirs = test.dataset.labels[leak.test], train.dataset.labels[leak.train]
        if mine != theirs:
            conflict = "LABEL_CONFLICT" if leak.exact else "NEAR_CONFLICT"
            said += f" {conflict}: there it is {mine!r}, in training {theirs!r}."
        findings.append(Finding(code, said, (name, twin), "warning"))
    return findings


def split_frames(train: AuditedDataset, test: AuditedDataset) -> list[Finding]:
    """Find videos of which some frames are trained on and some tested on."""
    names, boundary = (*train.dataset.names, *test.dataset.names), len(train.digests)
    runs = frame_runs(names, (*train.dataset.labels, *test.dataset.labels), np.concatenate([train.prints, test.prints]))
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
