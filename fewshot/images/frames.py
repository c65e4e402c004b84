"""Frames of a video taken for photographs: numbered files of which each looks like the next.

A hundred frames of one cat teach little more than one photograph of it, and when some are trained on and some tested
on, the accuracy is that of recognising a scene. Two signs together give them away: names that count, and neighbours in
that order that are far more alike than two images of the class usually are. Numbers alone prove nothing: cameras count.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewshot.images.near import SIDE, Prints

MIN_FRAMES = 5
"""A shorter run may be a handful of shots of one thing, as people take them."""
MIN_SPARSE = 8
"""The same where numbers are left out: a camera counts on between two shots of one thing."""

_MAX_GAP = 30  # numbers between neighbours: one frame of a second of video
_DENSE_GAP = 2
_NEXT = 0.35  # of the usual distance in the class: so close must neighbours be
_CLOSE = 0.5  # 1 - correlation: neighbours that are farther are another scene, whatever is usual
_MIN_USUAL = 0.02  # where all images of a class are nearly the same, they are near-duplicates, not a sequence
_SHIFT = 4  # pixels of a thumbnail of 32 that a camera may move between frames


@dataclass(frozen=True)
class FrameRun:
    """Consecutive images that look like frames of one video.

    Attributes:
        label: their class.
        members: (n,) their positions, in the order of the numbers.
    """

    label: str
    members: tuple[int, ...]


def frame_runs(
    names: Sequence[str], labels: Sequence[str], prints: Prints, *, across_folders: bool = False
) -> list[FrameRun]:
    """Find runs of images that look like frames of one video.

    Args:
        names: (n,) of the images; what counts is the last number in the name of the file.
        labels: (n,) class names.
        prints: (n, SIDE, SIDE) thumbnails.
        across_folders: take files of different folders for frames of one video, too.

    Returns:
        The runs, in the order of their first images.
    """
    series: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    members: dict[str, list[int]] = defaultdict(list)
    for position, (name, label) in enumerate(zip(names, labels, strict=True)):
        members[label].append(position)
        stem, number = _numbered(name)
        if number is not None:
            # Clips that lie in folders of their own may be numbered alike.
            stem = stem if across_folders else f"{os.path.dirname(name)}/{stem}"
            series[label, stem].append((number, position))
    usual = {label: _usual_distance(prints[positions]) for label, positions in members.items()}
    runs = []
    for (label, _), numbered in series.items():
        if len(numbered) < MIN_FRAMES:
            continue
        runs += [FrameRun(label, run) for run in _runs(sorted(numbered), prints, usual[label])]
    return sorted(runs, key=lambda run: run.members)


def _numbered(name: str) -> tuple[str, int | None]:
    """Split a file's name into its series and its number: the last one in it."""
    stem = os.path.splitext(os.path.basename(name))[0]
    found = re.search(r"(\d{1,18})(\D*)$", stem, re.ASCII)
    return (stem, None) if found is None else (f"{stem[: found.start(1)]}#{found[2]}", int(found[1]))


def _runs(numbered: list[tuple[int, int]], prints: Prints, usual: float) -> list[tuple[int, ...]]:
    limit = min(_CLOSE, _NEXT * usual) if usual >= _MIN_USUAL else 0.0
    positions = [position for _, position in numbered]
    near = _distances(prints[positions[:-1]], prints[positions[1:]]) < limit
    gaps = np.diff([number for number, _ in numbered])
    runs: list[tuple[int, ...]] = []
    start = 0
    for end in range(1, len(positions) + 1):
        if end < len(positions) and near[end - 1] and gaps[end - 1] <= _MAX_GAP:
            continue
        dense = end - start > 1 and np.median(gaps[start : end - 1]) <= _DENSE_GAP
        if end - start >= (MIN_FRAMES if dense else MIN_SPARSE):
            runs.append(tuple(positions[start:end]))
        start = end
    return runs


def _usual_distance(prints: Prints, n_pairs: int = 400) -> float:
    """Give the median distance of two images of a class, over random pairs."""
    if len(prints) < 2:
        return 0.0
    rng = np.random.default_rng(0)
    first = rng.integers(0, len(prints), n_pairs)
    second = (first + rng.integers(1, len(prints), n_pairs)) % len(prints)
    return float(np.median(_distances(prints[first], prints[second])))


def _distances(first: Prints, second: Prints) -> NDArray[np.float64]:
    """Give 1 - correlation of pairs of thumbnails, at the shift that fits best: a camera pans."""
    a, b = _standardised(first), _standardised(second)
    side = a.shape[1]
    # All cyclic shifts at once: the correlation theorem.
    spectrum = np.conj(np.fft.rfft2(a)) * np.fft.rfft2(b)
    correlation = np.fft.irfft2(spectrum, s=(side, side))
    reach = np.r_[0 : _SHIFT + 1, side - _SHIFT : side]
    best: NDArray[np.float64] = correlation[:, reach][:, :, reach].max(axis=(1, 2))
    return 1 - best


def _standardised(prints: Prints) -> NDArray[np.float64]:
    """Shrink (n, SIDE, SIDE) to half, with mean zero and length one; what shows nothing becomes zero."""
    small = prints.reshape(len(prints), SIDE // 2, 2, SIDE // 2, 2).mean(axis=(2, 4))
    small -= small.mean(axis=(1, 2), keepdims=True)
    length = np.sqrt((small**2).sum(axis=(1, 2), keepdims=True))
    result: NDArray[np.float64] = np.where(length > SIDE, small / np.maximum(length, 1e-9), 0.0)
    return result
