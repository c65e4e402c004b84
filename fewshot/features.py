"""Images to features: the image itself and its augmented views, through a backbone, with a store behind it."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import features as pillow_features

from fewshot.augment import VIEWS_VERSION, AugmentationLike, Policy, load_policy
from fewshot.backbones.base import Backbone, Network, Progress, Render, run_network, shifted
from fewshot.errors import FeatureError, ImageError, InvalidInputError
from fewshot.images.dataset import as_sources
from fewshot.images.reader import READER_VERSION, ImageLike, Payload, decode, read_payload
from fewshot.store import FeatureStore, feature_key
from fewshot.versions import package_version

# Pictures are read, computed and stored in blocks of about so many, or so many bytes: memory stays flat, and an
# interrupted run has lost little.
_BLOCK = 256
_BLOCK_BYTES = 128 << 20


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
    errors: dict[int, ImageError] | None = None,
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
        errors: where given, images that cannot be read are entered here by their position, and their features are NaN;
            otherwise the first of them is raised.

    Returns:
        (n, 1 + n_views, n_features) float32; ``[:, 0]`` belongs to the images themselves.

    Raises:
        ImageError: an image cannot be read.
        FeatureError: the backbone gives features that are not finite.
        InvalidInputError: ``n_views`` is below 1.
    """
    policy = load_policy(augmentation)
    views = check_n_views(n_views) if policy.has_views else 0
    sources = as_sources(images)
    failed: dict[int, ImageError] = {}
    parts = []
    for position, network in enumerate(backbone.networks):
        job = _Job(network, policy, views, seed, store, strict=errors is None)
        rows = np.full((len(sources), 1 + views, network.n_features), np.nan, np.float32)
        for block in _blocks(sources, max(1, _BLOCK // (1 + views)), failed, strict=errors is None):
            done = (position * len(sources) + block.start) * (1 + views)
            total = len(backbone.networks) * len(sources) * (1 + views)
            report = None if progress is None else shifted(progress, done, total)
            found, unreadable = job.run(list(block.payloads.values()), report)
            rows[list(block.payloads)] = found
            failed.update({i: unreadable[p.digest] for i, p in block.payloads.items() if p.digest in unreadable})
        parts.append(rows)
    if errors is not None:
        errors.update(failed)
    return backbone.combine(parts)


def check_varied(features: NDArray[np.float32], labels: NDArray[Any], backbone: str, names: Sequence[str]) -> None:
    """Refuse features that are the same for every image, though the labels differ: nothing can be learned from them.

    Args:
        features: (n, n_features).
        labels: (n,) labels of the images.
        backbone: its name, for the message.
        names: (n,) names of the images, for the message.

    Raises:
        FeatureError: with the backbone and the first images.
    """
    if len(set(labels.tolist())) > 1 and (features == features[:1]).all():
        raise FeatureError(
            f"{backbone} gives the same features for all {len(features)} images ({_some(names)}), so nothing can be "
            "learned from them. Check that the images differ, or take another backbone."
        )


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


@dataclass
class _Block:
    """Images read together: their payloads by position, beginning at ``start``."""

    start: int
    payloads: dict[int, Payload] = field(default_factory=dict)
    n_bytes: int = 0


def _blocks(
    sources: Sequence[ImageLike], per_block: int, failed: dict[int, ImageError], *, strict: bool
) -> Iterator[_Block]:
    """Read images block by block, and enter into ``failed`` those that cannot be read (raise, where ``strict``)."""
    block = _Block(0)
    for position, source in enumerate(sources):
        if position in failed:
            continue
        try:
            payload = read_payload(source)
        except ImageError as error:
            if strict:
                raise
            failed[position] = error
            continue
        block.payloads[position] = payload
        block.n_bytes += len(payload.content) if isinstance(payload.content, bytes) else payload.content.nbytes
        if len(block.payloads) == per_block or block.n_bytes >= _BLOCK_BYTES:
            yield block
            block = _Block(position + 1)
    if block.payloads:
        yield block


@dataclass(frozen=True)
class _Job:
    """What is done to every block: one network, one policy."""

    network: Network
    policy: Policy
    n_views: int
    seed: int
    store: FeatureStore | None
    strict: bool

    def run(
        self, payloads: list[Payload], progress: Progress | None
    ) -> tuple[NDArray[np.float32], dict[str, ImageError]]:
        """Look up or compute (len(payloads), 1 + n_views, n_features); and why images failed, by their digest."""
        keys = [key for payload in payloads for key in self._keys(payload)]
        known = self.store.get(keys) if self.store is not None else {}
        failed: dict[str, ImageError] = {}
        pending: dict[bytes, Render] = {}
        owner: dict[bytes, Payload] = {}
        for payload in payloads:
            renders = view_renders(self.network, payload, self.policy, self.n_views, self.seed)
            for key, render in zip(self._keys(payload), renders, strict=True):
                # An image given twice is computed once.
                if key not in known and key not in pending:
                    pending[key] = render if self.strict else self._forgiving(render, payload, failed)
                    owner[key] = payload
        report = None if progress is None else shifted(progress, len(keys) - len(pending), len(keys))
        before = self.network.computed_by
        rows = run_network(self.network, list(pending.values()), progress=report)
        if self.network.computed_by != before:
            # Memory sufficed for smaller batches only, whose features are kept under keys of their own.
            return self.run(payloads, progress)
        fresh = {k: row for k, row in zip(pending, rows, strict=True) if owner[k].digest not in failed}
        self._check_finite(fresh, owner)
        if self.store is not None:
            network = self.network
            self.store.put(fresh, made_by=f"{network.spec} {network.fingerprint[:8]} {network.computed_by}")
        known.update(fresh)
        if report is not None:
            report(len(pending), len(pending))
        nothing = np.full(self.network.n_features, np.nan, np.float32)
        found = np.stack([known.get(key, nothing) for key in keys])
        return found.reshape(len(payloads), 1 + self.n_views, -1), failed

    def _keys(self, payload: Payload) -> list[bytes]:
        # The fingerprint tells networks apart; runtimes, and batches that memory has halved, differ in the last bits.
        made_by = (payload.digest, self.network.fingerprint, self.network.computed_by, *_versions())
        keys = [feature_key(*made_by, "central")]
        if self.n_views:
            view = (*made_by, *_view_versions(), self.policy.spec, self.seed)
            keys += [feature_key(*view, index) for index in range(1, self.n_views + 1)]
        return keys

    def _forgiving(self, render: Render, payload: Payload, failed: dict[str, ImageError]) -> Render:
        """Note what cannot be decoded, and go on with a black picture in its place."""

        def attempt() -> NDArray[np.uint8]:
            if payload.digest not in failed:
                try:
                    return render()
                except ImageError as error:
                    failed[payload.digest] = error
            return np.zeros((self.network.image_size, self.network.image_size, 3), np.uint8)

        return attempt

    def _check_finite(self, fresh: dict[bytes, NDArray[np.float32]], owner: dict[bytes, Payload]) -> None:
        bad = sorted({owner[key].name for key, row in fresh.items() if not np.isfinite(row).all()})
        if bad:
            raise FeatureError(
                f"{self.network.spec} gives features that are NaN or infinite for {len(bad)} images ({_some(bad)}). "
                "Its weights are damaged or overflow; take another backbone, or remove these images."
            )


@functools.cache
def _versions() -> tuple[object, ...]:
    """What decodes, resizes and computes: another version may do it otherwise."""
    packages = ("pillow", "timm", "torch", "openvino")
    return (READER_VERSION, *(package_version(name) for name in packages), pillow_features.version("jpg"))


@functools.cache
def _view_versions() -> tuple[object, ...]:
    """What draws views."""
    import cv2

    return (VIEWS_VERSION, package_version("albumentations"), package_version("albucore"), cv2.__version__)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
