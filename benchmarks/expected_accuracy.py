"""Make the table behind `fewshot.expected`, and measure how often its intervals hold on data sets left out.

python benchmarks/expected_accuracy.py FOLDER ... [--episodes 20] [--write]

Each FOLDER is a data set, one folder per class. Episodes are learned from as `FewShotClassifier` does by itself: head
auto on the tuned representation of efficientnet_lite0. Without --write nothing is changed; with it,
fewshot/expected_accuracy.json is. Features are kept in the default store.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from accuracy_vectors import load_vectors, rotated
from numpy.typing import NDArray
from scipy.special import logit

from fewshot.expected import accuracy, regressors
from fewshot.heads.auto import AutoHead
from fewshot.images.sources import load_dataset
from fewshot.known import learn

WAYS, SHOTS, MOST_QUERIES = (2, 3, 5, 7, 10), (1, 2, 5, 10), 100
COVERAGES = [round(0.5 + 0.05 * i, 2) for i in range(10)]
TABLE = Path(__file__).parents[1] / "fewshot" / "expected_accuracy.json"
# Penalty of the regression, in episodes: weights that the data sets do not agree on stay small.
PENALTY = 10.0


class Rows(NamedTuple):
    """Episodes with one kind of evidence.

    Attributes:
        X: (n, m) evidence.
        y: (n,) leads that accuracies amount to.
        doubt: (n,) units of the residuals.
        ways: (n,) numbers of classes.
        sets: (n,) which data set each is of.
    """

    X: NDArray[np.float64]
    y: NDArray[np.float64]
    doubt: NDArray[np.float64]
    ways: NDArray[np.int64]
    sets: NDArray[np.intp]

    def of(self, chosen: NDArray[np.bool_]) -> Rows:
        """Keep some of them."""
        return Rows(*(values[chosen] for values in self))


def main() -> None:
    """Print coverage and error of every kind of evidence; write the table where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    found = measure(arguments.folders, arguments.episodes)
    table = {}
    print("| evidence | data sets | episodes | mean error, points | coverage at 80 % | width | at 90 % | width |")
    print("|---|---|---|---|---|---|---|---|")
    for kind, rows in sorted(found.items()):
        left = residuals(rows)
        middle = rows.y - left * rows.doubt
        error = np.mean(
            [abs(accuracy(a, n) - accuracy(b, n)) for a, b, n in zip(rows.y, middle, rows.ways, strict=True)]
        )
        cells = [f"{100 * error:.1f}"]
        for level in (0.8, 0.9):
            cells += [f"{100 * share:.0f}" for share in coverage(rows, level)]
        print(f"| {kind} | {len(np.unique(rows.sets))} | {len(rows.y)} |", " | ".join(cells), "|", flush=True)
        reach = {f"{level:.2f}": [round(end, 4) for end in ends(left, rows.sets, level)] for level in COVERAGES}
        table[kind] = {"weights": [round(float(w), 4) for w in fit(rows)], "reach": reach}
    if arguments.write:
        TABLE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


def measure(paths: list[Path], n_episodes: int) -> dict[str, Rows]:
    """Run episodes on all data sets, and sort them by the kind of evidence."""
    found: dict[str, list[tuple[NDArray[np.float64], float, float, int, int]]] = defaultdict(list)
    for number, path in enumerate(paths):
        dataset = load_dataset(path)
        vectors, labels = load_vectors(dataset)["tuned"], np.unique(dataset.labels, return_inverse=True)[1]
        for n_way in WAYS:
            for k_shot in SHOTS:
                for index in range(n_episodes):
                    drawn = episode(labels, n_way, k_shot, index)
                    if drawn is None:
                        continue
                    support, query = drawn
                    space = vectors.space(support)
                    seen = vectors.views(space, support)[:, 1:]
                    parts = [vectors.images(space, part) for part in (support, *query)]
                    own, views, *asked = rotated(parts[0], seen.reshape(-1, seen.shape[2]), *parts[1:])
                    fitted = AutoHead().fit(own, labels[support])
                    right = [
                        np.mean(fitted.predict(rows) == labels[part]) for rows, part in zip(asked, query, strict=True)
                    ]
                    # A share of few answers; half a right and half a wrong one more, as in the evidence.
                    n_asked = sum(map(len, query))
                    share = (np.mean(right) * n_asked + 0.5) / (n_asked + 1)
                    codes = np.searchsorted(fitted.classes_, labels[support])
                    evidence = learn(
                        fitted, own[:, None].astype(np.float32), codes, views.reshape(*seen.shape[:2], -1), None
                    ).evidence
                    assert evidence is not None
                    kinds = [evidence, evidence._replace(separation=None)] if k_shot == 1 else [evidence]
                    for kind, row, doubt in map(regressors, kinds):
                        # Not cut off as the evidence's leads are: a share of so many answers is never 0 or 1.
                        found[kind].append((row, logit(share) + np.log(n_way - 1), doubt, n_way, number))
        print(f"{path.name}: {len(dataset)} images", flush=True)
    return {kind: Rows(*map(np.array, zip(*rows, strict=True))) for kind, rows in found.items()}


