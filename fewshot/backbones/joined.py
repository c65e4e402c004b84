"""Several networks as one backbone: features of each, L2-normalised, then concatenated.

Normalising first gives every network the same say, whatever the scale of its features.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from fewshot.backbones.base import Backbone, Network


class JoinedBackbone(Backbone):
    """Networks whose normalised features are concatenated."""

    def __init__(self, networks: tuple[Network, ...]) -> None:
        self._networks = networks
        self.spec = "+".join(network.spec for network in networks)
        self.n_features = sum(network.n_features for network in networks)
        joined = "|".join(network.fingerprint for network in networks)
        self.fingerprint = hashlib.blake2b(joined.encode(), digest_size=16).hexdigest()

    @property
    def networks(self) -> tuple[Network, ...]:
        """The networks, in the order of their names in ``spec``."""
        return self._networks

    def combine(self, features: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        """L2-normalise each network's (..., d_i) and concatenate to (..., n_features)."""
        tiny = np.finfo(np.float32).tiny
        return np.concatenate(
            [f / np.maximum(np.linalg.norm(f, axis=-1, keepdims=True), tiny) for f in features], axis=-1
        )
