"""Make the table behind the threshold of `fewshot.novelty`, and measure it on data sets left out.

python benchmarks/novelty_threshold.py FOLDER ... [--episodes 20]

Each FOLDER is a data set, one folder per class; at least two. Episodes have 3, 5 and 10 known classes and as many
unknown ones, or what there is. The table holds quantiles, over all data sets with the same weight, of known images'
scores over the mean score of classes left out, with one image per class on the tuned representation of
efficientnet_lite0. Nothing is changed: `_SHARES` is copied by hand. Features are kept in the default store.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from accuracy_vectors import KINDS, Vectors, load_vectors
from numpy.typing import NDArray

from fewshot import ImageDataset, novelty
from fewshot.episodes import Episode, EpisodeSampler, Protocol
from fewshot.images.sources import load_dataset
from fewshot.novelty import NoveltyDetector, class_left_out

WAYS, SHOTS, MOST_QUERIES = (3, 5, 10), (1, 2, 3, 5), 10
FEWEST_QUERIES = 3
RATES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
RATE = 0.05
Values = NDArray[np.float64]
Loaded = dict[str, tuple[ImageDataset, dict[str, Vectors]]]


def main() -> None:
    """Print the table, and what detectors reject that are told by the other data sets alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--episodes", type=int, default=20)
    arguments = parser.parse_args()
    loaded: Loaded = {}
    for folder in arguments.folders:
        dataset = load_dataset(str(folder))
        loaded[folder.name] = dataset, load_vectors(dataset)
    ratios = {name: known_ratios(*loaded[name], arguments.episodes) for name in loaded}
    print("_SHARES =", shares(list(ratios.values())), flush=True)
    print("| features | classes | shots | data sets | known rejected | of a set, at most | unknown rejected |")
    print("|---|---|---|---|---|---|---|")
    own = novelty._SHARES
    for kind in KINDS:
        for ways in WAYS:
            for k_shot in SHOTS:
                found = []
                for name, (dataset, vectors) in loaded.items():
                    novelty._SHARES = shares([one for other, one in ratios.items() if other != name])
                    episodes = list(draw(dataset, ways, k_shot, arguments.episodes))
                    if episodes:
                        found.append(np.mean([rejected(vectors[kind], one, ways) for one in episodes], axis=0))
                if found:
                    known, unknown = 100 * np.array(found).T
                    cells = [f"{known.mean():.1f}", f"{known.max():.1f}", f"{unknown.mean():.1f}"]
                    print("|", " | ".join([kind, str(ways), str(k_shot), str(len(found)), *cells]), "|", flush=True)
    novelty._SHARES = own


def draw(dataset: ImageDataset, ways: int, k_shot: int, n: int) -> Iterator[Episode]:
    """Draw episodes of known classes and unknown ones; none where the data set has too few of either, or images."""
    queries = min(MOST_QUERIES, min(dataset.counts().values()) - k_shot)
    both = min(2 * ways, len(dataset.class_names))
    if queries >= FEWEST_QUERIES and both > ways:
        yield from EpisodeSampler(dataset.labels, Protocol(both, k_shot, queries)).draw(range(n))


def known_ratios(dataset: ImageDataset, vectors: dict[str, Vectors], n: int) -> Values:
    """Scores of known images, over the mean score of classes left out: one image per class, tuned features."""
    found = []
    for ways in WAYS:
        for episode in draw(dataset, ways, 1, n):
            detector, rows, labels, asked = fitted(vectors["tuned"], episode, ways)
            # One image per class: the rows are the classes' means.
            rows = rows[np.argsort(labels)] / np.linalg.norm(rows, axis=1)[np.argsort(labels), None]
            apart = class_left_out(rows, np.arange(ways), rows, detector.scales_)
            found.append(detector.score(asked[episode.query_labels < ways]) / apart)
    return np.concatenate(found)


def shares(ratios: list[Values]) -> dict[float, float]:
    """Quantiles over data sets, each with the same weight."""
    values = np.concatenate(ratios)
    weights = np.concatenate([np.full(len(one), 1 / len(one) / len(ratios)) for one in ratios])
    order = np.argsort(values)
    below = np.cumsum(weights[order])
    places = np.searchsorted(below, 1 - np.array(RATES))
    return {rate: round(float(values[order][place]), 3) for rate, place in zip(RATES, places, strict=True)}


def rejected(vectors: Vectors, episode: Episode, ways: int) -> tuple[float, float]:
    """Shares of known and of unknown images that are rejected."""
    detector, _, _, asked = fitted(vectors, episode, ways)
    novel, known = detector.is_novel(asked), episode.query_labels < ways
    return float(novel[known].mean()), float(novel[~known].mean())


def fitted(vectors: Vectors, episode: Episode, ways: int) -> tuple[NoveltyDetector, Values, NDArray[np.intp], Values]:
    """Fit a detector on the first ``ways`` classes; give what it learned from, labels, and all queries' vectors."""
    seen = episode.support_labels < ways
    support, labels = episode.support[seen], episode.support_labels[seen]
    space = vectors.space(support)
    rows = vectors.images(space, support)
    return NoveltyDetector(RATE).fit(rows, labels), rows, labels, vectors.images(space, episode.query)


if __name__ == "__main__":
    main()
