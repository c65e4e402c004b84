"""The mean of a network's features over the fixed views of images, a block at a time."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fewshot.augment import Views
from fewshot.backbones.base import Network, Progress, shifted
from fewshot.errors import ImageError
from fewshot.features import extract_with
from fewshot.images.reader import ImageLike
from fewshot.store import FeatureStore
from fewshot.views import FixedViews

# Of so many images all views are held at a time.
_BLOCK = 256


def mean_over_views(
    network: Network,
    images: Sequence[ImageLike],
    policy: Views,
    n_views: int,
    *,
    seed: int,
    store: FeatureStore | None,
    progress: Progress | None,
    errors: dict[int, ImageError] | None,
) -> NDArray[np.float32]:
    """Compute (n, 1 + n_views, n_features): the mean over the fixed views, and each augmented view alone.

    Args:
        network: what to run.
        images: what to run it on.
        policy: of the augmented views.
        n_views: how many of these; 0 for a policy without.
        seed: of these.
        store: where vectors are looked up and kept.
        progress: called with (pictures done, pictures in all).
        errors: see :func:`fewshot.features.extract_views`.
    """
    fixed = FixedViews()
    run = functools.partial(extract_with, network, store=store)
    rows = np.empty((len(images), 1 + n_views, network.n_features), np.float32)
    total = pictures_of(len(images), policy, n_views)
    for start in range(0, len(images), _BLOCK):
        block = images[start : start + _BLOCK]
        found: dict[int, ImageError] | None = None if errors is None else {}
        report = None if progress is None else shifted(progress, pictures_of(start, policy, n_views), total)
        each = run(block, fixed, fixed.n_views, progress=report, errors=found)
        rows[start : start + len(block), 0] = each.mean(axis=1)
        if policy == fixed:
            rows[start : start + len(block), 1:] = each[:, 1:]
        elif n_views:
            done = pictures_of(start, policy, n_views) + (1 + fixed.n_views) * len(block)
            report = None if progress is None else shifted(progress, done, total)
            drawn = run(block, policy, n_views, seed=seed, progress=report, errors=found)
            rows[start : start + len(block), 1:] = drawn[:, 1:]
        if errors is not None and found:
            errors.update({start + position: error for position, error in found.items()})
    return rows


def pictures_of(n_images: int, policy: Views, n_views: int) -> int:
    """Count the pictures that a network is shown for so many images, as progress counts them."""
    fixed = FixedViews()
    return n_images * (1 + fixed.n_views + (1 + n_views if n_views and policy != fixed else 0))
