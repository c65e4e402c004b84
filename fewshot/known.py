"""What a fitted classifier knows of its training images besides its head: for questions other than "which class?"."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray

from fewshot.calibration import support_temperature
from fewshot.errors import InvalidInputError
from fewshot.expected import Evidence, accuracy, gather_evidence
from fewshot.finetune.base import ImageHead
from fewshot.fitting import answers
from fewshot.heads import name_of
from fewshot.heads.auto import AutoHead
from fewshot.heads.base import Head, TransductiveHead
from fewshot.held_out import HeldOut, held_out
from fewshot.novelty import NoveltyDetector

MAX_IMAGES = 4096
"""Of more training images, about so many are kept, as many of each class as of the others."""
# Each part that is held out costs a fit.
_FOLDS_OF_FEW, _FEW, _FOLDS_OF_MANY = 20, 100, 3
# Where so many held-out images are right, there is little for training a network to gain.
_GOOD = 0.9
MAX_UNLABELED = 4096
"""All of them are labelled jointly with every query."""


@dataclass(frozen=True, eq=False)
class Known:
    """Training images as vectors, and what they say.

    Attributes:
        features: (n, d) float32, one row per training image.
        codes: (n,) int64 positions of their classes.
        temperature: the head's logits are divided by it.
        novelty_threshold: an image whose novelty score is above is of none of the classes; infinite where nothing is.
        evidence: what they say about accuracy; ``None`` where the head cannot be asked about images left out.
        unlabeled: (m, d) float32, images without a label that queries are labelled together with, or ``None``.
    """

    features: NDArray[np.float32]
    codes: NDArray[np.int64]
    temperature: float
    novelty_threshold: float
    evidence: Evidence | None
    unlabeled: NDArray[np.float32] | None = None

    @functools.cached_property
    def detector(self) -> NoveltyDetector:
        """What tells images of none of the classes."""
        detector = NoveltyDetector().fit(self.features, self.codes)
        detector.threshold_ = self.novelty_threshold
        return detector


def learn(
    head: Any,
    samples: NDArray[np.float32],
    codes: NDArray[np.int64],
    views: NDArray[np.float32] | None,
    unlabeled: NDArray[np.float32] | None,
) -> Known:
    """Ask a fitted head, and the training images, what they say beyond classes.

    Args:
        head: fitted; any classifier of features.
        samples: (n, 1 + n_views, d) what it was fitted on, each image first.
        codes: (n,) positions of the images' classes, at least one.
        views: (n, n_views, d) at least two views of each image, or ``None``.
        unlabeled: (m, d) images without a label, or ``None``.
    """
    chosen = _evenly(codes, MAX_IMAGES)
    samples, codes = samples[chosen], codes[chosen]
    views = None if views is None else views[chosen]
    images = samples[:, 0]
    threshold = NoveltyDetector().fit(images, codes, views).threshold_
    temperature, held = find_temperature(head, samples, codes)
    evidence = None if held is None else gather_evidence(head, images, codes, views, answers=held)
    return Known(np.ascontiguousarray(images), codes, temperature, threshold, evidence, unlabeled)


def find_temperature(head: Any, samples: NDArray[np.float32], codes: NDArray[np.int64]) -> tuple[float, HeldOut | None]:
    """Find the temperature of a fitted head, and what it says of training images when fitted on the others.

    Args:
        head: any classifier of features.
        samples: (n, 1 + n_views, d) what it was fitted on, each image first.
        codes: (n,) positions of the images' classes.

    Returns:
        The temperature, 1 for a head that has none, and the answers; none for heads that are not asked.
    """
    if not isinstance(head, Head) or isinstance(head, TransductiveHead) or not codes.max():
        return 1.0, None
    if isinstance(head, AutoHead):
        return 1.0, head.answer_held_out(samples, codes)
    few = _in_span(samples) if head.isometric else samples
    folds = _FOLDS_OF_FEW if few.shape[0] * few.shape[1] <= _FEW else _FOLDS_OF_MANY
    held = held_out(head, few, codes, max_folds=folds)
    return support_temperature(head, samples, codes, answers=held), held


def judge(head: Any, features: NDArray[np.float32], temperature: float) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Ask a classifier about (n, d) features, its logits divided by a temperature: see :func:`fewshot.fitting.answers`.

    Classifiers without logits have no temperature.
    """
    if temperature == 1 or not isinstance(head, Head):
        return answers(head, features)
    logits = head._scores(features) / temperature
    return torch.softmax(logits, dim=-1).numpy(), logits.argmax(dim=-1).numpy()


def advise(known: Known) -> str:
    """Say what else could be tried where held-out training images are often mistaken; nothing where they are not."""
    evidence = known.evidence
    if evidence is None or evidence.right is None:
        return ""
    # The evidence counts half a right and half a wrong answer more than there were.
    n = evidence.n_held
    right = min(max(round(accuracy(evidence.right, evidence.n_way) * (n + 1) - 0.5), 0), n)
    if right >= _GOOD * n:
        return ""
    return (
        f"Of {n} training images held out, {right} are told right; head 'auto-fine-tune' tries training the network on "
        "them as well. It takes half a minute or more on a CPU, and has no rejection and no expected accuracy."
    )


def check_known(known: Known | None, what: str, head: Any = None) -> Known:
    """Refuse a question that only training images kept as vectors answer.

    Args:
        known: what is known of them, or nothing.
        what: was asked, for the message.
        head: that has answered so far.

    Raises:
        InvalidInputError: the head took pictures, or the model was saved before training images were kept.
    """
    if known is None:
        if isinstance(head, ImageHead):
            raise InvalidInputError(
                f"{what} is not for {name_of(head) or head!r}, which trains a network: it goes by the features that "
                "other heads learn from. Train with head 'auto' for it."
            )
        raise InvalidInputError(
            f"{what} needs the training images, which models saved by an older version do not hold: train again."
        )
    return known


def _evenly(codes: NDArray[np.int64], most: int) -> NDArray[np.intp]:
    """Choose at most about ``most`` positions, evenly spread over the images of every class."""
    if len(codes) <= most:
        return np.arange(len(codes))
    each = max(1, most // (int(codes.max()) + 1))
    chosen = []
    for code in np.unique(codes):
        rows = np.flatnonzero(codes == code)
        chosen.append(rows[np.linspace(0, len(rows) - 1, min(each, len(rows))).astype(np.intp)])
    return np.sort(np.concatenate(chosen))


def _in_span(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """Turn (n, s, d) vectors to as few coordinates as keep their inner products, where that is fewer."""
    n, s, d = samples.shape
    rows = samples.reshape(n * s, d).astype(np.float64)
    if len(rows) >= d:
        return rows.reshape(n, s, d)
    triangle: NDArray[np.float64] = scipy.linalg.qr(rows.T, mode="r", overwrite_a=True)[0][: n * s]
    return np.ascontiguousarray(triangle.T).reshape(n, s, -1)
