"""Section `suggest`: accuracy by number of labels, where images to label are suggested and where they are drawn."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from accuracy_common import Setting
from accuracy_tables import header, percent, points, row
from accuracy_vectors import Vectors, load_vectors, rotated
from numpy.typing import NDArray

from fewshot import ImageDataset
from fewshot.episodes import Episode, EpisodeSampler, Protocol
from fewshot.heads import make_head
from fewshot.stats import mean_interval, overall_interval
from fewshot.suggestions import suggest

BUDGETS = (5, 10, 20, 40)
WAYS, MOST_POOL, MOST_ASKED = 5, 60, 40


def section(setting: Setting) -> Iterator[str]:
    """Print curves."""
    n = max(2, setting.episodes // 6)
    yield "## What to label next\n"
    yield (
        f"{n} draws of {WAYS} classes; of each class half of its images, {MOST_POOL} at most, are without labels at "
        "first, and others are asked about. `suggest` is asked for 5, 5, 10 and 20 images in turn, and is told their "
        "labels; *random* labels as many, drawn anew. Head `auto` on the tuned representation; accuracy in %.\n"
    )
    yield from header(["data set", "labels", "suggested", "random", "difference"])
    curves = {}
    for name, dataset in setting.datasets.items():
        curves[name] = np.array(_curves(dataset, load_vectors(dataset)["tuned"], n))
        for position, budget in enumerate(BUDGETS):
            ours, drawn = curves[name][:, 0, position], curves[name][:, 1, position]
            gain = points(mean_interval(ours - drawn))
            yield row([name, str(budget), *(percent(mean_interval(one)) for one in (ours, drawn)), gain])
    for position, budget in enumerate(BUDGETS):
        both = [[one[:, i, position] for one in curves.values()] for i in range(2)]
        gain = points(overall_interval([ours - drawn for ours, drawn in zip(*both, strict=True)]))
        yield row(["**mean**", str(budget), *(percent(overall_interval(one)) for one in both), gain])
    yield ""


def _curves(dataset: ImageDataset, vectors: Vectors, n: int) -> list[list[list[float]]]:
    """(n, 2, len(BUDGETS)) accuracies, of suggested images and of drawn ones."""
    smallest = min(dataset.counts().values())
    pool = min(MOST_POOL, smallest // 2)
    sampler = EpisodeSampler(dataset.labels, Protocol(WAYS, pool, min(MOST_ASKED, smallest - pool)))
    return [
        [_accuracies(vectors, one, order(vectors, one)) for order in (_suggested, _drawn)]
        for one in sampler.draw(range(n))
    ]


def _suggested(vectors: Vectors, episode: Episode) -> NDArray[np.intp]:
    """Order positions in the pool as they are suggested, as far as the largest budget."""
    (pool,) = rotated(vectors.images(vectors.space(episode.support), episode.support))
    chosen: list[int] = []
    for budget in BUDGETS:
        rest = np.setdiff1d(np.arange(len(pool)), chosen)
        known = {"labelled_features": pool[chosen], "labels": episode.support_labels[chosen]} if chosen else {}
        found = suggest(pool[rest], min(budget, len(pool)) - len(chosen), seed=episode.index, **known)
        chosen += rest[found].tolist()
    return np.array(chosen)


def _drawn(vectors: Vectors, episode: Episode) -> NDArray[np.intp]:
    """Order positions in the pool at random."""
    return np.random.default_rng(episode.index).permutation(len(episode.support))[: BUDGETS[-1]]


def _accuracies(vectors: Vectors, episode: Episode, order: NDArray[np.intp]) -> list[float]:
    """Learn from the first images in this order, at every budget."""
    found = []
    for budget in BUDGETS:
        chosen, labels = episode.support[order[:budget]], episode.support_labels[order[:budget]]
        answer = np.full(len(episode.query), labels[0])
        if len(np.unique(labels)) > 1:
            space = vectors.space(chosen)
            learned, asked = rotated(vectors.images(space, chosen), vectors.images(space, episode.query))
            answer = make_head("auto").fit(learned, labels).predict(asked)
        found.append(float(np.mean(answer == episode.query_labels)))
    return found
