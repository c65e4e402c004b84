"""The tuned representation with its ingredients on and off, and of each view alone; made by hand, outside the package.

With everything on it is the package's own, which `check` makes sure of.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot.backbones.base import Backbone, Network
from fewshot.backbones.with_classes import with_classes
from fewshot.features import extract_with
from fewshot.images.dataset import as_sources
from fewshot.images.reader import ImageLike
from fewshot.representation.base import Parts, Representation, Weigh, unit
from fewshot.representation.tuned import POSTERIOR_SHARE, TunedRepresentation, shares
from fewshot.representation.whitening import Statistics, read_statistics, statistics_path
from fewshot.store import FeatureStore
from fewshot.views import FixedViews


def familiar_only(entropy: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Let the familiar part alone count; see :data:`fewshot.representation.base.Weigh`."""
    return {"familiar": np.ones_like(entropy), "unfamiliar": np.zeros_like(entropy)}


def unfamiliar_only(entropy: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Let the unfamiliar part alone count."""
    return {"familiar": np.zeros_like(entropy), "unfamiliar": np.ones_like(entropy)}


def halves(entropy: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Let both count the same, whatever the images show."""
    return {"familiar": np.full_like(entropy, 0.5), "unfamiliar": np.full_like(entropy, 0.5)}


@dataclass(frozen=True)
class Switches:
    """What is on; by default everything, as in the package.

    Attributes:
        views: the mean over the fixed views rather than the central one.
        posterior: the network's own classes.
        root: roots of the features in the unfamiliar part.
        whitening: centring and whitening there; it was computed of roots, and has no meaning without.
        gate: shares of the parts.
    """

    views: bool = True
    posterior: bool = True
    root: bool = True
    whitening: bool = True
    gate: Weigh = shares


class Variant(Representation):
    """The tuned representation of one network under switches.

    Args:
        backbone: a packaged network.
        switches: what is on.
        each_view: give, besides the image's own row, one for each of its fixed views.
    """

    name = "variant"

    def __init__(self, backbone: Backbone, switches: Switches | None = None, *, each_view: bool = False) -> None:
        self.backbone, self.switches, self.each_view = backbone, switches or Switches(), each_view
        self._network = with_classes(backbone.networks[0])
        self._statistics = read_statistics(statistics_path(backbone.networks[0].spec))
        self.widths = TunedRepresentation(backbone).widths
        gate = replace(self.switches, gate=shares), self.switches.gate.__name__
        text = f"{gate}|{each_view}|{self._network.fingerprint}|{self._statistics.digest}"
        self.fingerprint = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    @property
    def networks(self) -> tuple[Network, ...]:
        """The network, with its classes."""
        return (self._network,)

    def parts(self, images: Iterable[ImageLike], *, store: FeatureStore | None = None, **options: Any) -> Parts:
        """See :class:`Representation`; of augmented views it knows nothing."""
        fixed = FixedViews()
        each = extract_with(self._network, as_sources(images), fixed, fixed.n_views, store=store)
        own = each.mean(axis=1, keepdims=True) if self.switches.views else each[:, :1]
        rows = np.concatenate([own, each], axis=1) if self.each_view else own
        return make_parts(rows, self._statistics, self.switches)


def make_parts(rows: NDArray[np.float32], statistics: Statistics, on: Switches) -> Parts:
    """Make parts of (n, m, d) features and class probabilities; see fewshot.representation.tuned."""
    last, posterior = np.split(rows.astype(np.float64), [len(statistics.whitening.mean)], axis=-1)
    share = POSTERIOR_SHARE * on.posterior
    both = [np.sqrt(1 - share) * unit(last), np.sqrt(share) * unit(np.sqrt(posterior))]
    rooted = np.sqrt(last) if on.root else last
    unfamiliar = unit(statistics.whitening.apply(rooted) if on.whitening else rooted)
    arrays = {
        "familiar": np.concatenate(both, axis=-1).astype(np.float32),
        "unfamiliar": unfamiliar.astype(np.float32),
    }
    own = posterior[:, 0]
    entropy = -(own * np.log(np.maximum(own, np.finfo(np.float64).tiny))).sum(axis=-1)
    return Parts(arrays, entropy, on.gate)


def check(backbone: Backbone, images: Iterable[ImageLike]) -> None:
    """Make sure that with everything on this is what the package makes.

    Raises:
        AssertionError: it is not, so that nothing here speaks of the package.
    """
    sources = as_sources(images)
    mine, theirs = Variant(backbone), TunedRepresentation(backbone)
    found, wanted = (one.parts(sources, store=FeatureStore()) for one in (mine, theirs))
    for name, array in wanted.arrays.items():
        if not np.allclose(found.arrays[name], array, atol=1e-6):
            raise AssertionError(f"The variant with everything on differs from the package in its {name} part.")
