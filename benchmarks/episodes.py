"""Data sets and episodes that the measurements in this folder share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fewshot import ImageDataset
from fewshot.images.fruits import load_fruits


def data_sets(folders: list[str]) -> dict[str, ImageDataset]:
    """Load the training photos of the embedded fruits, and a folder's images (its ``train`` split where it has one)."""
    named = {"fruits": load_fruits()["train"]}
    return named | {Path(folder).name: ImageDataset.from_folder(folder) for folder in folders}


def pool(dataset: ImageDataset, per_class: int, seed: int) -> ImageDataset:
    """Keep a few random images of every class, where all of them cost too much."""
    rng, labels = np.random.default_rng(seed), np.array(dataset.labels)
    chosen = [rng.permutation(np.flatnonzero(labels == name))[:per_class] for name in dataset.class_names]
    return dataset.subset(np.concatenate(chosen))


def episode(
    dataset: ImageDataset, n_way: int, k_shot: int, n_query: int, index: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Draw positions of support and query images; the draw depends on the index alone."""
    rng, labels = np.random.default_rng([n_way, k_shot, index]), np.array(dataset.labels)
    support, query = [], []
    for name in rng.choice(dataset.class_names, n_way, replace=False):
        members = rng.permutation(np.flatnonzero(labels == name))
        support.append(members[:k_shot])
        query.append(members[k_shot : k_shot + n_query])
    return np.concatenate(support), np.concatenate(query)
