"""Inner products of a data set's vectors, computed once: of features as they are, and of parts that episodes weigh.

Episodes are moved into few dimensions by the inner products of their vectors alone (:mod:`fewshot.gram`). Where a
representation's parts count differently from episode to episode, so do these products, and yet they need computing
only once: with shares w_p of an episode, and G_p the products of part p,

    G = sum_p w_p G_p

which is gathered and added up for the few images of the episode.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewshot.errors import InvalidInputError
from fewshot.representation.base import Parts

_BLOCK = 256


class Products(ABC):
    """Rows of vectors, and their inner products.

    Attributes:
        width: of the vectors.
    """

    width: int

    @abstractmethod
    def weights(self, support: Tensor) -> Tensor | None:
        """Settle for (b, n_support) rows to learn from what their episodes' vectors are: (b, n_parts), or nothing."""

    @abstractmethod
    def vectors(self, rows: Tensor, weights: Tensor | None) -> Tensor:
        """Gather the vectors themselves: (b, n, width) float32 of (b, n) rows."""

    @abstractmethod
    def lengths(self, rows: Tensor, weights: Tensor | None) -> Tensor:
        """Give the lengths of the vectors of (b, n) rows, float64."""

    @abstractmethod
    def units(self, rows: Tensor, columns: Tensor, weights: Tensor | None) -> Tensor:
        """Give inner products of unit vectors, (b, n_rows, n_columns) float64; a zero vector stays zero."""


class PlainProducts(Products):
    """Of features that are the same in every episode.

    Args:
        features: (n, d) of any scale.
        budget: bytes for the inner products of all pairs; where they take more, each episode's own are computed.
        device: where.

    Raises:
        InvalidInputError: features of another shape, or NaN or infinite ones.
    """

    def __init__(self, features: NDArray[Any], *, budget: int, device: str) -> None:
        self.features = _checked(features).to(device)
        self.width = int(self.features.shape[1])
        self._norms = torch.linalg.vector_norm(self.features.double(), dim=1)
        # A zero vector stays zero: its unit vector is zero, too.
        self._scale = _inverse(self._norms)
        self._products: Tensor | None = None
        if 8 * len(self.features) ** 2 <= budget:
            self._products = _all(self._unit(torch.arange(len(self.features), device=device)))

    def weights(self, support: Tensor) -> None:
        """Nothing is weighed."""

    def vectors(self, rows: Tensor, weights: Tensor | None) -> Tensor:
        """See :class:`Products`."""
        found: Tensor = self.features[rows]
        return found

    def lengths(self, rows: Tensor, weights: Tensor | None) -> Tensor:
        """See :class:`Products`."""
        found: Tensor = self._norms[rows]
        return found

    def units(self, rows: Tensor, columns: Tensor, weights: Tensor | None) -> Tensor:
        """See :class:`Products`."""
        if self._products is None:
            # Few episodes at a time: their vectors stay in the cache, and memory does not grow with the batch.
            starts = range(0, len(rows), 4)
            parts = [self._unit(rows[i : i + 4]) @ self._unit(columns[i : i + 4]).mT for i in starts]
            return torch.cat(parts)
        return _gathered(self._products, rows, columns)

    def _unit(self, rows: Tensor) -> Tensor:
        vectors: Tensor = self.features[rows].double() * self._scale[rows].unsqueeze(-1)
        return vectors


