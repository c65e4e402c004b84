"""What a network is tuned on: views of images, as pixels or as the maps that its frozen part makes of them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewshot.backbones.base import compute_rows, run_network
from fewshot.backbones.timm import TimmNetwork
from fewshot.features import check_n_views, view_renders
from fewshot.finetune.base import TrainingSetup
from fewshot.finetune.split import SplitNetwork
from fewshot.images.reader import ImageLike, read_payload

# Stored views stay below this; with many images each gets fewer of them.
_VIEWS_BYTES = 1 << 30


@dataclass(frozen=True)
class Examples:
    """Stored views, and what the pretrained network makes of them.

    Attributes:
        inputs: (m, ...) what the trained part is given: pixels (S, S, 3) uint8, or maps float32.
        features: (m, d) float32.
        codes: (m,) class positions.
        images: (m,) the image that each is a view of.
        central: (m,) whether it is the image as it is, and not an augmented view.
    """

    inputs: NDArray[Any]
    features: Tensor
    codes: NDArray[np.int64]
    images: NDArray[np.int64]
    central: NDArray[np.bool_]

    def pick(self, chosen: NDArray[np.bool_]) -> Examples:
        """Take some of them, by a mask (m,)."""
        features = self.features[torch.from_numpy(chosen)]
        return Examples(self.inputs[chosen], features, self.codes[chosen], self.images[chosen], self.central[chosen])


def affordable_views(view_bytes: int, n_images: int, setup: TrainingSetup) -> int:
    """Say how many augmented views of each image are stored: what the setup asks for, as far as memory allows."""
    affordable = _VIEWS_BYTES // (view_bytes * n_images) - 1
    return min(check_n_views(setup.n_views), max(1, affordable)) if setup.policy.has_views else 0


def render_examples(
    network: TimmNetwork, images: Sequence[ImageLike], codes: NDArray[np.int64], n_views: int, setup: TrainingSetup
) -> Examples:
    """Render every image and its augmented views, and compute their features.

    Raises:
        ImageError: an image cannot be read.
    """
    size = network.image_size
    renders = _renders(network, images, n_views, setup)
    pixels = compute_rows(network, renders, lambda batch: batch, np.empty((0, size, size, 3), dtype=np.uint8))
    features = run_network(
        network, [functools.partial(pixels.__getitem__, i) for i in range(len(pixels))], progress=setup.progress
    )
    return _examples(pixels, torch.from_numpy(features), codes, n_views)


def map_examples(
    split: SplitNetwork, images: Sequence[ImageLike], codes: NDArray[np.int64], n_views: int, setup: TrainingSetup
) -> Examples:
    """Run the frozen part of a network on every image and its augmented views, and compute their features.

    Raises:
        ImageError: an image cannot be read.
    """
    network, tail = split.network, split.new_tail()
    shape: list[tuple[int, ...]] = []

    def compute(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        maps = split.trunk(pixels)
        shape[:] = [maps.shape[1:]]
        with torch.inference_mode():
            features = tail(torch.from_numpy(maps).to(network.device)).float().cpu().numpy()
        # Side by side, so that both are computed in one pass, with one thread for each batch.
        return np.concatenate([maps.reshape(len(maps), -1), features], axis=1)

    empty = np.empty((0, network.n_features), dtype=np.float32)
    rows = compute_rows(network, _renders(network, images, n_views, setup), compute, empty, progress=setup.progress)
    maps, features = rows[:, : -network.n_features], rows[:, -network.n_features :]
    return _examples(maps.reshape(len(rows), *shape[0]), torch.from_numpy(features.copy()), codes, n_views)


def _renders(network: TimmNetwork, images: Sequence[ImageLike], n_views: int, setup: TrainingSetup) -> list[Any]:
    return [
        render
        for image in images
        for render in view_renders(network, read_payload(image), setup.policy, n_views, setup.seed)
    ]


def _examples(inputs: NDArray[Any], features: Tensor, codes: NDArray[np.int64], n_views: int) -> Examples:
    per_image = 1 + n_views
    return Examples(
        inputs,
        features,
        np.repeat(codes, per_image),
        np.repeat(np.arange(len(codes)), per_image),
        np.arange(len(inputs)) % per_image == 0,
    )
