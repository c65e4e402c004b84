"""What is wrong with a data set before anything is computed: unreadable files, repeats, conflicts, frames of videos."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace

import joblib
import numpy as np
from numpy.typing import NDArray

from fewshot.errors import DatasetError, ImageError
from fewshot.images.alike import belonging, one_picture
from fewshot.images.dataset import ImageDataset
from fewshot.images.findings import Finding, messages, shortened
from fewshot.images.frames import FrameRun, frame_runs
from fewshot.images.near import SIDE, NearPair, Prints, Tint, connected, fingerprint, tint
from fewshot.images.reader import ImageLike, examine, read_payload
from fewshot.images.tree import refuse_left_out

MAX_BAD_SHARE = 0.05
"""With more unreadable images than this share, a run stops: something is wrong with the data as a whole."""

OnProgress = Callable[[int, int], object]
"""Called with the number of images looked at, and of all."""


@dataclass(frozen=True, eq=False)
class AuditedDataset:
    """A data set whose images all decode.

    Attributes:
        dataset: the readable images, each picture once; the class names are those that have images.
        digests: (n,) content digest of each image, all different.
        skipped: why each left-out image was left out.
        findings: what was understood when the images were collected, and what was found now.
        prints: (n, SIDE, SIDE) thumbnails that near-duplicates are found by.
        tints: (n, 2) colours that near-duplicates must share.
        groups: (n,) equal numbers for near-duplicates of one class and frames of one video, by the first of them.
        n_given: images there were, before any was left out.
    """

    dataset: ImageDataset
    digests: tuple[str, ...]
    skipped: tuple[ImageError, ...]
    findings: tuple[Finding, ...]
    prints: Prints
    tints: Tint
    groups: NDArray[np.intp]
    n_given: int

    @property
    def notes(self) -> tuple[str, ...]:
        """What was found, in sentences."""
        return messages(self.findings)

    def only(self, kept: NDArray[np.intp] | list[int], *more: Finding) -> AuditedDataset:
        """Keep the images at ``kept``, and add findings."""
        return replace(
            self,
            dataset=_only(self.dataset, list(kept)),
            digests=tuple(self.digests[i] for i in kept),
            prints=self.prints[kept],
            tints=self.tints[kept],
            groups=connected(len(kept), _links(self.groups[kept])),
            findings=(*self.findings, *more),
        )


def audit(dataset: ImageDataset, *, strict: bool = False, progress: OnProgress | None = None) -> AuditedDataset:
    """Read every image once; leave out those that cannot be read and exact repeats, and say so.

    A picture that is there twice would count twice in an accuracy, and could be trained on in one fold of a
    cross-validation and tested in another.

    Args:
        dataset: what to look at.
        strict: raise at the first unreadable image instead of leaving it out, and where files or folders could not be
            read when the images were collected.
        progress: called as images are looked at.

    Raises:
        ImageError: with ``strict``, the first unreadable image.
        DatasetError: with ``strict``, files or folders that could not be read; more than 5 % of the images cannot be
            read, or all of a class; or one picture has two labels.
    """
    found = survey(dataset, strict=strict, progress=progress)
    for finding in found.findings:
        if finding.severity == "error":
            raise DatasetError(finding.message)
    return found


def survey(dataset: ImageDataset, *, strict: bool = False, progress: OnProgress | None = None) -> AuditedDataset:
    """Look at a data set as :func:`audit` does, but give what makes it useless as findings of severity ``"error"``."""
    if strict:
        refuse_left_out(dataset.findings)
    outcomes = _look_at_all(dataset, strict, progress)
    skipped = tuple(outcome for outcome in outcomes if isinstance(outcome, ImageError))
    readable = {i: outcome.digest for i, outcome in enumerate(outcomes) if isinstance(outcome, _Seen)}
    findings = list(dataset.findings)
    findings += [Finding(error.code, f"Left out: {error}", (error.source,), "warning") for error in skipped]
    findings += _too_many(dataset, sorted(readable), skipped)
    findings += [f for one in outcomes if isinstance(one, _Seen) for f in one.remarks]
    findings += _repeats(dataset, readable)
    once = {digest: i for i, digest in reversed(readable.items())}
    kept = sorted(once.values())
    seen = [one for i in kept if isinstance(one := outcomes[i], _Seen)]
    prints = np.array([one.print for one in seen], dtype=np.uint8).reshape(len(kept), SIDE, SIDE)
    part = _only(dataset, kept)
    tints = np.array([one.tint for one in seen], dtype=np.float32).reshape(len(kept), 2)
    same, other, cut = one_picture((prints, tints, part.labels))
    runs = frame_runs(part.names, part.labels, prints)
    groups, doubts = belonging(part, same, runs)
    alike = any(doubt.code == "ALL_ALIKE" for doubt in doubts)
    videos = _frame_findings(part, runs)
    # That frames of a video are near-duplicates goes without saying.
    told = [set(video.images) for video in videos]
    near = [] if alike else _near_findings(part, [*same, *other])
    findings += [one for one in near if not any(run.issuperset(one.images) for run in told)]
    findings += [*videos, *doubts, *cut]
    digests = tuple(readable[i] for i in kept)
    return AuditedDataset(part, digests, skipped, tuple(findings), prints, tints, groups, len(dataset))


@dataclass(frozen=True)
class _Seen:
    """What is kept of an image that was read."""

    digest: str
    print: Prints
    tint: Tint
    remarks: tuple[Finding, ...]


def _look_at_all(dataset: ImageDataset, strict: bool, progress: OnProgress | None) -> list[_Seen | ImageError]:
    outcomes: list[_Seen | ImageError] = []
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(int(joblib.cpu_count())))
        # Where the first unreadable image or an interrupt ends this early, what has not begun is dropped.
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        for outcome in pool.map(_look_at, dataset.sources, dataset.names):
            if strict and isinstance(outcome, ImageError):
                raise outcome
            outcomes.append(outcome)
            if progress is not None:
                progress(len(outcomes), len(dataset))
    return outcomes


def _look_at(source: ImageLike, name: str) -> _Seen | ImageError:
    try:
        payload = read_payload(source)
        pixels, remarks = examine(payload)
    except ImageError as error:
        # Data sets have names for images that come as bytes.
        return ImageError(error.code, name, error.message)
    named = [replace(one, message=one.message.replace(payload.name, name, 1), images=(name,)) for one in remarks]
    return _Seen(payload.digest, fingerprint(pixels), tint(pixels), tuple(named))


def _only(dataset: ImageDataset, kept: list[int]) -> ImageDataset:
    part = dataset.subset(kept)
    return replace(part, class_names=tuple(sorted(set(part.labels))))


def _links(groups: NDArray[np.intp]) -> list[tuple[int, int]]:
    """Link each item to the first of its group."""
    first: dict[int, int] = {}
    return [(first.setdefault(int(group), position), position) for position, group in enumerate(groups)]


def _too_many(dataset: ImageDataset, readable: list[int], skipped: tuple[ImageError, ...]) -> list[Finding]:
    if not skipped:
        return []
    shown = "; ".join(str(error) for error in skipped[:5]) + (
        f"; and {len(skipped) - 5} more" if len(skipped) > 5 else ""
    )
    found, names = [], tuple(error.source for error in skipped)
    emptied = sorted(set(dataset.labels) - {dataset.labels[i] for i in readable})
    if emptied:
        said = f"No image of {', '.join(map(repr, emptied))} can be read: {shown}."
        found.append(Finding("UNREADABLE_CLASS", said, names, "error"))
    if len(skipped) > MAX_BAD_SHARE * len(dataset):
        said = (
            f"{len(skipped)} of {len(dataset)} images cannot be read, more than {MAX_BAD_SHARE:.0%}: {shown}. "
            "Replace or remove them."
        )
        found.append(Finding("TOO_MANY_UNREADABLE", said, names, "error"))
    return found


def _repeats(dataset: ImageDataset, digests: Mapping[int, str]) -> list[Finding]:
    """Note repeated pictures; one picture under two labels is an error."""
    groups: dict[str, list[int]] = defaultdict(list)
    for position, digest in digests.items():
        groups[digest].append(position)
    names, findings = dataset.names, []
    for members in groups.values():
        if len(members) == 1:
            continue
        labels = sorted({dataset.labels[i] for i in members})
        images = tuple(names[i] for i in members)
        listing = shortened(images, 8)
        if len(labels) > 1:
            said = (
                f"LABEL_CONFLICT: one picture is labelled {' and '.join(map(repr, labels))}: {listing}. "
                "Keep one of them."
            )
            findings.append(Finding("LABEL_CONFLICT", said, images, "error"))
        else:
            said = f"The same picture is there {len(members)} times and counts once: {listing}."
            findings.append(Finding("DUPLICATE", said, images, "warning"))
    return findings


def _near_findings(dataset: ImageDataset, pairs: list[NearPair]) -> list[Finding]:
    """Note each picture of which there are several versions, with those that are labelled differently."""
    groups: dict[int, list[int]] = defaultdict(list)
    for position, group in enumerate(connected(len(dataset), [(pair.first, pair.second) for pair in pairs])):
        groups[int(group)].append(position)
    group_of = {position: group for group, members in groups.items() for position in members}
    least: dict[int, float] = {}
    for pair in pairs:
        group = group_of[pair.first]
        least[group] = min(least.get(group, 1.0), pair.similarity)
    names, findings = dataset.names, []
    for group, members in groups.items():
        if len(members) == 1:
            continue
        images, labels = tuple(names[i] for i in members), sorted({dataset.labels[i] for i in members})
        alike = f"similarity {least[group]:.3f}"
        if len(labels) > 1:
            said = (
                f"NEAR_CONFLICT: what looks like one picture ({alike}) is labelled {' and '.join(map(repr, labels))}: "
                f"{shortened(images, 8)}. All stay as they are: look at them, and keep one."
            )
            findings.append(Finding("NEAR_CONFLICT", said, images, "warning"))
        else:
            said = f"{len(members)} images show one picture ({alike}): {shortened(images, 8)}."
            findings.append(Finding("NEAR_DUPLICATE", said, images, "warning"))
    return findings


def _frame_findings(dataset: ImageDataset, runs: list[FrameRun]) -> list[Finding]:
    names = dataset.names
    return [
        Finding(
            "FRAMES",
            f"{names[run.members[0]]} to {names[run.members[-1]]}{f' of {run.label!r}' if run.label else ''} look like "
            f"frames of one video ({len(run.members)}): they count for little more than one picture. Split by video, "
            "not by frame.",
            tuple(names[i] for i in run.members),
            "warning",
        )
        for run in runs
    ]
