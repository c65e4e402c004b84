"""Views that are rendered once and kept as pixels, for training that goes through a whole network."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewshot.backbones.base import compute_rows, run_network
from fewshot.backbones.timm import TimmNetwork
from fewshot.features import check_n_views, view_renders
from fewshot.finetune.base import TrainingSetup
from fewshot.images.reader import ImageLike, read_payload

# Rendered views stay below this; with many images each gets fewer views.
_VIEWS_BYTES = 1 << 30


@dataclass(frozen=True)
class Examples:
    """Rendered views, and what the pretrained network makes of them.

    Attributes:
        pixels: (m, S, S, 3) uint8.
        features: (m, d) float32.
        codes: (m,) class positions.
        images: (m,) the image that each is a view of.
        central: (m,) whether it is the image as it is, and not an augmented view.
    """

    pixels: NDArray[np.uint8]
    features: Tensor
    codes: NDArray[np.int64]
    images: NDArray[np.int64]
    central: NDArray[np.bool_]

    def pick(self, chosen: NDArray[np.bool_]) -> Examples:
        """Take some of them, by a mask (m,)."""
        features = self.features[torch.from_numpy(chosen)]
        return Examples(self.pixels[chosen], features, self.codes[chosen], self.images[chosen], self.central[chosen])


def affordable_views(network: TimmNetwork, n_images: int, setup: TrainingSetup) -> int:
    """Say how many augmented views of each image are rendered: what the setup asks for, as far as memory allows."""
    affordable = _VIEWS_BYTES // (3 * network.image_size**2 * n_images) - 1
    return min(check_n_views(setup.n_views), max(1, affordable)) if setup.policy.has_views else 0


def render_examples(
    network: TimmNetwork, images: Sequence[ImageLike], codes: NDArray[np.int64], n_views: int, setup: TrainingSetup
) -> Examples:
    """Render every image and its augmented views, and compute their features.

    Raises:
        ImageError: an image cannot be read.
    """
    renders = [
        render
        for image in images
        for render in view_renders(network, read_payload(image), setup.policy, n_views, setup.seed)
    ]
    size = network.image_size
    pixels = compute_rows(network, renders, lambda batch: batch, np.empty((0, size, size, 3), dtype=np.uint8))
    features = run_network(network, [functools.partial(pixels.__getitem__, i) for i in range(len(pixels))])
    per_image = 1 + n_views
    return Examples(
        pixels,
        torch.from_numpy(features),
        np.repeat(codes, per_image),
        np.repeat(np.arange(len(images)), per_image),
        np.arange(len(pixels)) % per_image == 0,
    )
