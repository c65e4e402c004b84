"""Five fixed views of an image, whose mean says more of it than the central one alone.

A network was trained on crops and sees in each something else; the mean of its features over a few views has less of
what depends on the framing. Taken on support and query alike, these five give the same vector for the same image,
whatever else is asked with it:

1. the central view, as the network was trained
2. its mirror image
3. the whole image, squashed to the network's input size: what lies at the edges counts, too
4. the mirror image of that
5. the middle, 1.25 times as near: the central view of the middle 80 % of the image
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewshot.augment import AugmentationLike, Frame, Views, load_policy
from fewshot.features import check_n_views

_VERSION = 1
_CLOSE = 0.8


@dataclass(frozen=True)
class FixedViews:
    """The views besides the central one, for :func:`fewshot.features.extract_with`; they take no seed.

    Attributes:
        name: for people.
        spec: part of the key of every stored feature.
        n_views: how many there are besides the central one.
    """

    name: str = "fixed"
    spec: str = f"fixed views {_VERSION}: mirror, squashed, squashed mirror, {_CLOSE} of the sides"
    n_views: int = 4

    @property
    def has_views(self) -> bool:
        """Always."""
        return True

    def draw(self, network: Frame, image: NDArray[np.uint8], *, index: int, seed: int) -> NDArray[np.uint8]:
        """Render view 1 to 4 of (H, W, 3) uint8 at a network's size, (image_size, image_size, 3) uint8."""
        if index == 1:
            return _mirrored(network.preprocess(image))
        if index == 2:
            return _squashed(image, network.image_size)
        if index == 3:
            return _mirrored(_squashed(image, network.image_size))
        return network.preprocess(_middle(image))


def views_of(augmentation: AugmentationLike | FixedViews, n_views: int) -> tuple[Views, int]:
    """Resolve what is drawn of an image besides itself, and how often; the fixed views, as many as there are.

    Raises:
        UnknownNameError: no policy has this name.
        InvalidInputError: ``n_views`` is below 1.
    """
    if isinstance(augmentation, FixedViews):
        return augmentation, augmentation.n_views
    policy = load_policy(augmentation)
    return policy, check_n_views(n_views) if policy.has_views else 0


def _mirrored(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(pixels[:, ::-1])


def _squashed(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


def _middle(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Cut out the middle 80 % of each side; from the image itself, so that what is near is sharp."""
    height, width = (max(1, round(_CLOSE * side)) for side in image.shape[:2])
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return np.ascontiguousarray(image[top : top + height, left : left + width])
