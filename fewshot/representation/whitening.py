"""Whitening by the scatter within classes of other data sets: what varies between images of one thing counts less.

Let S be the covariance of features within classes, pooled over the classes of source data, with eigenvectors u_i and
eigenvalues l_i, and m the source data's mean. A feature is centred and each of its directions scaled,

    y = sum_i s_i u_i u_i^T (x - m),        s_i = 1 / sqrt(l_i + SHRINK * mean(l))

Only the largest r eigenvalues are kept with their directions U; the others share their mean, and with it one scale:

    y = s_rest (x - m) + U ((s - s_rest) * U^T (x - m))

so a vector keeps all its dimensions, and what is shipped per network is m and U, not a matrix of all directions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

RANK = 128
SHRINK = 2.0
STATISTICS = Path(__file__).with_name("statistics")


@dataclass(frozen=True, eq=False)
class Whitening:
    """Mean and within-class scatter of features.

    Attributes:
        mean: (d,).
        directions: (d, r) eigenvectors of the largest eigenvalues, orthonormal but for the rounding of float16.
        eigenvalues: (r,) largest first.
        rest: what the other d - r eigenvalues have as their mean; 0 where there are none.
    """

    mean: NDArray[np.float64]
    directions: NDArray[np.float64]
    eigenvalues: NDArray[np.float64]
    rest: float

    @classmethod
    def of(cls, mean: NDArray[np.float64], covariance: NDArray[np.float64], rank: int = RANK) -> Whitening:
        """Keep what matters of a (d,) mean and a (d, d) covariance."""
        values, vectors = np.linalg.eigh(covariance)
        values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
        rest = float(values[rank:].mean()) if len(values) > rank else 0.0
        return cls(mean, vectors[:, :rank], values[:rank], rest)

    def apply(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """Whiten (..., d) features."""
        n_rest = len(self.mean) - len(self.eigenvalues)
        # Of all d eigenvalues, those that are not kept included.
        shrink = SHRINK * (self.eigenvalues.sum() + n_rest * self.rest) / len(self.mean)
        rest = 1 / np.sqrt(self.rest + shrink)
        scales = 1 / np.sqrt(self.eigenvalues + shrink)
        centred = features - self.mean
        found: NDArray[np.float64] = (
            rest * centred + ((centred @ self.directions) * (scales - rest)) @ self.directions.T
        )
        return found


@dataclass(frozen=True, eq=False)
class Statistics:
    """What is shipped for one network.

    Attributes:
        whitening: of the roots of its last features.
        about: what it was computed from, and of which weights (``weights_sha256``).
        digest: of the file.
    """

    whitening: Whitening
    about: Mapping[str, str]
    digest: str


def statistics_path(name: str) -> Path:
    """Where the statistics of a packaged network are, if there are any."""
    return STATISTICS / f"{name}.safetensors"


def read_statistics(path: Path) -> Statistics:
    """Read what :func:`write_statistics` wrote."""
    data = path.read_bytes()
    arrays = safetensors.numpy.load(data)
    with safetensors.safe_open(path, framework="numpy") as file:
        about = dict(file.metadata() or {})
    *values, rest = arrays["eigenvalues"].tolist()
    mean, directions = (arrays[name].astype(np.float64) for name in ("mean", "directions"))
    whitening = Whitening(mean, directions, np.array(values), rest)
    return Statistics(whitening, about, hashlib.blake2b(data, digest_size=16).hexdigest())


def write_statistics(path: Path, whitening: Whitening, about: Mapping[str, str]) -> None:
    """Write the statistics of a network: mean and directions in float16, eigenvalues in float64."""
    arrays = {
        "mean": whitening.mean.astype(np.float16),
        "directions": np.ascontiguousarray(whitening.directions.astype(np.float16)),
        "eigenvalues": np.array([*whitening.eigenvalues, whitening.rest]),
    }
    path.write_bytes(safetensors.numpy.save(arrays, metadata=dict(about)))
