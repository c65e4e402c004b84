"""Vectors of a data set's images and of their fixed views, for sections that ask more than a classifier is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from accuracy_common import LITE0
from accuracy_variants import Switches, make_parts
from numpy.typing import NDArray

from fewshot import ImageDataset
from fewshot.backbones import load_backbone
from fewshot.backbones.with_classes import with_classes
from fewshot.features import extract_with
from fewshot.representation.base import Parts, Space, even, unit
from fewshot.representation.whitening import Statistics, read_statistics, statistics_path
from fewshot.store import FeatureStore
from fewshot.views import FixedViews

Rows = NDArray[np.float64]
KINDS = ("averaged", "tuned")


@dataclass(frozen=True, eq=False)
class Vectors:
    """A representation of all images of a data set, with what their views look like in it.

    Attributes:
        kind: one of :data:`KINDS`.
        each: (n, 5, d) what the network gave for each fixed view.
        own: the images' parts.
        statistics: what `tuned` whitens by.
    """

    kind: str
    each: NDArray[np.float32]
    own: Parts
    statistics: Statistics

    def space(self, support: NDArray[np.intp]) -> Space:
        """Settle the space of what is learned from these images."""
        chosen = self.own.take(support)
        return Space(chosen.shares(), {name: array.shape[-1] for name, array in chosen.arrays.items()})

    def images(self, space: Space, index: NDArray[np.intp]) -> Rows:
        """Give (m, d) vectors of images."""
        return space.vectors(self.own.take(index))[:, 0].astype(np.float64)

    def views(self, space: Space, index: NDArray[np.intp]) -> Rows:
        """Give (m, 5, d) vectors of the fixed views of images."""
        return space.vectors(_parts(self.kind, self.each[index], self.statistics)).astype(np.float64)


def load_vectors(dataset: ImageDataset) -> dict[str, Vectors]:
    """Compute both kinds of vectors with `efficientnet_lite0`."""
    network = with_classes(load_backbone(LITE0).networks[0])
    fixed, statistics = FixedViews(), read_statistics(statistics_path(LITE0))
    each = extract_with(network, dataset.sources, fixed, fixed.n_views, store=FeatureStore())
    mean = each.mean(axis=1, keepdims=True)
    return {kind: Vectors(kind, each, _parts(kind, mean, statistics), statistics) for kind in KINDS}


def rotated(*arrays: Rows) -> list[Rows]:
    """Move (m, d) arrays to the dimensions that they span together; inner products stay the same."""
    rows = np.concatenate(arrays)
    if len(rows) < rows.shape[1]:
        rows = rows @ np.linalg.qr(rows.T)[0]
    return np.split(rows, np.cumsum([len(one) for one in arrays])[:-1])


def _parts(kind: str, rows: NDArray[Any], statistics: Statistics) -> Parts:
    """Make parts of (n, m, d) outputs of the network."""
    if kind == "tuned":
        return make_parts(rows, statistics, Switches())
    last = rows[..., : len(statistics.whitening.mean)]
    return Parts({"features": unit(last)}, np.zeros(len(rows)), even)
