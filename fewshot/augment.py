"""Augmentation policies: named albumentations pipelines, and seeded views of an image.

A *view* is a function of (image, policy, view index, seed) alone: it can be replayed, rendered in any order and in
any thread. Policies work on uint8 and crop first, so that every later transform touches a 224-pixel picture and not
a 12-megapixel one.

What the policies hold, and why:

``none``
    No views: the image itself is all there is. Always among the compared policies, because augmentation is not a
    free win (Kim et al. 2022).

``light``: changes that hardly ever change what a picture shows.
    * crop of 50-100 % of the area, aspect 0.8-1.25: framing differs between photographers
    * horizontal flip, half of the time: most objects have no handedness (not so for text and hand signs)
    * brightness and contrast by up to 15 %: exposure

``heavy``: as far as pictures can go and still be named by a person.
    * crop of 25-100 % of the area, aspect 3/4-4/3: scale and position, the strongest single augmentation for
      contrastive learning (Chen et al. 2020, arXiv:2002.05709)
    * horizontal flip, half of the time
    * rotation by up to 20 degrees, half of the time, mirrored at the border: hand-held cameras
    * brightness, contrast and saturation by up to 40 %, hue by 5 %, most of the time: light and white balance; hue
      stays small because a green apple must not become a red one
    * grey, one time in ten: shape must count and not colour alone
    * Gaussian blur with sigma up to 1.5 pixels, one time in five: focus
    * one to three erased rectangles of 10-25 % of the side, three times in ten: occlusion (DeVries and Taylor
      2017, arXiv:1708.04552)

Elastic deformation and ISO noise are left out: they cost 13 ms and 3 ms per view, more than all of the above.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fewshot.errors import InvalidInputError
from fewshot.names import NameTable
from fewshot.pipeline_spec import pipeline_spec

# albumentations asks the network for its newest version at import unless told not to.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

if TYPE_CHECKING:
    import albumentations

AugmentationLike: TypeAlias = "str | albumentations.Compose | None"

POLICIES = NameTable(
    "augmentation",
    {
        "none": "fewshot.augment:_none",
        "light": "fewshot.augment:_light",
        "heavy": "fewshot.augment:_heavy",
    },
    entry_point_group="fewshot.augmentations",
)


VIEWS_VERSION = 1
"""Raised whenever a policy draws other views from the same seed: stored features are kept under it."""


def list_augmentations() -> list[str]:
    """List the names that ``augmentation=`` takes."""
    return sorted(POLICIES)


class Frame(Protocol):
    """What views are drawn for: a network, as far as it says what pictures it takes.

    Attributes:
        image_size: side of the square input in pixels.
    """

    image_size: int

    def preprocess(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize and crop (H, W, 3) uint8 to (image_size, image_size, 3) uint8."""


class Views(Protocol):
    """What makes further pictures of an image: a :class:`Policy`, or :class:`fewshot.views.FixedViews`.

    Attributes:
        name: for people.
        spec: text that determines the views completely; part of the key of every stored feature.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - said above

    @property
    def spec(self) -> str: ...  # noqa: D102

    @property
    def has_views(self) -> bool:
        """Whether there is anything to render besides the image itself."""

    def draw(self, network: Frame, image: NDArray[np.uint8], *, index: int, seed: int) -> NDArray[np.uint8]:
        """Render view ``index``, from 1, of (H, W, 3) uint8 at a network's size, (image_size, image_size, 3) uint8."""


@dataclass(frozen=True)
class Policy:
    """A pipeline that turns an image into a random view of a given size.

    Attributes:
        name: the registered name, or ``"custom"`` for a user's ``Compose``.
        spec: text that determines the views completely; part of the key of every stored feature.
        build: makes the pipeline for a side length in pixels; ``None`` for the policy without views.
    """

    name: str
    spec: str
    build: Callable[[int], Any] | None

    @property
    def has_views(self) -> bool:
        """Whether there is anything to render besides the image itself."""
        return self.build is not None

    def view(self, image: NDArray[np.uint8], *, index: int, seed: int, size: int) -> NDArray[np.uint8]:
        """Render one view.

        Args:
            image: (H, W, 3) uint8.
            index: which view.
            seed: the user's seed.
            size: side of the view in pixels.

        Returns:
            (size, size, 3) uint8.
        """
        if self.build is None:
            raise InvalidInputError("The policy 'none' has no views; use the image itself.")
        pipeline = _thread_pipeline(self, size)
        pipeline.set_random_seed(view_seed(image, index=index, seed=seed))
        try:
            view: NDArray[np.uint8] = pipeline(image=image)["image"]
        # A user's own pipeline can fail in any way: a crop larger than the image, a transform that wants masks.
        except Exception as error:
            raise InvalidInputError(
                f"The augmentation failed on an image of {image.shape[1]}x{image.shape[0]} pixels: {error}"
            ) from error
        if view.dtype != np.uint8 or view.shape[2:] != (3,):
            raise InvalidInputError(
                f"The augmentation made {view.dtype} {view.shape}; it must keep uint8 pixels (height, width, 3). Leave "
                "out Normalize and ToTensorV2: the backbone does that."
            )
        return _fit_to(view, size)

    def draw(self, network: Frame, image: NDArray[np.uint8], *, index: int, seed: int) -> NDArray[np.uint8]:
        """Render one view at a network's size; see :class:`Views`."""
        return self.view(image, index=index, seed=seed, size=network.image_size)


