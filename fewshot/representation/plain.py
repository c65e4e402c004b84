"""The last features, of the central view as they are, or averaged over fixed views: for any backbone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fewshot.augment import AugmentationLike
from fewshot.backbones.base import Backbone, Network, Progress, shifted
from fewshot.errors import ImageError
from fewshot.features import extract_with
from fewshot.images.dataset import as_sources
from fewshot.images.reader import ImageLike
from fewshot.representation.base import Parts, Representation, even, unit
from fewshot.representation.views import mean_over_views, pictures_of
from fewshot.store import FeatureStore
from fewshot.views import FixedViews, views_of


class PlainRepresentation(Representation):
    """One central view, its features as they are."""

    name = "plain"

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        # Nothing is done that the backbone's own fingerprint does not tell.
        self.fingerprint = "plain"
        self.widths = {"features": backbone.n_features}

    @property
    def networks(self) -> tuple[Network, ...]:
        """Those of the backbone."""
        return self.backbone.networks

    def parts(
        self,
        images: Iterable[ImageLike],
        *,
        augmentation: AugmentationLike | FixedViews = None,
        n_views: int = 16,
        seed: int = 0,
        store: FeatureStore | None = None,
        progress: Progress | None = None,
        errors: dict[int, ImageError] | None = None,
    ) -> Parts:
        """See :class:`Representation`."""
        policy, views = views_of(augmentation, n_views)
        rows = extract_with(
            self.backbone, images, policy, views, seed=seed, store=store, progress=progress, errors=errors
        )
        return Parts({"features": rows}, np.zeros(len(rows)), even)


class AveragedRepresentation(Representation):
    """The mean over five fixed views, L2-normalised; of joined networks, the units side by side."""

    name = "averaged"

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        text = f"averaged 1|{FixedViews().spec}|{backbone.fingerprint}"
        self.fingerprint = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        self.widths = {"features": sum(network.n_features for network in backbone.networks)}

    @property
    def networks(self) -> tuple[Network, ...]:
        """Those of the backbone."""
        return self.backbone.networks

    def parts(
        self,
        images: Iterable[ImageLike],
        *,
        augmentation: AugmentationLike | FixedViews = None,
        n_views: int = 16,
        seed: int = 0,
        store: FeatureStore | None = None,
        progress: Progress | None = None,
        errors: dict[int, ImageError] | None = None,
    ) -> Parts:
        """See :class:`Representation`."""
        rows = means_of_networks(
            self.networks,
            images,
            augmentation=augmentation,
            n_views=n_views,
            seed=seed,
            store=store,
            progress=progress,
            errors=errors,
        )
        joined = np.float32(1 / np.sqrt(len(rows))) * np.concatenate([unit(one) for one in rows], axis=-1)
        return Parts({"features": joined}, np.zeros(len(joined)), even)


def means_of_networks(
    networks: tuple[Network, ...],
    images: Iterable[ImageLike],
    *,
    augmentation: AugmentationLike | FixedViews,
    n_views: int,
    seed: int,
    store: FeatureStore | None,
    progress: Progress | None,
    errors: dict[int, ImageError] | None,
) -> list[NDArray[np.float32]]:
    """Compute for each network (n, 1 + n_views, d): the mean over the fixed views, and each augmented view alone."""
    policy, views = views_of(augmentation, n_views)
    sources = as_sources(images)
    each = pictures_of(len(sources), policy, views)
    return [
        mean_over_views(
            network,
            sources,
            policy,
            views,
            seed=seed,
            store=store,
            progress=None if progress is None else shifted(progress, position * each, len(networks) * each),
            errors=errors,
        )
        for position, network in enumerate(networks)
    ]
