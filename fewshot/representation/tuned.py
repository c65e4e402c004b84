"""The tuned representation: what the network knows of familiar things, and what tells unfamiliar ones apart.

Of each image the mean over five fixed views is taken, of a network's last features f and of the probabilities p of the
classes that the network was trained on. Two parts are made of them, each a unit vector:

familiar
    f and the square roots of p, both of length 1: sqrt(p) . sqrt(p') is the Bhattacharyya coefficient of two images'
    probabilities. Where images show what the network was trained on, its own answers say what they have in common.
unfamiliar
    The roots of f, centred and whitened by the scatter within classes of other data sets
    (:mod:`fewshot.representation.whitening`). Where images show something else, such as textures, letters or cells,
    what the network was trained to see is not what tells them apart; the roots weigh down what is large in all of
    them, and the whitening what varies within classes of anything.

Which of the two counts is seen in the entropy of p, in nats: where the network is sure of its own classes, images are
familiar. The mean over the images that are learned from decides, once for all of them: weighing each image on its own
would put images of one class into different spaces, and did harm.

For whitening by the scatter within classes see Andrew Hatch, Sachin Kajarekar and Andreas Stolcke, "Within-Class
Covariance Normalization for SVM-based Speaker Recognition", 2006; for the root as a power transform: Yuqing Hu, Vincent
Gripon and Stéphane Pateux, "Leveraging the Feature Distribution in Transfer-based Few-Shot Learning", 2020,
arXiv:2006.03806.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fewshot.augment import AugmentationLike
from fewshot.backbones.base import Backbone, Network, Progress
from fewshot.backbones.packaged import PACKAGED
from fewshot.backbones.with_classes import N_CLASSES, has_classes, with_classes
from fewshot.errors import ImageError, InvalidInputError
from fewshot.images.reader import ImageLike
from fewshot.representation.base import Parts, Representation, unit
from fewshot.representation.plain import means_of_networks
from fewshot.representation.whitening import SHRINK, Statistics, read_statistics, statistics_path
from fewshot.store import FeatureStore
from fewshot.views import FixedViews

POSTERIOR_SHARE = 0.3
"""Of the familiar part: what the network's own classes count; the last features have the rest."""
SURE, UNSURE = 2.8, 4.4
"""Mean entropy, in nats, up to which images are familiar, and from which they are not."""
_VERSION = 2


def shares(entropy: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Give the parts' shares by (b,) mean entropies, in nats, of the images that are learned from."""
    familiar = np.clip((UNSURE - entropy) / (UNSURE - SURE), 0.0, 1.0)
    return {"familiar": familiar, "unfamiliar": 1.0 - familiar}


def lacking(backbone: Backbone) -> list[str]:
    """Name the networks of a backbone for which there are no statistics."""
    return [n.spec for n in backbone.networks if not has_classes(n) or not statistics_path(n.spec).is_file()]


class TunedRepresentation(Representation):
    """Two parts of every image, weighed by what the images to learn from show.

    Args:
        backbone: a packaged network, or several joined.

    Raises:
        InvalidInputError: one of its networks has no statistics, or other weights than these were computed for.
    """

    name = "tuned"

    def __init__(self, backbone: Backbone) -> None:
        missing = lacking(backbone)
        if missing:
            known = ", ".join(sorted(name for name in PACKAGED if statistics_path(name).is_file())) or "none"
            raise InvalidInputError(
                f"representation='tuned' knows these backbones and their combinations: {known}; not "
                f"{', '.join(map(repr, missing))}. Use representation='averaged', or 'auto'."
            )
        self.backbone = backbone
        self._statistics = [_statistics(network.spec) for network in backbone.networks]
        self._networks = tuple(with_classes(network) for network in backbone.networks)
        last = [network.n_features for network in backbone.networks]
        self.widths = {"familiar": sum(last) + len(last) * N_CLASSES, "unfamiliar": sum(last)}
        recipe = [_VERSION, FixedViews().spec, POSTERIOR_SHARE, SURE, UNSURE, SHRINK]
        recipe += [[n.fingerprint, s.digest] for n, s in zip(self._networks, self._statistics, strict=True)]
        self.fingerprint = hashlib.blake2b(json.dumps(recipe).encode(), digest_size=16).hexdigest()

    @property
    def networks(self) -> tuple[Network, ...]:
        """Those of the backbone, with their classes."""
        return self._networks

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
        found = [_parts_of(one, statistics) for one, statistics in zip(rows, self._statistics, strict=True)]
        scale = np.float32(1 / np.sqrt(len(found)))
        arrays = {name: scale * np.concatenate([one[name] for one, _ in found], axis=-1) for name in self.widths}
        return Parts(arrays, np.mean([entropy for _, entropy in found], axis=0), shares)


def _parts_of(
    rows: NDArray[np.float32], statistics: Statistics
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float64]]:
    """Make the parts of what one network gave, (n, 1 + n_views, d), and (n,) the images' entropies in nats."""
    last, posterior = np.split(rows.astype(np.float64), [len(statistics.whitening.mean)], axis=-1)
    familiar = [np.sqrt(1 - POSTERIOR_SHARE) * unit(last), np.sqrt(POSTERIOR_SHARE) * unit(np.sqrt(posterior))]
    arrays = {
        "familiar": np.concatenate(familiar, axis=-1).astype(np.float32),
        # Means of what ReLU6 gave: nothing is below 0.
        "unfamiliar": unit(statistics.whitening.apply(np.sqrt(last))).astype(np.float32),
    }
    own = posterior[:, 0]
    entropy = -(own * np.log(np.maximum(own, np.finfo(np.float64).tiny))).sum(axis=-1)
    return arrays, entropy


_read = functools.lru_cache(maxsize=8)(read_statistics)


def _statistics(name: str) -> Statistics:
    statistics = _read(statistics_path(name))
    if statistics.about.get("weights_sha256") != PACKAGED[name].sha256:
        raise InvalidInputError(
            f"The statistics of {name!r} belong to other weights than this version of fewshot takes; install fewshot "
            "again."
        )
    return statistics