def episode(
    labels: NDArray[np.int64], n_way: int, k_shot: int, index: int
) -> tuple[NDArray[np.intp], list[NDArray[np.intp]]] | None:
    """Draw support positions, and query positions of each class; nothing where a data set is too small."""
    rng = np.random.default_rng([n_way, k_shot, index])
    members = [np.flatnonzero(labels == name) for name in np.unique(labels)]
    members = [part for part in members if len(part) >= k_shot + 5]
    if len(members) < n_way:
        return None
    drawn = [rng.permutation(members[c]) for c in rng.choice(len(members), n_way, replace=False)]
    return np.concatenate([d[:k_shot] for d in drawn]), [d[k_shot : k_shot + MOST_QUERIES] for d in drawn]


def fit(rows: Rows) -> NDArray[np.float64]:
    """Ridge regression in which data sets count the same but for the doubt of their episodes: (m,) weights."""
    weight = rows.doubt**-2 / np.bincount(rows.sets)[rows.sets]
    weight *= len(rows.y) / weight.sum()
    penalty = np.diag(PENALTY * rows.X.std(axis=0) ** 2)
    weighed = (rows.X * weight[:, None]).T
    return np.linalg.solve(weighed @ rows.X + penalty, weighed @ rows.y)


def residuals(rows: Rows) -> NDArray[np.float64]:
    """What a regression on all other data sets leaves over of each episode, in units of its doubt: (n,)."""
    left = np.empty(len(rows.y))
    for number in np.unique(rows.sets):
        own = rows.sets == number
        left[own] = rows.y[own] - rows.X[own] @ fit(rows.of(~own))
    return left / rows.doubt


def ends(left: NDArray[np.float64], sets: NDArray[np.intp], level: float) -> tuple[float, float]:
    """Residuals between which the share ``level`` of (n,) residuals lies, each data set counting the same.

    Equal shares are left out at both ends. One more data set, the unseen one, counts as infinitely far off, half of it
    at either end: that is what makes it conformal.
    """
    n_sets = len(np.unique(sets))
    wanted = min(((1 + level) / 2 * (n_sets + 1) - 0.5) / n_sets, 1.0)
    found = []
    for sign in (-1, 1):
        order = np.argsort(sign * left)
        reached = np.cumsum((1 / np.bincount(sets)[sets])[order]) / n_sets
        found.append(float(left[order][min(int(np.searchsorted(reached, wanted - 1e-12)), len(left) - 1)]))
    return found[0], found[1]


def coverage(rows: Rows, level: float) -> tuple[float, float]:
    """Share of accuracies in intervals whose table knows nothing of the data set, and the intervals' mean width."""
    held, widths = [], []
    for number in np.unique(rows.sets):
        own, others = rows.of(rows.sets == number), rows.of(rows.sets != number)
        low, high = ends(residuals(others), others.sets, level)
        middle = own.X @ fit(others)
        left = (own.y - middle) / own.doubt
        held.append(np.mean((low <= left) & (left <= high)))
        steps = zip(middle, own.doubt, own.ways, strict=True)
        widths.append(np.mean([accuracy(m + high * d, n) - accuracy(m + low * d, n) for m, d, n in steps]))
    return float(np.mean(held)), float(np.mean(widths))


if __name__ == "__main__":
    main()
