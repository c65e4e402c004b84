"""Images to features: the image itself and its augmented views, through a backbone, with a store behind it."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fewshot.augment import AugmentationLike, Policy, load_policy
from fewshot.backbones.base import Backbone, Network, Progress, Render, run_network, shifted
from fewshot.errors import InvalidInputError
from fewshot.images.dataset import as_sources
from fewshot.images.reader import ImageLike, Payload, decode, read_payload
from fewshot.store import FeatureStore, feature_key

# Pictures are read, computed and stored in blocks of about this many: memory stays flat, and an interrupted run has
# lost little.
_BLOCK = 256


def check_n_views(n_views: int) -> int:
    """Refuse a number of views that is not a positive whole number.

    Raises:
        InvalidInputError: with what to do instead.
    """
    if isinstance(n_views, bool) or not isinstance(n_views, (int, np.integer)) or n_views < 1:
        raise InvalidInputError(
            f"n_views={n_views!r}: needs a whole number of augmented views per image, at least 1. For no views choose "
            "the augmentation 'none'."
        )
    return int(n_views)


def extract_views(
    backbone: Backbone,
    images: Iterable[ImageLike],
    *,
    augmentation: AugmentationLike = None,
    n_views: int = 16,
    seed: int = 0,
    store: FeatureStore | None = None,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Compute features of each image and of its augmented views.

    Args:
        backbone: the networks to run.
        images: paths, bytes, PIL images or uint8 arrays (H, W, 3).
        augmentation: a policy; with ``None`` or ``"none"`` there are no views besides the image itself.
        n_views: augmented views per image.
        seed: the views' seed.
        store: where vectors are looked up and kept.
        progress: called with (pictures done, pictures in all); stored ones count as done.

    Returns:
        (n, 1 + n_views, n_features) float32; ``[:, 0]`` belongs to the images themselves.

    Raises:
        ImageError: an image cannot be read.
        InvalidInputError: ``n_views`` is below 1.
    """
    policy = load_policy(augmentation)
    views = check_n_views(n_views) if policy.has_views else 0
    sources = as_sources(images)
    per_block = max(1, _BLOCK // (1 + views))
    parts = []
    for position, network in enumerate(backbone.networks):
        rows = np.empty((len(sources), 1 + views, network.n_features), np.float32)
        for start in range(0, len(sources), per_block):
            payloads = [read_payload(source) for source in sources[start : start + per_block]]
            done = (position * len(sources) + start) * (1 + views)
            total = len(backbone.networks) * len(sources) * (1 + views)
            report = None if progress is None else shifted(progress, done, total)
            rows[start : start + per_block] = _extract_block(network, payloads, policy, views, seed, store, report)
        parts.append(rows)
    return backbone.combine(parts)


def view_renders(network: Network, payload: Payload, policy: Policy, n_views: int, seed: int) -> list[Render]:
    """List functions that render an image's central view and its augmented views at a network's size."""

    def central() -> NDArray[np.uint8]:
        return network.preprocess(_decode_once(payload))

    def augmented(index: int) -> NDArray[np.uint8]:
        return policy.view(_decode_once(payload), index=index, seed=seed, size=network.image_size)

    return [central, *(functools.partial(augmented, index) for index in range(1, n_views + 1))]


_LAST_DECODED = threading.local()


def _decode_once(payload: Payload) -> NDArray[np.uint8]:
    """Decode an image, unless this thread decoded it last: its views are rendered one after the other."""
    if getattr(_LAST_DECODED, "digest", None) != payload.digest:
        _LAST_DECODED.pixels = decode(payload)
        _LAST_DECODED.digest = payload.digest
    pixels: NDArray[np.uint8] = _LAST_DECODED.pixels
    return pixels


def _extract_block(
    network: Network,
    payloads: list[Payload],
    policy: Policy,
    n_views: int,
    seed: int,
    store: FeatureStore | None,
    progress: Progress | None,
) -> NDArray[np.float32]:
    keys, renders = [], []
    # The fingerprint tells networks apart; runtimes compute the same network to other last bits.
    made_by = (network.fingerprint, network.runtime_name)
    for payload in payloads:
        keys.append(feature_key(payload.digest, *made_by, "central"))
        keys += [feature_key(payload.digest, *made_by, policy.spec, index, seed) for index in range(1, n_views + 1)]
        renders += view_renders(network, payload, policy, n_views, seed)
    known = store.get(keys) if store is not None else {}
    # An image given twice is computed once.
    pending = {key: render for key, render in zip(keys, renders, strict=True) if key not in known}
    report = None if progress is None else shifted(progress, len(keys) - len(pending), len(keys))
    rows = run_network(network, list(pending.values()), progress=report)
    fresh = dict(zip(pending, rows, strict=True))
    if store is not None:
        store.put(fresh)
    known.update(fresh)
    if report is not None:
        report(len(pending), len(pending))
    return np.stack([known[key] for key in keys]).reshape(len(payloads), 1 + n_views, network.n_features)