def view_seed(image: NDArray[np.uint8], *, index: int, seed: int) -> int:
    """Derive a view's own random seed, so that two images, views or seeds do not share their random numbers.

    A grid of at most 64 x 64 pixels stands for the image: hashing 12 megapixels would cost more than the view.
    """
    step = max(1, max(image.shape[:2]) // 64)
    digest = hashlib.blake2b(np.ascontiguousarray(image[::step, ::step]).tobytes(), digest_size=8)
    digest.update(f"{image.shape}|{index}|{seed}".encode())
    return int.from_bytes(digest.digest()[:4], "little")


def load_policy(augmentation: AugmentationLike) -> Policy:
    """Resolve a policy's name, an albumentations ``Compose`` or ``None``.

    Raises:
        UnknownNameError: no policy has this name; the message lists the closest.
        InvalidInputError: neither a name nor a pipeline.
    """
    if augmentation is None:
        augmentation = "none"
    if isinstance(augmentation, Policy):
        return augmentation
    if isinstance(augmentation, str):
        factory: Any = POLICIES.load(augmentation)
        if augmentation == "none":
            return Policy("none", "none", None)
        return Policy(augmentation, pipeline_spec(factory(224)), factory)
    if hasattr(augmentation, "set_random_seed") and callable(augmentation):
        return Policy("custom", pipeline_spec(augmentation), functools.partial(_copy_for_size, augmentation))
    raise InvalidInputError(
        f"augmentation={augmentation!r} is neither a name ({', '.join(list_augmentations())}), an albumentations "
        "Compose, nor None."
    )


_PIPELINES = threading.local()


def _thread_pipeline(policy: Policy, size: int) -> Any:
    """Give each thread its own copy: a pipeline holds the state of its random generator."""
    cache: dict[tuple[str, int], Any] = _PIPELINES.__dict__.setdefault("cache", {})
    key = (policy.spec, size)
    if key not in cache:
        assert policy.build is not None  # noqa: S101 - for the type checker; view() has refused already
        cache[key] = policy.build(size)
    return cache[key]


def _copy_for_size(pipeline: Any, size: int) -> Any:
    return copy.deepcopy(pipeline)


def _fit_to(view: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize what a user's own pipeline left at another size."""
    if view.shape[:2] == (size, size):
        return view
    from PIL import Image

    return np.array(Image.fromarray(view).resize((size, size), Image.Resampling.BICUBIC))


def _none(size: int) -> None:
    """No views: the image itself is all there is."""


def _light(size: int) -> Any:
    """Crops of 50-100 % of the area, flips, 15 % brightness and contrast."""
    import albumentations as A

    return A.Compose(
        [
            A.RandomResizedCrop((size, size), scale=(0.5, 1.0), ratio=(0.8, 1.25)),
            A.HorizontalFlip(p=0.5),
            A.RandomBrightnessContrast(brightness_limit=0.15, contrast_limit=0.15, p=0.8),
        ]
    )


def _heavy(size: int) -> Any:
    """Crops of 25-100 % of the area, flips, rotation, strong colour changes, grey, blur, erased rectangles."""
    import albumentations as A

    return A.Compose(
        [
            A.RandomResizedCrop((size, size), scale=(0.25, 1.0), ratio=(3 / 4, 4 / 3)),
            A.HorizontalFlip(p=0.5),
            A.Rotate(limit=20, border_mode=4, p=0.5),  # 4 is cv2.BORDER_REFLECT_101
            A.ColorJitter(brightness=(0.6, 1.4), contrast=(0.6, 1.4), saturation=(0.6, 1.4), hue=(-0.05, 0.05), p=0.8),
            A.ToGray(p=0.1),
            A.GaussianBlur(blur_limit=0, sigma_limit=(0.1, 1.5), p=0.2),
            A.CoarseDropout(num_holes_range=(1, 3), hole_height_range=(0.1, 0.25), hole_width_range=(0.1, 0.25), p=0.3),
        ]
    )
