"""Section `novelty`: images of classes that nobody was told of, against the largest probability."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from accuracy_common import Setting, n_query
from accuracy_tables import header, percent, points, row
from accuracy_vectors import KINDS, Vectors, load_vectors
from sklearn.metrics import roc_auc_score

from fewshot import ImageDataset
from fewshot.episodes import Episode, EpisodeSampler, Protocol
from fewshot.heads import make_head
from fewshot.novelty import NoveltyDetector
from fewshot.stats import mean_interval, overall_interval

SHOTS = (1, 2, 5)
WAYS = 5
RATE = 0.05


def section(setting: Setting) -> Iterator[str]:
    """Print AUROC, and what is rejected."""
    yield "## None of these\n"
    yield (
        f"{WAYS} known classes and as many unknown ones, 15 images of each (10 where classes are small). AUROC of "
        "unknown against known images, against that of `auto`'s largest probability. The threshold is set for 5 % of "
        "known images, from the training images. All in %.\n"
    )
    found: dict[tuple[str, int], dict[str, list[list[float]]]] = defaultdict(dict)
    for name, dataset in setting.datasets.items():
        vectors = load_vectors(dataset)
        for k_shot in SHOTS:
            for kind in KINDS:
                found[kind, k_shot][name] = _episodes(dataset, vectors[kind], k_shot, setting.episodes)
    titles = ["AUROC", "AUROC of the largest probability", "difference"]
    yield from header(["features", "shots", "data set", *titles, "known rejected", "unknown rejected"])
    for (kind, k_shot), sets in found.items():
        for name, episodes in sets.items():
            score, sure, known, unknown = (mean_interval(column) for column in zip(*episodes, strict=True))
            gain = points(mean_interval([one[0] - one[1] for one in episodes]))
            yield row([kind, str(k_shot), name, percent(score), percent(sure), gain, percent(known), percent(unknown)])
        columns = [overall_interval([np.array(one)[:, i] for one in sets.values()]) for i in range(4)]
        gain = points(overall_interval([np.array(one)[:, 0] - np.array(one)[:, 1] for one in sets.values()]))
        cells = [*map(percent, columns[:2]), gain, *map(percent, columns[2:])]
        yield row([kind, str(k_shot), "**mean**", *cells])
    yield ""
    yield (
        "**One class**, told from all others: each class in turn, images drawn anew. The threshold is set by views of "
        "the images, and where there are several, by the images. Features `tuned`.\n"
    )
    yield from header(["shots", "data set", "AUROC", "known rejected", "unknown rejected"])
    for k_shot in SHOTS:
        alone = {}
        for name, dataset in setting.datasets.items():
            alone[name] = _single(dataset, load_vectors(dataset)["tuned"], k_shot, setting.episodes)
            yield row([str(k_shot), name, *(percent(mean_interval(one)) for one in zip(*alone[name], strict=True))])
        means = [overall_interval([np.array(one)[:, i] for one in alone.values()]) for i in range(3)]
        yield row([str(k_shot), "**mean**", *map(percent, means)])
    yield ""


def _single(dataset: ImageDataset, vectors: Vectors, k_shot: int, n: int) -> list[list[float]]:
    """AUROC, and the shares of known and unknown images rejected, of one class against all others."""
    sampler = EpisodeSampler(dataset.labels, Protocol(len(dataset.class_names), k_shot, n_query(dataset)))
    found = []
    for index, episode in enumerate(sampler.draw(range(n))):
        known = index % len(dataset.class_names)
        support = episode.support[episode.support_labels == known]
        space = vectors.space(support)
        learned, asked = vectors.images(space, support), vectors.images(space, episode.query)
        detector = NoveltyDetector(RATE).fit(learned, views=vectors.views(space, support)[:, 1:])
        score, novel, unknown = detector.score(asked), detector.is_novel(asked), episode.query_labels != known
        found.append(
            [float(roc_auc_score(unknown, score)), float(novel[~unknown].mean()), float(novel[unknown].mean())]
        )
    return found


def _episodes(dataset: ImageDataset, vectors: Vectors, k_shot: int, n: int) -> list[list[float]]:
    # As many unknown classes as there are, where there are fewer.
    ways = min(2 * WAYS, len(dataset.class_names))
    sampler = EpisodeSampler(dataset.labels, Protocol(ways, k_shot, n_query(dataset)))
    return [_episode(vectors, episode) for episode in sampler.draw(range(n))]


def _episode(vectors: Vectors, episode: Episode) -> list[float]:
    """AUROC of the detector and of the largest probability, and the shares of known and unknown images rejected."""
    seen = episode.support_labels < WAYS
    support, labels = episode.support[seen], episode.support_labels[seen]
    space = vectors.space(support)
    learned, asked = vectors.images(space, support), vectors.images(space, episode.query)
    detector = NoveltyDetector(RATE).fit(learned, labels)
    unknown = episode.query_labels >= WAYS
    score, novel = detector.score(asked), detector.is_novel(asked)
    doubt = 1 - make_head("auto").fit(learned, labels).predict_proba(asked).max(axis=1)
    areas = [float(roc_auc_score(unknown, one)) for one in (score, doubt)]
    return [*areas, float(novel[~unknown].mean()), float(novel[unknown].mean())]
