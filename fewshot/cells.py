"""Cells: one strategy on one split of the images, as any process can run it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot.augment import Policy
from fewshot.backbones import load_backbone
from fewshot.backbones.base import Backbone, Progress
from fewshot.events import Event as Event
from fewshot.events import OnEvent as OnEvent
from fewshot.finetune.base import HistoryRow, ImageHead, TrainingSetup
from fewshot.heads import make_head
from fewshot.images.dataset import ImageDataset
from fewshot.images.reader import ImageLike
from fewshot.report.model import Result
from fewshot.threads import single_thread


@dataclass(frozen=True)
class Split:
    """Which images are trained on and which are predicted, by position.

    Attributes:
        repeat: repetition of cross-validation.
        fold: fold of cross-validation.
        train: positions in the training images.
        test: positions in the images to predict: the training images themselves in cross-validation.
    """

    repeat: int
    fold: int
    train: NDArray[np.intp]
    test: NDArray[np.intp]


def whole_split(train: ImageDataset, test: ImageDataset) -> Split:
    """Train on all of one data set, predict all of another."""
    return Split(0, 0, np.arange(len(train)), np.arange(len(test)))


def train_and_predict(
    name: str,
    head: ImageHead,
    train: ImageDataset,
    queries: Sequence[ImageLike],
    split: Split,
    *,
    policy: Policy,
    backbone: str | Backbone,
    n_views: int,
    seed: int,
    on_step: Callable[[HistoryRow], None] | None = None,
    progress: Progress | None = None,
) -> Result:
    """Train an image-level head on one split and predict; self-contained, so that any process can run it."""
    proba, fresh, fit_seconds, predict_seconds = train_network(
        head,
        train,
        queries,
        policy=policy,
        backbone=backbone,
        n_views=n_views,
        seed=seed,
        on_step=on_step,
        progress=progress,
    )
    return make_result(
        name,
        split,
        proba,
        proba.argmax(axis=1),
        extract_seconds=0.0,
        fit_seconds=fit_seconds,
        predict_seconds=predict_seconds,
        history=fresh.history_,
        note=getattr(fresh, "note_", ""),
    )


def train_network(
    head: ImageHead,
    train: ImageDataset,
    queries: Sequence[ImageLike],
    *,
    policy: Policy,
    backbone: str | Backbone,
    n_views: int,
    seed: int,
    on_step: Callable[[HistoryRow], None] | None = None,
    progress: Progress | None = None,
) -> tuple[NDArray[np.float64], Any, float, float]:
    """Train a copy of an image-level head; give (n_queries, n_classes) probabilities, the copy, and two times.

    The times are the seconds of training and of predicting.
    """
    fresh = make_head(head)
    network = load_backbone(backbone) if fresh.needs_backbone else None
    setup = TrainingSetup(network, policy, n_views, seed, on_step, progress)
    start = time.perf_counter()
    with single_thread():
        fresh.fit_images(train.sources, np.array(train.labels), setup)
    fitted = time.perf_counter()
    proba = fresh.predict_proba_images(queries) if len(queries) else np.empty((0, len(fresh.classes_)))
    return proba, fresh, fitted - start, time.perf_counter() - fitted


def make_result(
    name: str,
    split: Split,
    proba: NDArray[np.float64],
    predicted: NDArray[np.intp],
    history: Sequence[HistoryRow] = (),
    **rest: Any,
) -> Result:
    """Round a strategy's answers, and what goes with them, as they are reported."""
    # Six digits: what lies beyond differs between processors, not between strategies.
    rounded = tuple(tuple(row) for row in np.round(proba, 6).tolist())
    rest = {key: round(value, 6) if isinstance(value, float) else value for key, value in rest.items()}
    rows = tuple({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()} for row in history)
    test, chosen = tuple(split.test.tolist()), tuple(predicted.tolist())
    return Result(name, split.repeat, split.fold, test, rounded, chosen, history=rows, **rest)
