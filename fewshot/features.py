"""Images to features: the image itself and its augmented views, through a backbone, with a store behind it."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fewshot.augment import VIEWS_VERSION, AugmentationLike, Views, load_policy
from fewshot.backbones.base import Backbone, Network, Progress, Render, run_network, shifted
from fewshot.errors import FeatureError, ImageError, InvalidInputError
from fewshot.images.dataset import as_sources
from fewshot.images.reader import READER_VERSION, ImageLike, Payload, decode, read_payload
from fewshot.store import FeatureStore, feature_key
from fewshot.versions import DRAWING, EXTRACTING, version_of

# Pictures are read, computed and stored in blocks of about so many, or so many bytes: memory stays flat, and an
# interrupted run has lost little.
_BLOCK = 256
_BLOCK_BYTES = 128 << 20

_Picture: TypeAlias = "tuple[str, int]"
"""An image's digest, and which view of it: 0 is the image itself."""


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

    Where memory makes a network's batches smaller on the way, features that earlier calls, or earlier blocks of about
    256 pictures, have computed with larger ones stay as they are; they differ in the last bits.

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
    return extract_with(backbone, images, policy, views, seed=seed, store=store, progress=progress, errors=errors)


def extract_with(
    backbone: Backbone,
    images: Iterable[ImageLike],
    policy: Views,
    views: int,
    *,
    seed: int = 0,
    store: FeatureStore | None = None,
    progress: Progress | None = None,
    errors: dict[int, ImageError] | None = None,
) -> NDArray[np.float32]:
    """Compute features as :func:`extract_views` does, of any kind of views: (n, 1 + views, n_features) float32."""
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


def view_renders(network: Network, payload: Payload, policy: Views, n_views: int, seed: int) -> list[Render]:
    """List functions that render an image's central view and its augmented views at a network's size."""

    def central() -> NDArray[np.uint8]:
        return network.preprocess(_decode_once(payload))

    def augmented(index: int) -> NDArray[np.uint8]:
        return policy.draw(network, _decode_once(payload), index=index, seed=seed)

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
    policy: Views
    n_views: int
    seed: int
    store: FeatureStore | None
    strict: bool

    def run(
        self, payloads: list[Payload], progress: Progress | None
    ) -> tuple[NDArray[np.float32], dict[str, ImageError]]:
        """Look up or compute (len(payloads), 1 + n_views, n_features); and why images failed, by their digest."""
        # An image given twice is computed once.
        images = {payload.digest: payload for payload in payloads}
        failed: dict[str, ImageError] = {}
        renders: dict[_Picture, Render] = {}
        for digest, payload in images.items():
            for view, render in enumerate(view_renders(self.network, payload, self.policy, self.n_views, self.seed)):
                renders[digest, view] = render if self.strict else self._forgiving(render, payload, failed)
        pictures = [(payload.digest, view) for payload in payloads for view in range(1 + self.n_views)]
        report = None if progress is None else functools.partial(_report_rest, progress, len(pictures))
        rows = self._rows(renders, images, failed, report)
        nothing = np.full(self.network.n_features, np.nan, np.float32)
        found = np.stack([nothing if picture[0] in failed else rows[picture] for picture in pictures])
        return found.reshape(len(payloads), 1 + self.n_views, -1), failed

    def _rows(
        self,
        renders: dict[_Picture, Render],
        images: dict[str, Payload],
        failed: dict[str, ImageError],
        report: Callable[[int, int, int], None] | None,
    ) -> dict[_Picture, NDArray[np.float32]]:
        """Look up or compute a block's pictures, all with batches of one size; keep what was computed."""
        computed: dict[_Picture, NDArray[np.float32]] = {}
        while True:
            keys = {picture: self._key(*picture) for picture in renders if picture not in computed}
            stored = self.store.get(list(keys.values())) if self.store is not None else {}
            pending = {picture: renders[picture] for picture, key in keys.items() if key not in stored}
            before = self.network.computed_by
            progress = None if report is None else functools.partial(report, len(pending))
            rows = run_network(self.network, list(pending.values()), progress=progress)
            fresh = dict(zip(pending, rows, strict=True))
            self._keep({p: row for p, row in fresh.items() if p[0] not in failed}, images)
            if self.network.computed_by == before:
                if progress is not None:
                    progress(len(pending), len(pending))
                return computed | fresh | {p: stored[key] for p, key in keys.items() if key in stored}
            # Memory sufficed for smaller batches only. What was just computed is all from these; what was stored or
            # computed before is not, and is looked up again under the names of these.
            computed = fresh

    def _keep(self, fresh: dict[_Picture, NDArray[np.float32]], images: dict[str, Payload]) -> None:
        """Store features, unless there are some that no image has.

        Raises:
            FeatureError: some are not finite.
        """
        network = self.network
        bad = sorted({images[digest].name for (digest, _), row in fresh.items() if not np.isfinite(row).all()})
        if bad:
            raise FeatureError(
                f"{network.spec} gives features that are NaN or infinite for {len(bad)} images ({_some(bad)}). "
                "Its weights are damaged or overflow; take another backbone, or remove these images."
            )
        if self.store is not None:
            made_by = f"{network.spec} {network.fingerprint[:8]} {network.computed_by}"
            self.store.put({self._key(*picture): row for picture, row in fresh.items()}, made_by=made_by)

    def _key(self, digest: str, view: int) -> bytes:
        # The fingerprint tells networks apart; runtimes, and batches that memory has halved, differ in the last bits.
        made_by = (digest, self.network.fingerprint, self.network.computed_by, *_versions())
        if view == 0:
            return feature_key(*made_by, "central")
        return feature_key(*made_by, *_view_versions(), self.policy.spec, self.seed, view)

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


def _report_rest(progress: Progress, total: int, rest: int, done: int, _: int) -> None:
    """Report that so many are done of the ``rest`` that were not stored, out of a block's ``total``."""
    progress(total - rest + done, total)


@functools.cache
def _versions() -> tuple[object, ...]:
    """What decodes, resizes and computes: another version may do it otherwise."""
    return (READER_VERSION, *map(version_of, EXTRACTING))


@functools.cache
def _view_versions() -> tuple[object, ...]:
    """What draws views."""
    return (VIEWS_VERSION, *map(version_of, DRAWING))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
