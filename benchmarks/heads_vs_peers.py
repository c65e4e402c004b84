"""Episodes per second of heads against easyfsl's methods and scikit-learn's classifiers, and whether they agree.

pip install 'fewshot[peers]' && python benchmarks/heads_vs_peers.py FOLDER

Every pair gets the same features and the same episodes; times are taken in turn, A B A B, and medians are shown.
easyfsl is timed as its documentation runs it (``evaluate`` over a data loader of episodes) and alone, called with the
arrays of episodes that are drawn already; scikit-learn as a loop over drawn episodes. Peers compute accuracy only. Ours
is ``evaluate_features``: it draws, and computes accuracy, log-loss, Brier score and calibration of every episode.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from easyfsl import methods
from easyfsl.samplers import TaskSampler
from easyfsl.utils import evaluate
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import normalize
from torch.utils.data import DataLoader, Dataset

from fewshot import ImageDataset, evaluate_features, load_backbone
from fewshot.episodes import Episode, EpisodeSampler, Protocol
from fewshot.features import extract_views
from fewshot.heads import make_head
from fewshot.heads.prototypical import PrototypicalHead
from fewshot.stats import mean_interval
from fewshot.store import FeatureStore

Answer = Callable[[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]], NDArray[np.int64]]


def with_easyfsl(method: Any) -> Answer:
    """Call easyfsl's classifier, around a network that does nothing, on gathered arrays."""
    classifier = method(backbone=torch.nn.Identity())

    def answer(support: NDArray[np.float32], labels: NDArray[np.int64], query: NDArray[np.float32]) -> Any:
        with torch.no_grad():
            classifier.process_support_set(torch.from_numpy(support), torch.from_numpy(np.array(labels)))
            return classifier(torch.from_numpy(query)).argmax(dim=1).numpy()

    return answer


class Rows(Dataset[tuple[torch.Tensor, int]]):
    """Features and labels as easyfsl's data sets give them."""

    def __init__(self, features: NDArray[np.float32], labels: list[int]) -> None:
        self.features, self.labels = torch.from_numpy(features), labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.features[index], self.labels[index]


class DrawnTasks(TaskSampler):  # type: ignore[misc]
    """easyfsl's sampler, giving our episodes. Its own constructor raises with torch 2.15."""

    def __init__(self, episodes: list[Episode], n_way: int, k_shot: int, n_query: int) -> None:
        self.n_way, self.n_shot, self.n_query, self.n_tasks = n_way, k_shot, n_query, len(episodes)
        self.episodes = episodes

    def __iter__(self) -> Iterator[list[int]]:
        for e in self.episodes:
            parts = [e.support.reshape(self.n_way, -1), e.query.reshape(self.n_way, -1)]
            yield np.concatenate(parts, axis=1).ravel().tolist()


def documented(method: Any, features: NDArray[np.float32], labels: list[int], episodes: list[Episode]) -> float:
    """Run easyfsl's own evaluation over a data loader of episodes; give its accuracy."""
    k_shot = len(episodes[0].support) // 5
    tasks = DrawnTasks(episodes, 5, k_shot, 15)
    loader = DataLoader(Rows(features, labels), batch_sampler=tasks, collate_fn=tasks.episodic_collate_fn)
    return float(evaluate(method(backbone=torch.nn.Identity()), loader, device="cpu", use_tqdm=False))


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
    method: Any = None

    @property
    def is_slow(self) -> bool:
        """Whether an episode takes the peer tens of milliseconds."""
        return self.name.endswith("TIM")


