"""What a representation is: images to parts, and parts to vectors by what a support shows.

Some of what can be known of an image helps with some images only. A representation computes each such *part* on its
own, and how much each counts, its *share*, is settled once for a set of images to learn from. The inner product of two
images is the sum over parts of the parts' inner products, each times its share; so vectors are the parts side by side,
each times the root of its share, and any head works on them unchanged.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fewshot.augment import AugmentationLike
from fewshot.backbones.base import Backbone, Network, Progress
from fewshot.errors import ImageError
from fewshot.images.reader import ImageLike
from fewshot.store import FeatureStore
from fewshot.views import FixedViews

Weigh: TypeAlias = "Callable[[NDArray[np.float64]], dict[str, NDArray[np.float64]]]"
"""Maps (b,) mean entropies of sets of images, in nats, to (b,) shares of each part; a function of a module, so that it
travels to other processes."""


@dataclass(frozen=True, eq=False)
class Parts:
    """What a representation computed of n images, in parts.

    Attributes:
        arrays: by name, (n, 1 + n_views, d) float32: of the image itself, and of its augmented views.
        entropy: (n,) of each image's class probabilities, in nats; zeros where a representation does not use it.
        weigh: the shares of the parts.
    """

    arrays: dict[str, NDArray[np.float32]]
    entropy: NDArray[np.float64]
    weigh: Weigh

    def __len__(self) -> int:
        return len(self.entropy)

    @property
    def n_rows(self) -> int:
        """Vectors per image: itself and its augmented views."""
        return int(next(iter(self.arrays.values())).shape[1])

    @property
    def first(self) -> NDArray[np.float32]:
        """One part of the images themselves, (n, d), by which images are told apart."""
        return next(iter(self.arrays.values()))[:, 0]

    def take(self, index: Any) -> Parts:
        """Take some images."""
        arrays = {name: array[index] for name, array in self.arrays.items()}
        return replace(self, arrays=arrays, entropy=self.entropy[index])

    def central(self) -> Parts:
        """Leave out augmented views."""
        return replace(self, arrays={name: array[:, :1] for name, array in self.arrays.items()})

    def beside(self, others: Parts, is_other: NDArray[np.bool_]) -> Parts:
        """Put other images in between, at the (n,) places said; augmented views that they lack are zero."""
        arrays, entropy = {}, np.empty(len(is_other))
        for name, array in self.arrays.items():
            rows = np.zeros((len(is_other), *array.shape[1:]), dtype=np.float32)
            theirs = others.arrays[name]
            rows[~is_other] = array
            rows[is_other, : theirs.shape[1]] = theirs
            arrays[name] = rows
        entropy[~is_other], entropy[is_other] = self.entropy, others.entropy
        return replace(self, arrays=arrays, entropy=entropy)

    def shares(self) -> dict[str, float]:
        """Give the parts' shares for learning from exactly these images."""
        return {name: float(share[0]) for name, share in self.weigh(np.mean(self.entropy, keepdims=True)).items()}


@dataclass(frozen=True)
class Space:
    """Where the vectors of one set of images to learn from, and of all that is asked about, lie.

    Attributes:
        shares: of the parts, by name.
        widths: of the parts, by name.
    """

    shares: Mapping[str, float]
    widths: Mapping[str, int]

    @property
    def width(self) -> int:
        """Number of features."""
        return sum(self.widths.values())

    def vectors(self, parts: Parts) -> NDArray[np.float32]:
        """Put the parts of n images together: (n, 1 + n_views, width) float32."""
        arrays = list(parts.arrays.values())
        if len(arrays) == 1 and self.shares[next(iter(parts.arrays))] == 1:
            return arrays[0]
        weighed = [np.float32(np.sqrt(self.shares[name])) * array for name, array in parts.arrays.items()]
        return np.concatenate(weighed, axis=-1)


class Representation(ABC):
    """How images become vectors.

    Attributes:
        name: one of :data:`fewshot.representation.REPRESENTATIONS`.
        fingerprint: digest of all that turns views into parts; with equal fingerprints, backbones that give equal
            features give equal parts.
        backbone: by which.
        networks: what is run on pictures.
        widths: of the parts, by name, in the order of a vector.
    """

    name: str
    fingerprint: str
    backbone: Backbone
    widths: dict[str, int]

    @property
    @abstractmethod
    def networks(self) -> tuple[Network, ...]:
        """The networks that are run on pictures."""

    @abstractmethod
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
        """Compute the parts of images; arguments and errors are those of :func:`fewshot.features.extract_views`.

        An augmented view is represented by itself alone, an image by all of its fixed views. With these in the place
        of a policy, each of them besides the central one comes by itself, too.
        """

    def space(self, support: Parts) -> Space:
        """Settle the shares for learning from these images."""
        return Space(support.shares(), self.widths)

    def __repr__(self) -> str:
        return f"<Representation {self.name} by {self.backbone.spec}: {sum(self.widths.values())} features>"


def even(entropy: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Shares where there is one part."""
    return {"features": np.ones_like(entropy)}


def unit(vectors: NDArray[Any]) -> NDArray[Any]:
    """Scale (..., d) vectors to length 1; a zero vector stays zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    found: NDArray[Any] = vectors / np.maximum(lengths, np.finfo(vectors.dtype).tiny)
    return found
