"""What augmentation of the support images is worth: each policy against none, same episodes, linear probe.

python benchmarks/policies.py [FOLDER ...] [--episodes 150]
"""

from __future__ import annotations

import argparse

import numpy as np
from episodes import data_sets, episode, pool

from fewshot import list_augmentations, load_backbone
from fewshot.features import extract_views
from fewshot.fitting import fit_on_views
from fewshot.heads import list_heads, make_head
from fewshot.heads.base import Head
from fewshot.stats import mean_interval
from fewshot.store import FeatureStore

PER_CLASS, N_VIEWS = 21, 16


def main() -> None:
    """Print accuracy without augmentation, and each policy's paired difference, in points."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*")
    parser.add_argument("--episodes", type=int, default=150)
    arguments = parser.parse_args()
    backbone, store = load_backbone(), FeatureStore()
    policies = [name for name in list_augmentations() if name != "none"]
    heads = [name for name in list_heads() if isinstance(make_head(name), Head)]
    print(
        "| data set | ways, shots | head | none, % |",
        " | ".join(policies),
        "|\n|---|---|---|---|",
        "---|" * len(policies),
    )
    gains: dict[tuple[str, str], list[float]] = {}
    for name, whole in data_sets(arguments.folders).items():
        dataset = pool(whole, PER_CLASS, seed=0)
        labels = np.array(dataset.labels)
        views = {
            p: extract_views(backbone, dataset.sources, augmentation=p, n_views=N_VIEWS, store=store) for p in policies
        }
        for n_way, k_shot in ((2, 1), (5, 1), (5, 5)):
            for head in heads:
                plain: list[float] = []
                differences: dict[str, list[float]] = {policy: [] for policy in policies}
                for index in range(arguments.episodes):
                    support, query = episode(dataset, n_way, k_shot, 15, index)
                    for policy in [None, *policies]:
                        rows = views[policy or policies[0]]
                        used = rows[support] if policy else rows[support][:, :1]
                        fitted = fit_on_views(make_head(head), used, labels[support], 0)
                        right = float(np.mean(fitted.predict(rows[query][:, 0]) == labels[query]))
                        if policy is None:
                            plain.append(right)
                        else:
                            differences[policy].append(right - plain[-1])
                cells = []
                for policy in policies:
                    mean, low, high = mean_interval(differences[policy])
                    cells.append(f"{100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]")
                    gains.setdefault((head, policy), []).append(100 * mean)
                print(
                    f"| {name} | {n_way}, {k_shot} | {head} | {100 * np.mean(plain):.1f} |",
                    " | ".join(cells),
                    "|",
                    flush=True,
                )
    for head in heads:
        means = " | ".join(f"{np.mean(gains[head, policy]):+.1f}" for policy in policies)
        print(f"| mean | | {head} | |", means, "|")


if __name__ == "__main__":
    main()
