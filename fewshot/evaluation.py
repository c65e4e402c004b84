"""Heads on episodes of features: hundreds of episodes as one tensor operation, scored as they are answered."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import joblib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewshot.episodes import EpisodeBatch, EpisodeSampler
from fewshot.errors import FewshotError, InvalidInputError
from fewshot.fitting import answers, fit_on_views, tell_views
from fewshot.gram import EpisodeSpace
from fewshot.heads import make_head
from fewshot.heads.base import Head, TransductiveHead
from fewshot.metrics import METRICS, N_BINS, episode_metrics
from fewshot.representation.base import Parts, even
from fewshot.threads import workers

DRAW = 1024
"""Episodes drawn together, which costs less the more there are."""
_NUMBERS = 1 << 20
"""Episodes are computed together as far as they hold about so many numbers: more would leave the processor's caches,
and fewer would keep threads waiting for each other. Results depend on it in the last bits."""


@dataclass
class Scores:
    """One head's results, one value per episode.

    Attributes:
        episodes: which.
        accuracy: 0..1, as the others; see :class:`fewshot.report.benchmark.Series`.
        balanced_accuracy: mean of the classes' accuracies.
        log_loss: mean over queries.
        brier: mean over queries.
        seconds: of each episode, or an equal share where they were computed together.
        calibration: (n_bins, 3) see :mod:`fewshot.metrics`.
        fit_seconds: in all.
        predict_seconds: in all.
        worst: the episode with the lowest accuracy: its index, and the position and given class of each query missed.
    """

    METRICS: ClassVar = METRICS

    episodes: list[int] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    balanced_accuracy: list[float] = field(default_factory=list)
    log_loss: list[float] = field(default_factory=list)
    brier: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    calibration: NDArray[np.float64] = field(default_factory=lambda: np.zeros((N_BINS, 3)))
    fit_seconds: float = 0.0
    predict_seconds: float = 0.0
    worst: dict[str, Any] | None = None

    def add(self, batch: EpisodeBatch, logits: Tensor, fit_seconds: float, predict_seconds: float) -> None:
        """Score answers.

        Args:
            batch: b episodes of equal shape.
            logits: (b, n_query, n_way).
            fit_seconds: of all b.
            predict_seconds: of all b.
        """
        if not bool(logits.isfinite().all()):
            raise FloatingPointError("its scores are NaN or infinite, so that its answers mean nothing")
        truth = torch.from_numpy(np.array(batch.query_labels))
        found = episode_metrics(logits, truth.to(logits.device))
        self.episodes += batch.indices.tolist()
        for name in self.METRICS:
            getattr(self, name).extend(found[name].tolist())
        self.calibration += found["calibration"].numpy()
        self.fit_seconds += fit_seconds
        self.predict_seconds += predict_seconds
        self.seconds += [(fit_seconds + predict_seconds) / len(batch)] * len(batch)
        lowest = int(found["accuracy"].argmin())
        accuracy = round(float(found["accuracy"][lowest]), 6)
        if self.worst is None or accuracy <= self.worst["accuracy"]:
            answers = logits[lowest].argmax(dim=-1).cpu().numpy()
            missed = np.flatnonzero(answers != batch.query_labels[lowest])
            given = batch.classes[lowest][answers[missed]]
            self._keep_worst(
                {
                    "episode": int(batch.indices[lowest]),
                    "accuracy": accuracy,
                    "missed": np.stack([batch.query[lowest][missed], given], axis=1).tolist(),
                }
            )

    def _keep_worst(self, candidate: dict[str, Any] | None) -> None:
        def rank(one: dict[str, Any]) -> tuple[float, int]:
            return one["accuracy"], one["episode"]

        if candidate is not None and (self.worst is None or rank(candidate) < rank(self.worst)):
            self.worst = candidate

    def merge(self, other: Scores) -> None:
        """Append another part's episodes."""
        for name in ("episodes", *self.METRICS, "seconds"):
            getattr(self, name).extend(getattr(other, name))
        self.calibration += other.calibration
        self.fit_seconds += other.fit_seconds
        self.predict_seconds += other.predict_seconds
        self._keep_worst(other.worst)

    def in_order(self) -> Scores:
        """Sort by episode: where their shapes differ, episodes are computed in another order."""
        order = np.argsort(self.episodes, kind="stable")
        if (order == np.arange(len(order))).all():
            return self
        rows = {name: [getattr(self, name)[i] for i in order] for name in ("episodes", *self.METRICS, "seconds")}
        return Scores(
            **rows,
            calibration=self.calibration,
            fit_seconds=self.fit_seconds,
            predict_seconds=self.predict_seconds,
            worst=self.worst,
        )


