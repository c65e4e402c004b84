"""Episodes per second of heads against easyfsl's methods and scikit-learn's classifiers, and whether they agree.

pip install 'fewshot[peers]' && python benchmarks/heads_vs_peers.py FOLDER

Every pair gets the same features and the same episodes; times are taken in turn, A B A B, and medians are shown. Peers run
as their users run them, episode by episode, with the threads they take by default; ours runs as ``evaluate_features``
does, drawing and scoring included.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from easyfsl import methods
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import normalize

from fewshot import ImageDataset, evaluate_features, load_backbone
from fewshot.episodes import Episode, EpisodeSampler, Protocol
from fewshot.features import extract_views
from fewshot.heads import make_head
from fewshot.heads.prototypical import PrototypicalHead
from fewshot.stats import mean_interval
from fewshot.store import FeatureStore

Answer = Callable[[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]], NDArray[np.int64]]


def with_easyfsl(method: Any) -> Answer:
    """Answer as easyfsl's users do: a classifier around a network, here one that does nothing."""
    classifier = method(backbone=torch.nn.Identity())

    def answer(support: NDArray[np.float32], labels: NDArray[np.int64], query: NDArray[np.float32]) -> Any:
        with torch.no_grad():
            classifier.process_support_set(torch.from_numpy(support), torch.from_numpy(labels))
            return classifier(torch.from_numpy(query)).argmax(dim=1).numpy()

    return answer


def with_sklearn(make: Callable[[], Any]) -> Answer:
    """Answer as a loop over episodes with a scikit-learn classifier does."""
    return lambda support, labels, query: make().fit(support, labels).predict(query)


@dataclass(frozen=True)
class Pair:
    """A peer and our head of the same method; ``unit`` where both are given L2-normalised features."""

    name: str
    answer: Answer
    head: Any
    unit: bool
    n_episodes: int


def pairs() -> list[Pair]:
    """List what is compared."""
    euclidean = PrototypicalHead(metric="euclidean")
    return [
        Pair("easyfsl PrototypicalNetworks", with_easyfsl(methods.PrototypicalNetworks), euclidean, False, 400),
        Pair("easyfsl SimpleShot", with_easyfsl(methods.SimpleShot), make_head("prototypical"), True, 400),
        Pair("easyfsl TIM", with_easyfsl(methods.TIM), make_head("tim"), True, 200),
        Pair("easyfsl LaplacianShot", with_easyfsl(methods.LaplacianShot), make_head("laplacian-shot"), True, 400),
        Pair("easyfsl BD-CSPN", with_easyfsl(methods.BDCSPN), make_head("bd-cspn"), True, 400),
        Pair("scikit-learn NearestCentroid", with_sklearn(NearestCentroid), euclidean, False, 400),
        Pair("scikit-learn LogisticRegression", with_sklearn(LogisticRegression), make_head("linear-probe"), True, 400),
        Pair("scikit-learn RidgeClassifier", with_sklearn(RidgeClassifier), make_head("ridge"), True, 400),
    ]


def peer_accuracies(pair: Pair, features: NDArray[np.float32], episodes: list[Episode]) -> list[float]:
    """Run the peer, episode by episode."""
    return [
        float(np.mean(pair.answer(features[e.support], e.support_labels, features[e.query]) == e.query_labels))
        for e in episodes
    ]


def bandwidth() -> float:
    """Bytes per second that two threads read from memory, the best of several."""
    block = torch.ones(1 << 26)
    best = np.inf
    for _ in range(10):
        start = time.perf_counter()
        block.sum()
        best = min(best, time.perf_counter() - start)
    return 4 * len(block) / best


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="one folder per class")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ours", type=int, default=5120, help="episodes per timing of ours")
    parser.add_argument("--peer", type=int, default=40, help="episodes per timing of the peer")
    arguments = parser.parse_args()
    dataset = ImageDataset.from_folder(arguments.folder)
    raw = extract_views(load_backbone(), dataset.sources, store=FeatureStore())[:, 0]
    unit = normalize(raw).astype(np.float32)
    rate = bandwidth()
    print(f"{len(raw)} x {raw.shape[1]} features, 5-way, 15 queries per class; {torch.get_num_threads()} threads.\n")
    print("| peer | shots | peer, ms | ours, ms | ratio | peer, % | ours, % | ours minus peer |")
    print("|---|---|---|---|---|---|---|---|")
    fastest = {}
    for pair in pairs():
        features = unit if pair.unit else raw
        for k_shot in (1, 5):
            episodes = list(EpisodeSampler(dataset.labels, Protocol(5, k_shot, 15)).draw(range(pair.n_episodes)))

            def run_ours(n: int, k_shot: int = k_shot, pair: Pair = pair, features: Any = features) -> Any:
                heads = {"ours": pair.head}
                return evaluate_features(features, dataset.labels, heads=heads, k_shot=k_shot, n_episodes=n)

            theirs = np.array(peer_accuracies(pair, features, episodes))
            ours = np.array(run_ours(pair.n_episodes).find("features", "ours", k_shot).accuracy)
            slow = pair.name.endswith("TIM")
            times: tuple[list[float], list[float]] = ([], [])
            for _ in range(arguments.rounds):
                n_peer, n_ours = (
                    (arguments.peer // 4, arguments.ours // 4) if slow else (arguments.peer, arguments.ours)
                )
                start = time.perf_counter()
                peer_accuracies(pair, features, episodes[:n_peer])
                middle = time.perf_counter()
                run_ours(n_ours)
                times[0].append((middle - start) / n_peer)
                times[1].append((time.perf_counter() - middle) / n_ours)
            peer, mine = (1e3 * float(np.median(t)) for t in times)
            fastest[k_shot] = min(mine, fastest.get(k_shot, np.inf))
            gap = mean_interval(100 * (ours - theirs))
            print(
                f"| {pair.name} | {k_shot} | {peer:.2f} | {mine:.4f} | {peer / mine:.0f} | {100 * theirs.mean():.2f} | "
                f"{100 * ours.mean():.2f} | {gap.value:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}] |",
                flush=True,
            )
    print(f"\nMemory is read at {rate / 1e9:.1f} GB/s.")
    for k_shot, mine in fastest.items():
        n_support = 5 * k_shot
        vectors = 1e3 * 4 * (n_support + 75) * raw.shape[1] / rate
        products = 1e3 * 8 * (n_support + 75) * n_support / rate
        print(
            f"{k_shot} shots: reading an episode's vectors once takes {vectors:.4f} ms, its inner products "
            f"{products:.4f} ms; prototypes take {mine:.4f} ms: {100 * vectors / mine:.0f} % and "
            f"{100 * products / mine:.0f} % of that speed."
        )


if __name__ == "__main__":
    main()