def pairs() -> list[Pair]:
    """List what is compared."""
    euclidean = PrototypicalHead(metric="euclidean")
    with_method = [
        ("PrototypicalNetworks", methods.PrototypicalNetworks, euclidean, False),
        ("SimpleShot", methods.SimpleShot, make_head("prototypical"), True),
        ("TIM", methods.TIM, make_head("tim"), True),
        ("LaplacianShot", methods.LaplacianShot, make_head("laplacian-shot"), True),
        ("BD-CSPN", methods.BDCSPN, make_head("bd-cspn"), True),
    ]
    return [
        *(Pair(f"easyfsl {name}", with_easyfsl(m), head, unit, m) for name, m, head, unit in with_method),
        Pair("scikit-learn NearestCentroid", with_sklearn(NearestCentroid), euclidean, False),
        Pair("scikit-learn LogisticRegression", with_sklearn(LogisticRegression), make_head("linear-probe"), True),
        Pair("scikit-learn RidgeClassifier", with_sklearn(RidgeClassifier), make_head("ridge"), True),
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


def timed(work: Callable[[], object], n: int) -> float:
    """Milliseconds per episode."""
    start = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - start) / n


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="one folder per class")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=400, help="that accuracies are compared on")
    parser.add_argument("--ours", type=int, default=30720, help="episodes per timing of ours")
    parser.add_argument("--peer", type=int, default=100, help="episodes per timing of the peer")
    parser.add_argument("--only", default="", help="only peers with this in their name")
    arguments = parser.parse_args()
    # Peers warn once per episode about features that do not vary; printing that would be timed.
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    dataset = ImageDataset.from_folder(arguments.folder)
    labels = dataset.targets.tolist()
    raw = extract_views(load_backbone(), dataset.sources, store=FeatureStore())[:, 0]
    unit = normalize(raw).astype(np.float32)
    rate = bandwidth()
    print(f"{len(raw)} x {raw.shape[1]} features, 5-way, 15 queries per class; {torch.get_num_threads()} threads.\n")
    print("| peer | shots | peer, ms | alone, ms | ours, ms | ratio | alone | peer, % | ours, % | ours minus peer |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    fastest: dict[int, float] = {}
    for pair in (pair for pair in pairs() if arguments.only in pair.name):
        features = unit if pair.unit else raw
        for k_shot in (1, 5):
            sampler = EpisodeSampler(dataset.labels, Protocol(5, k_shot, 15))
            episodes = list(sampler.draw(range(arguments.episodes)))
            share = 10 if pair.is_slow else 1
            few, many = episodes[: arguments.peer // share], arguments.ours // share

            def ours(n: int, k_shot: int = k_shot, pair: Pair = pair, features: Any = features) -> Any:
                found = evaluate_features(features, labels, heads={"ours": pair.head}, k_shot=k_shot, n_episodes=n)
                return found.find("features", "ours", k_shot)

            theirs = np.array(peer_accuracies(pair, features, episodes))
            gap = mean_interval(100 * (np.array(ours(arguments.episodes).accuracy) - theirs))
            if pair.method is not None:
                reached = documented(pair.method, features, labels, episodes)
                if abs(reached - theirs.mean()) > 2e-3:
                    raise AssertionError(f"{pair.name}: {reached} by evaluate, {theirs.mean()} alone")
            times: dict[str, list[float]] = {"peer": [], "alone": [], "ours": []}
            for _ in range(arguments.rounds):
                if pair.method is not None:
                    times["peer"].append(
                        timed(lambda: documented(pair.method, features, labels, few), len(few))  # noqa: B023
                    )
                times["alone"].append(timed(lambda: peer_accuracies(pair, features, few), len(few)))  # noqa: B023
                times["ours"].append(timed(lambda: ours(many), many))  # noqa: B023
            alone, mine = float(np.median(times["alone"])), float(np.median(times["ours"]))
            peer = float(np.median(times["peer"])) if times["peer"] else alone
            if pair.name.endswith("PrototypicalNetworks"):
                fastest[k_shot] = mine
            print(
                f"| {pair.name} | {k_shot} | {peer:.3f} | {alone:.3f} | {mine:.4f} | **{peer / mine:.0f}** | "
                f"{alone / mine:.0f} | {100 * theirs.mean():.2f} | {100 * theirs.mean() + gap.value:.2f} | "
                f"{gap.value:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}] |",
                flush=True,
            )
    print(f"\nMemory is read at {rate / 1e9:.1f} GB/s.")
    for k_shot, mine in fastest.items():
        n_support = 5 * k_shot
        vectors = 1e3 * 4 * (n_support + 75) * raw.shape[1] / rate
        products = 1e3 * 8 * (n_support + 75) * n_support / rate
        print(
            f"{k_shot} shots: reading an episode's vectors once takes {1e3 * vectors:.1f} us, its inner products "
            f"{1e3 * products:.2f} us. Prototypes take {1e3 * mine:.1f} us: {100 * vectors / mine:.0f} % of the speed "
            f"at which vectors can be read, {100 * products / mine:.0f} % of that for inner products."
        )


if __name__ == "__main__":
    main()