class WeighedProducts(Products):
    """Of a representation's parts, which each episode weighs by what its support shows.

    Args:
        parts: of n images, each with as many augmented views; rows are images, with their views one after the other.
        budget: bytes for the inner products of all pairs, of all parts together.
        device: where.

    Raises:
        InvalidInputError: parts that are NaN or infinite.
    """

    def __init__(self, parts: Parts, *, budget: int, device: str) -> None:
        flat = [array.reshape(-1, array.shape[-1]) for array in parts.arrays.values()]
        self._parts = [_checked(array).to(device) for array in flat]
        self._names, self._weigh = list(parts.arrays), parts.weigh
        self._entropy = torch.from_numpy(np.repeat(parts.entropy, parts.n_rows)).to(device)
        self.width = sum(int(part.shape[1]) for part in self._parts)
        self._squares = [part.double().square().sum(dim=1) for part in self._parts]
        self._products: list[Tensor] | None = None
        if 8 * len(self._parts) * len(flat[0]) ** 2 <= budget:
            self._products = [_all(part.double()) for part in self._parts]

    def weights(self, support: Tensor) -> Tensor:
        """Give (b, n_parts) shares: of the mean entropy of (b, n_support) rows."""
        # Every image has equally many rows, so the mean over rows is that over images.
        entropy = self._entropy[support].mean(dim=1).cpu().numpy()
        shares = self._weigh(entropy)
        return torch.from_numpy(np.stack([shares[name] for name in self._names], axis=1)).to(support.device)

    def vectors(self, rows: Tensor, weights: Tensor | None) -> Tensor:
        """See :class:`Products`."""
        assert weights is not None  # noqa: S101 - for the type checker
        roots = weights.sqrt().float()
        return torch.cat([roots[:, i, None, None] * part[rows] for i, part in enumerate(self._parts)], dim=-1)

    def lengths(self, rows: Tensor, weights: Tensor | None) -> Tensor:
        """See :class:`Products`."""
        assert weights is not None  # noqa: S101 - for the type checker
        squares = [weights[:, i, None] * part[rows] for i, part in enumerate(self._squares)]
        return torch.stack(squares).sum(dim=0).sqrt()

    def units(self, rows: Tensor, columns: Tensor, weights: Tensor | None) -> Tensor:
        """See :class:`Products`."""
        assert weights is not None  # noqa: S101 - for the type checker
        found: Tensor | None = None
        # Where no episode gives a part a share, its products need not be looked up.
        for i in weights.any(dim=0).nonzero().flatten().tolist():
            products = self._of_part(i, rows, columns).mul_(weights[:, i, None, None])
            found = products if found is None else found.add_(products)
        if found is None:
            return torch.zeros(*rows.shape, columns.shape[1], dtype=torch.float64, device=rows.device)
        scale_rows, scale_columns = (_inverse(self.lengths(one, weights)) for one in (rows, columns))
        return found.mul_(scale_rows.unsqueeze(-1)).mul_(scale_columns.unsqueeze(-2))

    def _of_part(self, part: int, rows: Tensor, columns: Tensor) -> Tensor:
        if self._products is not None:
            return _gathered(self._products[part], rows, columns)
        table = self._parts[part]
        starts = range(0, len(rows), 4)
        return torch.cat([table[rows[i : i + 4]].double() @ table[columns[i : i + 4]].double().mT for i in starts])


def _checked(features: NDArray[Any]) -> Tensor:
    """Turn (n, d) features of any scale into a tensor.

    Raises:
        InvalidInputError: features of another shape, or NaN or infinite ones.
    """
    values = np.asarray(features, dtype=np.float32)
    if values.ndim != 2 or not values.size:
        raise InvalidInputError(f"features of shape {values.shape}: needs (n images, d features).")
    if not np.isfinite(values).all():
        raise InvalidInputError("Some features are NaN or infinite.")
    largest = float(np.abs(values).max())
    if largest and not 1e-12 < largest < 1e12:
        raise InvalidInputError(f"The largest feature is {largest:.3g}; scale features to between 1e-12 and 1e12.")
    # What workers map from a file cannot be written, and torch wants to be able to.
    return torch.from_numpy(np.ascontiguousarray(values) if values.flags.writeable else values.copy())


def _all(vectors: Tensor) -> Tensor:
    """Inner products of all pairs of (n, d) float64 vectors."""
    products = torch.empty(len(vectors), len(vectors), dtype=torch.float64, device=vectors.device)
    for start in range(0, len(vectors), _BLOCK):
        torch.matmul(vectors[start : start + _BLOCK], vectors.mT, out=products[start : start + _BLOCK])
    return products


def _gathered(products: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Look up (b, n_rows, n_columns) of the (n, n) products of all pairs."""
    if products.numel() < 2**31:
        rows, columns = rows.int(), columns.int()
    flat = (rows * len(products)).unsqueeze(2) + columns.unsqueeze(1)
    return products.view(-1).index_select(0, flat.view(-1)).view(flat.shape)


def _inverse(lengths: Tensor) -> Tensor:
    """One divided by lengths; zero where they are."""
    return torch.where(lengths > 0, 1 / lengths.clamp_min(torch.finfo(lengths.dtype).tiny), 0.0)
