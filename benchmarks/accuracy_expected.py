"""Section `expected`: how often the interval for the accuracy to expect holds what is then measured.

The interval is for the accuracy on infinitely many images, and what is measured is a share of n answers. Near to 100 %
that share's chance is as wide as the interval, and a share of 1 is no accuracy of 1, which no interval holds. So:

- as many images are asked about as there are,
- half a right and half a wrong answer are added, as in the table, see `expected_accuracy.py`; one column does without,
- and one column counts chance: the table's intervals, taken for a distribution of the accuracy, give a distribution of
  the number of right answers, and the interval holds where that number is in its central part.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from accuracy_common import Setting
from accuracy_tables import header, row
from accuracy_vectors import Vectors, load_vectors, rotated
from scipy import stats
from scipy.special import expit, logit

from fewshot import ImageDataset
from fewshot.episodes import Episode, EpisodeSampler, Protocol
from fewshot.expected import Evidence, expected_accuracy
from fewshot.heads import make_head
from fewshot.known import learn

WAYS, SHOTS, LEVELS = (2, 5, 10), (1, 2, 5, 10), (0.8, 0.9)
# Those of the table, and how many accuracies stand for the distribution that they make.
COVERAGES, N_DRAWN = [round(0.5 + 0.05 * i, 2) for i in range(10)], 200
MOST_QUERIES = 100
# The table in the package was made with the second.
PAIRS = (("linear-probe", "averaged"), ("auto", "tuned"))


class Outcome(NamedTuple):
    """One episode: whether the intervals held, by three measures, how wide, how far off, and whether all was right."""

    held: tuple[bool, ...]
    bare: tuple[bool, ...]
    counted: tuple[bool, ...]
    widths: tuple[float, ...]
    error: float
    flawless: bool


def section(setting: Setting) -> Iterator[str]:
    """Print coverage and width by head and evidence."""
    n = max(2, setting.episodes // 20)
    yield "## Accuracy to expect\n"
    yield (
        f"{n} episodes of each data set at {', '.join(map(str, WAYS))} ways; the interval is compared with the "
        f"accuracy on up to {MOST_QUERIES} other images of each class, half a right and half a wrong answer added. "
        "`bare share`: the same without the half answers. `with chance`: share of intervals that held where the chance "
        "of so many answers is counted. `without an error`: share of tasks without a wrong answer. In the columns "
        "of data sets: share of 80 % intervals that held. All in %.\n"
    )
    found: dict[tuple[str, str], dict[str, list[Outcome]]] = defaultdict(lambda: defaultdict(list))
    for name, dataset in setting.datasets.items():
        vectors = load_vectors(dataset)
        for head, kind in PAIRS:
            for evidence, outcome in _outcomes(dataset, vectors[kind], head, n):
                found[f"{head} on {kind}", evidence][name].append(outcome)
    titles = [
        f"{100 * level:.0f} %: {what}" for level in LEVELS for what in ("held", "bare share", "with chance", "width")
    ]
    yield from header(["head", "evidence", *titles, "mean error", "without an error", *setting.datasets])
    for (head, evidence), sets in found.items():
        cells = []
        for i in range(len(LEVELS)):
            for what in ("held", "bare", "counted", "widths"):
                cells.append(np.mean([np.mean([getattr(one, what)[i] for one in rows]) for rows in sets.values()]))
        for what in ("error", "flawless"):
            cells.append(np.mean([np.mean([getattr(one, what) for one in rows]) for rows in sets.values()]))
        each = [
            f"{100 * np.mean([one.held[0] for one in sets[name]]):.0f}" if name in sets else "–"
            for name in setting.datasets
        ]
        yield row([head, evidence, *(f"{100 * cell:.1f}" for cell in cells), *each])
    yield ""


def _outcomes(dataset: ImageDataset, vectors: Vectors, head: str, n: int) -> Iterator[tuple[str, Outcome]]:
    for n_way in (ways for ways in WAYS if ways <= len(dataset.class_names)):
        for k_shot in SHOTS:
            queries = min(MOST_QUERIES, min(dataset.counts().values()) - k_shot)
            sampler = EpisodeSampler(dataset.labels, Protocol(n_way, k_shot, queries))
            for episode in sampler.draw(range(n)):
                yield from _episode(vectors, episode, head, k_shot)


def _episode(vectors: Vectors, episode: Episode, head: str, k_shot: int) -> Iterator[tuple[str, Outcome]]:
    space = vectors.space(episode.support)
    own, asked = vectors.images(space, episode.support), vectors.images(space, episode.query)
    seen = vectors.views(space, episode.support)[:, 1:]
    own, flat, asked = rotated(own, seen.reshape(-1, seen.shape[2]), asked)
    fitted = make_head(head).fit(own, episode.support_labels)
    right = int(np.sum(fitted.predict(asked) == episode.query_labels))
    codes = np.searchsorted(fitted.classes_, episode.support_labels)
    evidence = learn(fitted, own[:, None].astype(np.float32), codes, flat.reshape(*seen.shape[:2], -1), None).evidence
    assert evidence is not None
    if k_shot > 1:
        yield f"{k_shot} shots", _compare(evidence, right, len(asked))
    else:
        yield "1 shot, with views", _compare(evidence, right, len(asked))
        yield "1 shot", _compare(evidence._replace(separation=None), right, len(asked))


def _compare(evidence: Evidence, right: int, n_asked: int) -> Outcome:
    said = [expected_accuracy(evidence, coverage=level) for level in LEVELS]
    reached = (right + 0.5) / (n_asked + 1)
    held = tuple(one.low <= reached <= one.high for one in said)
    bare = tuple(one.low <= right / n_asked <= one.high for one in said)
    rank = _rank(evidence, right, n_asked)
    counted = tuple(abs(rank - 0.5) <= level / 2 for level in LEVELS)
    widths = tuple(one.high - one.low for one in said)
    return Outcome(held, bare, counted, widths, abs(said[0].mid - right / n_asked), right == n_asked)


def _rank(evidence: Evidence, right: int, n_asked: int) -> float:
    """Rank of a number of right answers among those that the accuracy to expect and chance give together, in 0..1.

    Equal numbers count half.
    """
    shares, ends = [], []
    for level in COVERAGES:
        said = expected_accuracy(evidence, coverage=level)
        shares += [(1 - level) / 2, (1 + level) / 2]
        ends += [said.low, said.high]
    order = np.argsort(shares)
    drawn = expit(np.interp((np.arange(N_DRAWN) + 0.5) / N_DRAWN, np.array(shares)[order], logit(ends)[order]))
    return float(np.mean(stats.binom.cdf(right, n_asked, drawn) - stats.binom.pmf(right, n_asked, drawn) / 2))
