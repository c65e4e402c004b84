"""What training a small network from nothing is worth at few shots: SimpleCNN's recipes.

python benchmarks/networks.py [FOLDER ...] [--episodes 6]

Slow: a training run takes seconds. All images come from training splits; recipes are compared here, not on test data.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from episodes import data_sets, episode

from fewshot import ImageDataset, load_backbone
from fewshot.augment import load_policy
from fewshot.cells import train_and_predict, whole_split
from fewshot.finetune.simple_cnn import SimpleCNNHead, TunedSimpleCNNHead

N_VIEWS = 16
RECIPES: dict[str, tuple[Any, str]] = {
    "simple-cnn": (SimpleCNNHead(), "none"),
    "simple-cnn-tuned": (TunedSimpleCNNHead(), "heavy"),
    "tuned, rate 3e-4": (TunedSimpleCNNHead(learning_rate=3e-4), "heavy"),
    "tuned, rate 3e-4, half the passes": (TunedSimpleCNNHead(learning_rate=3e-4, passes=20), "heavy"),
}


def accuracy(name: str, train: ImageDataset, test: ImageDataset) -> float:
    """Train one recipe on ``train`` and test it on ``test``."""
    head, policy = RECIPES[name]
    result = train_and_predict(
        name,
        head,
        train,
        test.sources,
        whole_split(train, test),
        policy=load_policy(policy),
        backbone=load_backbone(),
        n_views=N_VIEWS,
        seed=0,
    )
    classes = np.unique(train.labels)
    return float(np.mean(classes[np.array(result.proba).argmax(axis=1)] == np.array(test.labels)))


def main() -> None:
    """Print mean accuracy of every recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*")
    parser.add_argument("--episodes", type=int, default=6)
    arguments = parser.parse_args()
    print("| data set | ways, shots |", " | ".join(RECIPES), "|\n|---|---|", "---|" * len(RECIPES))
    for name, dataset in data_sets(arguments.folders).items():
        for n_way, k_shot in ((2, 1), (5, 1), (5, 5)):
            rows: dict[str, list[float]] = {recipe: [] for recipe in RECIPES}
            for index in range(arguments.episodes):
                support, query = episode(dataset, n_way, k_shot, 15, index)
                for recipe in RECIPES:
                    rows[recipe].append(accuracy(recipe, dataset.subset(support), dataset.subset(query)))
            means = " | ".join(f"{100 * np.mean(values):.1f}" for values in rows.values())
            print(f"| {name} | {n_way}, {k_shot} | {means} |", flush=True)


if __name__ == "__main__":
    main()
