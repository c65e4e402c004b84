"""Accuracy and cost of the packaged backbones: linear probe on one central view, 5-way, same episodes.

python benchmarks/backbones.py [FOLDER ...] [--episodes 200]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from episodes import data_sets, episode, pool

from fewshot import load_backbone
from fewshot.heads.linear_probe import LinearProbe
from fewshot.stats import mean_interval

SPECS = ("efficientnet_lite0", "efficientnet_lite2", "efficientnet_lite0+efficientnet_lite2")


def main() -> None:
    """Print accuracies with 95 % intervals, and seconds per image relative to the first backbone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*")
    parser.add_argument("--episodes", type=int, default=200)
    arguments = parser.parse_args()
    print("| data set | backbone | 1 shot, % | 5 shots, % | time per image, ratio |\n|---|---|---|---|---|")
    for name, whole in data_sets(arguments.folders).items():
        dataset = pool(whole, 25, seed=0)
        labels, reference = np.array(dataset.labels), 0.0
        for spec in SPECS:
            backbone = load_backbone(spec)
            start = time.perf_counter()
            features = backbone.extract(dataset.sources)
            seconds = time.perf_counter() - start
            reference = reference or seconds
            cells = []
            for k_shot in (1, 5):
                accuracies = []
                for index in range(arguments.episodes):
                    support, query = episode(dataset, 5, k_shot, 15, index)
                    head = LinearProbe().fit(features[support], labels[support])
                    accuracies.append(np.mean(head.predict(features[query]) == labels[query]))
                mean, low, high = mean_interval(accuracies)
                cells.append(f"{100 * mean:.1f} [{100 * low:.1f}, {100 * high:.1f}]")
            print(f"| {name} | `{spec}` | {' | '.join(cells)} | {seconds / reference:.1f} |", flush=True)


if __name__ == "__main__":
    main()
