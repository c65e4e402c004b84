"""Ten thousand episodes, five heads, on stored features: wall time and peak memory.

python benchmarks/many_episodes.py FOLDER

Each row is a process of its own that takes features from the store and evaluates all heads. Memory must not grow with
the number of episodes but for the scores.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time

from fewshot import ImageDataset, evaluate_features, load_backbone
from fewshot.features import extract_views
from fewshot.store import FeatureStore

HEADS = ["prototypical", "linear-probe", "ridge", "gda", "knn"]


def measure(folder: str, n_episodes: int) -> dict[str, float]:
    """Evaluate the heads in this process."""
    dataset = ImageDataset.from_folder(folder)
    features = extract_views(load_backbone(), dataset.sources, store=FeatureStore())[:, 0]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    report = evaluate_features(features, dataset.labels, heads=HEADS, k_shot=5, n_episodes=n_episodes)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    best = max(row.accuracy.value for row in report.summary())
    return {"seconds": seconds, "before": before / 1024, "peak": after / 1024, "best": best}


def main() -> None:
    """Print a row per number of episodes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="one folder per class")
    parser.add_argument("--one", type=int, help="measure this number of episodes in this process")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.folder, arguments.one)))
        return
    measure(arguments.folder, 64)  # stores the features
    print("| episodes, 5-way 5-shot | five heads, s | per episode and head, us | memory before, MB | peak, MB |")
    print("|---|---|---|---|---|")
    for n_episodes in (1_000, 10_000, 100_000):
        command = [sys.executable, __file__, arguments.folder, "--one", str(n_episodes)]
        environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
        found = json.loads(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)
        each = 1e6 * found["seconds"] / n_episodes / len(HEADS)
        print(
            f"| {n_episodes:,} | {found['seconds']:.2f} | {each:.0f} | {found['before']:.0f} | {found['peak']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
