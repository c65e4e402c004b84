"""Tasks and cells: the parts of a benchmark that any process can compute, each with a name of its own.

A task is what many cells share: one data set's features under one representation and policy, or its images. A cell is
one strategy on a block of a task's episodes. What a cell gives is plain data, the same wherever it is computed but for
the times.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fewshot.augment import Policy
from fewshot.backbones.base import Backbone
from fewshot.cells import train_network
from fewshot.episodes import Episode, EpisodeSampler, Protocol
from fewshot.evaluation import DRAW, FeatureTask, Scores, logits_of, named_errors
from fewshot.finetune.base import ImageHead
from fewshot.images.dataset import ImageDataset
from fewshot.journal import Record
from fewshot.representation.base import Parts
from fewshot.threads import single_thread

FROZEN_BLOCK, TRAINED_BLOCK = DRAW, 1
"""Episodes per cell: of heads on features, milliseconds each; of networks, seconds each."""


@dataclass(frozen=True)
class Cell:
    """One strategy on a block of episodes.

    Attributes:
        id: digest of everything that determines the result.
        dataset: name of the data set.
        strategy: name of the strategy.
        protocol: how its episodes are drawn.
        first: index of the first episode.
        last: index after the last.
    """

    id: str
    dataset: str
    strategy: str
    protocol: Protocol
    first: int
    last: int


@dataclass(eq=False)
class Task(ABC):
    """What cells share: labelled images, and how episodes are drawn from them.

    Attributes:
        key: unlike that of any other task, so that no process takes one for another.
        labels: (n,) class names.
        is_query: (n,) images of the test split, where support and queries come from different splits.
        seed: of the episodes, and of what is random in training.
    """

    key: str
    labels: tuple[str, ...]
    is_query: NDArray[np.bool_] | None
    seed: int
    _samplers: dict[Protocol, EpisodeSampler] = field(default_factory=dict, init=False, repr=False)

    def sampler(self, protocol: Protocol) -> EpisodeSampler:
        """Give the drawer of this task's episodes."""
        if protocol not in self._samplers:
            self._samplers[protocol] = EpisodeSampler(self.labels, protocol, seed=self.seed, is_query=self.is_query)
        return self._samplers[protocol]

    @abstractmethod
    def run(self, cell: Cell) -> Record:
        """Compute a cell, in the calling thread."""

    def __getstate__(self) -> dict[str, Any]:
        # What can be made again does not travel to other processes.
        return self.__dict__ | {"_samplers": {}, "_prepared": None}


@dataclass(eq=False)
class FrozenTask(Task):
    """Heads on the features of one data set under one backbone, representation and policy.

    Attributes:
        features: (n, 1 + n_views, d), or the parts of a representation.
        heads: by strategy.
        extract_seconds: what the features cost.
    """

    features: NDArray[np.float32] | Parts
    heads: Mapping[str, Any]
    extract_seconds: float = 0.0
    _prepared: FeatureTask | None = field(default=None, init=False, repr=False)

    def prepare(self) -> None:
        """Compute what all cells share; they may then run in several threads."""
        if self._prepared is None and self._samplers:
            first = next(iter(self._samplers.values()))
            # Asked here, since a worker need not have what the driver has.
            device = "cuda" if torch.cuda.is_available() else "cpu"
            self._prepared = FeatureTask(self.features, first, device=device)

    def run(self, cell: Cell) -> Record:
        """Evaluate one head on the cell's episodes."""
        sampler = self.sampler(cell.protocol)
        self.prepare()
        assert self._prepared is not None  # noqa: S101 - for the type checker
        heads = {cell.strategy: self.heads[cell.strategy]}
        with single_thread(), torch.inference_mode():
            task = self._prepared.with_sampler(sampler)
            scores = task.evaluate(heads, range(cell.first, cell.last), seed=self.seed)[cell.strategy]
        return make_record(cell, scores, self.extract_seconds)


@dataclass(eq=False)
class TrainedTask(Task):
    """Strategies that train a network on the pictures of each episode.

    Attributes:
        dataset: the images.
        heads: by strategy.
        policies: by strategy.
        backbone: for those that need one.
        n_views: augmented views per image.
    """

    dataset: ImageDataset
    heads: Mapping[str, ImageHead]
    policies: Mapping[str, Policy]
    backbone: str | Backbone
    n_views: int

    def run(self, cell: Cell) -> Record:
        """Train and test one strategy on each of the cell's episodes."""
        scores = Scores()
        for episode in self.sampler(cell.protocol).draw(range(cell.first, cell.last)):
            self._run_episode(cell.strategy, episode, scores)
        return make_record(cell, scores, 0.0)

    def _run_episode(self, strategy: str, episode: Episode, scores: Scores) -> None:
        train, queries = self.dataset.subset(episode.support), self.dataset.subset(episode.query)
        proba, _, fit_seconds, predict_seconds = train_network(
            self.heads[strategy],
            train,
            queries.sources,
            policy=self.policies[strategy],
            backbone=self.backbone,
            n_views=self.n_views,
            seed=(self.seed + episode.index) % 2**32,
        )
        # A classifier orders its classes by name, as the data set does; an episode, as they were drawn.
        order = np.argsort(np.argsort(episode.classes))
        logits = torch.from_numpy(logits_of(proba, proba.argmax(axis=1))[:, order])
        with named_errors(f"{strategy}, in episode {episode.index},"):
            scores.add(episode.alone(), logits[None], fit_seconds, predict_seconds)


def run_cell(load: Callable[[], Task], key: str, cell: Cell) -> Record:
    """Compute a cell in a process that keeps its last task, and what was made of it."""
    if key not in _KEPT:
        _KEPT.clear()
        _KEPT[key] = load()
    return _KEPT[key].run(cell)


_KEPT: dict[str, Task] = {}


def make_record(cell: Cell, scores: Scores, extract_seconds: float) -> Record:
    """Make plain data of a finished cell; rounded, as what lies beyond differs between processors, not strategies."""
    n = len(scores.episodes)
    figures = {name: np.round(getattr(scores, name), 6).tolist() for name in scores.METRICS}
    return {
        "cell": cell.id,
        "dataset": cell.dataset,
        "strategy": cell.strategy,
        "k_shot": cell.protocol.shots,
        "episodes": list(scores.episodes),
        **figures,
        "calibration": np.round(scores.calibration, 4).tolist(),
        "worst": scores.worst,
        "seconds": {
            "extract": round(extract_seconds, 6),
            "fit": round(scores.fit_seconds / n, 9),
            "predict": round(scores.predict_seconds / n, 9),
            "episodes": np.round(scores.seconds, 6).tolist(),
        },
    }
