"""Statistics of packaged backbones, for ``representation="tuned"``: within-class scatter over many small data sets.

python benchmarks/whitening.py compute FOLDER [--backbones efficientnet_lite0,...] [--most 600]

FOLDER holds data sets, each a folder with one folder per class: FOLDER/<set>/<class>/*. For each backbone it writes
``fewshot/representation/statistics/<backbone>.safetensors``, with the names of the sets and the numbers of their images
in its metadata. Sets weigh equally, whatever their size: the covariance is the mean of the sets' within-class
covariances, and the mean that of the sets' means. At most ``--most`` images are taken of a set, evenly of its classes:
400 for the file of ``efficientnet_lite0``, 600 for the two others. That first file is of the same packages, drawn by an
earlier ``whitening_sources.py``: computed anew it whitens to vectors whose cosine with the present ones is 0.996.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fewshot import load_backbone
from fewshot.backbones.packaged import PACKAGED
from fewshot.images.dataset import ImageDataset
from fewshot.images.sources import load_dataset
from fewshot.representation.plain import means_of_networks
from fewshot.representation.whitening import Whitening, statistics_path, write_statistics


def main() -> None:
    """Compute and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["compute"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--backbones", default=",".join(PACKAGED))
    parser.add_argument("--most", type=int, default=600, help="images taken of a set")
    arguments = parser.parse_args()
    folders = [path for path in sorted(arguments.folder.iterdir()) if path.is_dir()]
    sets = {path.name: evenly(load_dataset(path), arguments.most) for path in folders}
    if not sets:
        sys.exit(f"{arguments.folder} holds no data sets.")
    for name in arguments.backbones.split(","):
        compute(name, sets)


def evenly(dataset: ImageDataset, most: int) -> ImageDataset:
    """Take the first image of every class, then the second of each, and so on."""
    seen: dict[str, int] = {}
    ranks = []
    for label in dataset.labels:
        seen[label] = seen.get(label, 0) + 1
        ranks.append(seen[label])
    return dataset.subset(np.sort(np.argsort(ranks, kind="stable")[:most]))


def compute(name: str, sets: dict[str, ImageDataset]) -> None:
    """Write the statistics of one backbone."""
    network = load_backbone(name).networks[0]
    moments: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    for title, dataset in sets.items():
        # Near-duplicates within a class would make it look narrower than it is; the sources have none.
        (rows,) = means_of_networks(
            (network,),
            dataset.sources,
            augmentation=None,
            n_views=1,
            seed=0,
            store=None,
            progress=None,
            errors=None,
        )
        moments.append(scatter(np.sqrt(rows[:, 0].astype(np.float64)), np.array(dataset.labels)))
        print(f"{name}: {title}, {len(dataset)} images of {len(dataset.class_names)} classes", flush=True)
    means, covariances = (np.mean(found, axis=0) for found in zip(*moments, strict=True))
    path = statistics_path(name)
    path.parent.mkdir(exist_ok=True)
    about = {
        "weights_sha256": PACKAGED[name].sha256,
        "sets": json.dumps({title: len(dataset) for title, dataset in sets.items()}),
    }
    write_statistics(path, Whitening.of(means, covariances), about)
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB", flush=True)


def scatter(features: NDArray[np.float64], labels: NDArray[np.str_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give the (d,) mean of (n, d) features, and the (d, d) covariance within classes."""
    centred = features.copy()
    classes = np.unique(labels)
    for label in classes:
        centred[labels == label] -= features[labels == label].mean(axis=0)
    return features.mean(axis=0), centred.T @ centred / (len(features) - len(classes))


if __name__ == "__main__":
    main()
