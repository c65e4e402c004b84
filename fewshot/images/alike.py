"""What near-duplicates mean: which are versions of one picture, and when the data simply all look alike.

A fixed camera, a gauge or a form gives images that differ in little but what matters. A search for near-duplicates
takes them for versions of one picture; to leave them out or to keep them in one fold would leave nothing to learn from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fewshot.images.dataset import ImageDataset
from fewshot.images.findings import Finding
from fewshot.images.folds import units_per_class
from fewshot.images.frames import FrameRun
from fewshot.images.near import Allowed, NearPair, Prints, Tint, alike_in_colour, connected, near_pairs

MAX_TEST_SHARE = 0.2
"""Share of a test set above which near-duplicates of training images are no accident."""
MAX_CLASS_SHARE = 0.5
"""The same of a class, in a test set or in training."""
MIN_ALIKE = 3
"""So few images as are less than this may be versions of one picture by accident."""

Pictures: TypeAlias = tuple[Prints, Tint, Sequence[str]]
"""Thumbnails, tints and labels of a data set's images."""


def one_picture(mine: Pictures, others: Pictures | None = None) -> tuple[list[NearPair], list[NearPair], list[Finding]]:
    """Find versions of one picture, within a data set or between two.

    Those of one class are looked for by themselves, so that no image of another class can take their place.

    Returns:
        Pairs with one label, pairs with two, and a finding if not all look-alikes were compared.
    """
    prints, tints, labels = mine
    their_prints, their_tints, their_labels = mine if others is None else others
    names = np.array([*labels, *their_labels])
    codes = np.unique(names, return_inverse=True)[1] if len(names) else np.zeros(0, np.intp)
    own, theirs = codes[: len(labels)], codes[len(labels) :]

    def of_one_class(first: int, seconds: NDArray[np.intp], mirrored: bool) -> NDArray[np.bool_]:
        one_class: NDArray[np.bool_] = theirs[seconds] == own[first]
        return one_class & alike_in_colour(tints[first], their_tints[seconds])

    def of_two(first: int, seconds: NDArray[np.intp], mirrored: bool) -> NDArray[np.bool_]:
        # Mirror images may be what tells two classes apart, as b and d.
        two: NDArray[np.bool_] = (theirs[seconds] != own[first]) & (not mirrored)
        return two & alike_in_colour(tints[first], their_tints[seconds])

    cut: list[int] = []

    def search(allowed: Allowed) -> list[NearPair]:
        return near_pairs(prints, None if others is None else their_prints, allowed=allowed, on_cut=cut.append)

    same = search(of_one_class)
    return same, search(of_two) if len(set(labels) | set(their_labels)) > 1 else [], _cut(cut)


def belonging(
    dataset: ImageDataset, same: Sequence[NearPair], runs: Sequence[FrameRun]
) -> tuple[NDArray[np.intp], list[Finding]]:
    """Group near-duplicates of one class and frames of one video, unless too little would be left of a class.

    Returns:
        (n,) group of each image, by its first member's position, and a finding for what was not grouped, and why.
    """
    labels, n = dataset.labels, len(dataset)
    findings = []
    videos = [(run.members[0], other) for run in runs for other in run.members[1:]]
    few = {label for label, units in units_per_class(labels, connected(n, videos)).items() if units < 2}
    lost = [run for run in runs if run.label in few]
    if lost:
        findings.append(_one_video(dataset, lost))
    kept = [run for run in runs if run.label not in few]
    videos = [(run.members[0], other) for run in kept for other in run.members[1:]]
    run_of = {position: number for number, run in enumerate(kept) for position in run.members}
    # Neighbouring frames are near-duplicates, which does not mean that the data all look alike.
    near = [(one.first, one.second) for one in same if run_of.get(one.first, -1) != run_of.get(one.second, -2)]
    counts = Counter(labels)
    units = units_per_class(labels, connected(n, near))
    alike = sorted(label for label, left in units.items() if left < MAX_CLASS_SHARE * counts[label])
    if sum(counts[label] - units[label] for label in alike) >= MIN_ALIKE:
        findings.append(_all_alike(dataset, alike, near))
        near = []
    return connected(n, [*near, *videos]), findings


def too_many(tested: Sequence[str], gone: Sequence[str]) -> bool:
    """Whether so many of the test set's labels would go that its images must all look alike."""
    if len(gone) < MIN_ALIKE and len(gone) < len(tested):
        return False
    before, lost = Counter(tested), Counter(gone)
    of_class = any(n > MAX_CLASS_SHARE * before[label] for label, n in lost.items())
    return of_class or len(gone) > MAX_TEST_SHARE * len(tested)


def _all_alike(dataset: ImageDataset, classes: Sequence[str], links: Sequence[tuple[int, int]]) -> Finding:
    images = sorted({end for link in links for end in link})
    said = (
        f"The data all look alike: more than half of {', '.join(map(repr, classes))} would count as versions of "
        f"another image ({len(images)} images of all classes look like another). All are kept, as images of their own. "
        "Where they are versions of one picture, an accuracy by cross-validation is flattered: tell by hand."
    )
    return Finding("ALL_ALIKE", said, tuple(dataset.names[i] for i in images), "warning")


def _one_video(dataset: ImageDataset, runs: Sequence[FrameRun]) -> Finding:
    images = tuple(dataset.names[i] for run in runs for i in run.members)
    classes = ", ".join(sorted({repr(run.label) for run in runs}))
    said = (
        f"All images of {classes} look like frames of one video: kept together they could not be split, so they are "
        "images of their own. An accuracy by cross-validation is flattered: test on another video."
    )
    return Finding("ONE_VIDEO", said, images, "warning")


def _cut(numbers: Sequence[int]) -> list[Finding]:
    if not numbers:
        return []
    said = (
        f"Many images look alike: {max(numbers)} were compared only with those most like them, so near-duplicates may "
        "have been missed."
    )
    return [Finding("NEAR_SEARCH_CUT", said)]