class FeatureTask:
    """Features and labels of one data set, ready for episodes.

    Args:
        features: (n, 1 + n_views, d): each image and its augmented views; a head learns from all of them and is asked
            about the image itself. Or a representation's parts of the images, which each episode weighs by its support.
        sampler: of the same n images.
        budget: bytes for inner products; see :class:`fewshot.gram.EpisodeSpace`.
        dtype: heads compute in.
        device: where they do.
    """

    def __init__(
        self,
        features: NDArray[np.floating] | Parts,
        sampler: EpisodeSampler,
        *,
        budget: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> None:
        self.sampler = sampler
        options: dict[str, Any] = {"dtype": dtype, "device": device} | ({} if budget is None else {"budget": budget})
        if isinstance(features, Parts) and features.weigh is even:
            features = features.arrays["features"]
        if isinstance(features, Parts):
            self.n_views = features.n_rows
            self.space = EpisodeSpace(parts=features, **options)
        else:
            self.n_views = features.shape[1]
            self.space = EpisodeSpace(np.asarray(features).reshape(-1, features.shape[-1]), **options)

    def with_sampler(self, sampler: EpisodeSampler) -> FeatureTask:
        """Draw other episodes from the same images; nothing is computed again."""
        other = copy.copy(self)
        other.sampler = sampler
        return other

    def evaluate(self, heads: Mapping[str, Any], indices: Sequence[int], *, seed: int = 0) -> dict[str, Scores]:
        """Run heads on some episodes, in the calling thread.

        Args:
            heads: by name: heads, or any scikit-learn classifiers.
            indices: which episodes.
            seed: of classifiers that take a ``random_state`` and have none.

        Returns:
            Scores by name, in the order of ``indices``' episodes.
        """
        scores = {name: Scores() for name in heads}
        size = _power_of_two(_MAX_DRAWN / self.sampler.most_entries)
        for first in range(0, len(indices), size):
            start = time.perf_counter()
            batches = self.sampler.batches(indices[first : first + size])
            drawn = (time.perf_counter() - start) / len(indices[first : first + size])
            for batch in batches:
                self._run_forms(heads, batch, scores, seed, drawn)
        return {name: found.in_order() for name, found in scores.items()}

    def _run_forms(
        self, heads: Mapping[str, Any], batch: EpisodeBatch, scores: dict[str, Scores], seed: int, drawn: float
    ) -> None:
        for form, members in _by_form(heads).items():
            size = self._chunk(form, batch)
            for first in range(0, len(batch), size):
                self._run(form, members, batch[first : first + size], scores, seed, drawn)

    def _chunk(self, form: str, batch: EpisodeBatch) -> int:
        """How many episodes to compute together: a power of two."""
        n_support, n_query = self.n_views * batch.support.shape[1], batch.query.shape[1]
        width = {"vectors": self.space.width, "jointly": n_support + n_query}.get(form, n_support)
        return _power_of_two(_NUMBERS / ((n_support + n_query) * width))

    def _run(
        self,
        form: str,
        heads: Mapping[str, Any],
        batch: EpisodeBatch,
        scores: dict[str, Scores],
        seed: int,
        drawn: float,
    ) -> None:
        """Run heads that want the same form on episodes of equal shape; each took ``drawn`` seconds to draw."""
        if form == "estimator":
            for name, head in heads.items():
                with named_errors(name):
                    scores[name].add(batch, *self._one_by_one(head, batch, seed))
            return
        start = time.perf_counter()
        labels = np.repeat(batch.support_labels, self.n_views, axis=1)
        moved = self._moved(form, batch, labels)
        # Done once for all of these heads; alone, each would have needed it.
        shared = len(batch) * drawn + time.perf_counter() - start
        classes = torch.from_numpy(labels).to(self.space.device)
        for name, head in heads.items():
            if self.n_views > 1:
                head = tell_views(make_head(head), self.n_views)
            start = fitted = time.perf_counter()
            with named_errors(name):
                if form in _MEANS:
                    logits = head._logits_of_means(*moved).to(self.space.dtype).mT
                else:
                    state = head._fit(moved[0], classes, batch.n_way)
                    fitted = time.perf_counter()
                    logits = head._logits(state, moved[1])
                scores[name].add(batch, logits, shared + fitted - start, time.perf_counter() - fitted)

    def _moved(self, form: str, batch: EpisodeBatch, labels: NDArray[np.int64]) -> tuple[Tensor, ...]:
        """Give episodes in the form that heads work on."""
        support, query = (torch.from_numpy(rows).to(self.space.device) for rows in self._rows(batch))
        if form == "vectors":
            return self.space.vectors(support, query)
        if form not in _MEANS:
            return self.space.coordinates(support, query, jointly=form == "jointly")
        shots = labels.shape[1] // batch.n_way
        even = np.repeat(np.arange(batch.n_way), shots)
        is_even = labels.shape[1] == len(even) and bool((labels == even).all())
        return self.space.mean_products(
            support,
            query,
            torch.from_numpy(labels).to(self.space.device),
            batch.n_way,
            shots if is_even else None,
            unit=form == "unit means",
        )

    def _rows(self, batch: EpisodeBatch) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of the flattened features: each support image with its views, each query alone."""
        views = batch.support[:, :, None] * self.n_views + np.arange(self.n_views)
        return views.reshape(len(batch), -1), batch.query * self.n_views

    def _one_by_one(self, head: Any, batch: EpisodeBatch, seed: int) -> tuple[Tensor, float, float]:
        """Fit a scikit-learn classifier to each episode; its log probabilities are the logits."""
        all_logits, fit_seconds, predict_seconds = [], 0.0, 0.0
        moved = [torch.from_numpy(rows).to(self.space.device) for rows in self._rows(batch)]
        for position, episode in enumerate(batch):
            start = time.perf_counter()
            support, query = self.space.vectors(*(rows[position : position + 1] for rows in moved))
            views = support.float().cpu().numpy().reshape(-1, self.n_views, self.space.width)
            fitted = fit_on_views(make_head(head), views, episode.support_labels, seed % 2**32)
            middle = time.perf_counter()
            proba, chosen = answers(fitted, query[0].float().cpu().numpy())
            fit_seconds += middle - start
            predict_seconds += time.perf_counter() - middle
            all_logits.append(logits_of(proba, chosen))
        return torch.from_numpy(np.stack(all_logits)), fit_seconds, predict_seconds


def logits_of(proba: NDArray[np.float64], chosen: NDArray[np.intp]) -> NDArray[np.float64]:
    """Turn (n, n_classes) probabilities into logits whose largest is that of the (n,) chosen class."""
    logits = np.log(np.clip(proba, 1e-12, None))
    # A classifier's answer is not always its most probable class; accuracy goes by the answer.
    best = logits.max(axis=1)
    rows = np.arange(len(logits))
    beaten = logits.argmax(axis=1) != chosen
    logits[rows[beaten], chosen[beaten]] = np.nextafter(best[beaten], np.inf)
    return logits


_MEANS = ("means", "unit means")
_MAX_DRAWN = 1 << 21
"""Numbers drawn at a time: where episodes are large, fewer than :data:`DRAW` are drawn together."""


def _power_of_two(most: float) -> int:
    """Give the largest power of two that is at most ``most``, between 1 and :data:`DRAW`."""
    return 1 << int(np.clip(np.log2(max(most, 1)), 0, np.log2(DRAW)))


@contextmanager
def named_errors(head: str) -> Iterator[None]:
    """Say which head it was that failed, in an error of ours."""
    try:
        yield
    except (FewshotError, torch.OutOfMemoryError, NotImplementedError, RecursionError):
        raise
    except (ValueError, RuntimeError, ArithmeticError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidInputError(f"{head} cannot be used on these episodes: {reason.rstrip('.')}.") from error


def _by_form(heads: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Group heads by the form of an episode that they work on."""
    groups: dict[str, dict[str, Any]] = {}
    for name, head in heads.items():
        form = "estimator"
        if isinstance(head, Head):
            form = "vectors"
            if head.isometric:
                form = "jointly" if isinstance(head, TransductiveHead) else head.learns_from
        groups.setdefault(form, {})[name] = head
    return groups


def evaluate_blocks(
    task: FeatureTask,
    heads: Mapping[str, Any],
    episodes: range,
    *,
    seed: int = 0,
    n_jobs: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Scores]:
    """Run heads on episodes, a thousand per thread; memory does not grow with their number, but for the scores.

    Args:
        task: features and how episodes are drawn.
        heads: by name.
        episodes: which; where they start at a multiple of :data:`DRAW`, the results are those of any longer range.
        seed: see :meth:`FeatureTask.evaluate`.
        n_jobs: threads, by default one per core; the results do not depend on it.
        progress: called with (episodes done, episodes in all).
    """
    scores = {name: Scores() for name in heads}
    chunks = [episodes[i : i + DRAW] for i in range(0, len(episodes), DRAW)]

    def run(chunk: range) -> dict[str, Scores]:
        with torch.inference_mode():
            return task.evaluate(heads, chunk, seed=seed)

    with workers(n_jobs or int(joblib.cpu_count())) as pool:
        for chunk, found in zip(chunks, pool.map(run, chunks), strict=True):
            for name, part in found.items():
                scores[name].merge(part)
            if progress is not None:
                progress(chunk.stop - episodes.start, len(episodes))
    return scores
