"""Thumbnails for the HTML report: the training images, disputed test images, and strips of augmented views."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewshot.augment import Policy
from fewshot.errors import ImageError
from fewshot.images.reader import ImageLike, read_image
from fewshot.report.model import Pictures, Report

THUMBNAIL = 160
"""Longest side of a thumbnail in pixels."""
MAX_TRAIN, MAX_DISPUTED, VIEWS = 24, 24, 8


def take_pictures(
    report: Report, train: Sequence[ImageLike], predicted: Sequence[ImageLike], policies: Sequence[Policy]
) -> Pictures:
    """Read the images that the report shows and make thumbnails of them.

    Args:
        report: decides which images are shown.
        train: the training images, in the report's order.
        predicted: the images that were predicted, in the report's order.
        policies: policies whose views are shown, on the first image of each of the first two classes.
    """
    disputed = report.disagreements()[:MAX_DISPUTED]
    shown = set(_spread(report, MAX_TRAIN)) | {report.nearest[i] for i in disputed if report.nearest}
    views: dict[str, tuple[bytes, ...]] = {}
    firsts = [[image.label for image in report.train_images].index(name) for name in report.class_names[:2]]
    for policy in {policy.spec: policy for policy in policies}.values():
        for position in firsts:
            strip = _strip(train[position], policy, report.seed)
            title = f"{policy.name}: {report.train_images[position].label}"
            if title in views:
                title = f"{title} ({sum(known.startswith(title) for known in views) + 1})"
            if strip:
                views[title] = strip
    return Pictures(_thumbnails(train, sorted(shown)), _thumbnails(predicted, disputed), views)


def _strip(source: ImageLike, policy: Policy, seed: int) -> tuple[bytes, ...]:
    pixels = _read(source)
    if pixels is None:
        return ()
    views = [policy.view(pixels, index=index, seed=seed, size=224) for index in range(1, VIEWS)]
    return tuple(thumbnail(view) for view in [pixels, *views])


def _thumbnails(sources: Sequence[ImageLike], positions: Sequence[int]) -> dict[int, bytes]:
    pixels = {i: _read(sources[i]) for i in positions}
    return {i: thumbnail(image) for i, image in pixels.items() if image is not None}


def _read(source: ImageLike) -> NDArray[np.uint8] | None:
    """Read an image, unless it has gone meanwhile: a thumbnail must not cost the results."""
    try:
        return read_image(source)
    except ImageError:
        return None


def thumbnail(image: NDArray[np.uint8], side: int = THUMBNAIL) -> bytes:
    """Encode (H, W, 3) pixels as a small JPEG."""
    picture = Image.fromarray(image)
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _spread(report: Report, most: int) -> list[int]:
    """Choose training images class by class in turn, so that every class is seen before one is seen twice."""
    by_class = [
        [i for i, image in enumerate(report.train_images) if image.label == name] for name in report.class_names
    ]
    order = [members[k] for k in range(max(map(len, by_class))) for members in by_class if k < len(members)]
    return sorted(order[:most])
