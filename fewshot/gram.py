"""Episodes in few dimensions: inner products of a data set, computed once, stand for its features.

A head whose answers depend on inner products alone gives the same answers in any space that keeps them. An episode's
support spans at most as many dimensions as it has images, so each episode is moved there: with unit features, their
products G, and the Cholesky factor L of the support's part,

    G_ss = L L^T,   support coordinates: rows of L,   query coordinates: G_qs L^-T,

and what a query has outside that span becomes one last coordinate, sqrt(1 - |coordinates|^2). All products with the
support and all lengths are kept, and a head's ordinary code runs in, say, 26 dimensions instead of 1,280. For heads
that label queries jointly, products among queries count too, and the span is that of support and queries together.

Factors are computed in float64, heads in float32. A trace of the identity is added to G_ss, so that repeated or nearly
dependent images, whose factor does not exist, are no special case: it changes products by 1e-12.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewshot.errors import InvalidInputError

DEFAULT_BUDGET = 256 << 20
"""Bytes that the inner products of a data set may take: up to 5,793 rows."""
_BLOCK = 256
_JITTERS = (1e-12, 1e-9, 1e-6)


class EpisodeSpace:
    """The features of a data set, as episodes see them.

    Args:
        features: (n, d) of any scale.
        budget: bytes for the inner products of all pairs; where they take more, each episode's own are computed.
        dtype: of the coordinates.
        device: where heads compute.

    Raises:
        InvalidInputError: features of another shape, or NaN or infinite ones.
    """

    def __init__(
        self,
        features: NDArray[np.floating],
        *,
        budget: int = DEFAULT_BUDGET,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> None:
        values = np.asarray(features, dtype=np.float32)
        if values.ndim != 2 or not values.size:
            raise InvalidInputError(f"features of shape {values.shape}: needs (n images, d features).")
        if not np.isfinite(values).all():
            raise InvalidInputError("Some features are NaN or infinite.")
        largest = float(np.abs(values).max())
        if largest and not 1e-12 < largest < 1e12:
            raise InvalidInputError(f"The largest feature is {largest:.3g}; scale features to between 1e-12 and 1e12.")
        self.dtype = dtype
        self.device = device
        # What workers map from a file cannot be written, and torch wants to be able to.
        own = np.ascontiguousarray(values) if values.flags.writeable else values.copy()
        self.features = torch.from_numpy(own).to(device)
        norms = torch.linalg.vector_norm(self.features.double(), dim=1)
        self._norms = norms
        # A zero vector stays zero: its unit vector is zero, too.
        self._scale = _inverse(norms)
        self._products: Tensor | None = None
        if 8 * len(values) ** 2 <= budget:
            self._products = self._all_products()

    @property
    def width(self) -> int:
        """Number of features."""
        return int(self.features.shape[1])

    def vectors(self, support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Gather the features themselves: (b, n_support, d) and (b, n_query, d) of (b, n) rows."""
        return self.features[support].to(self.dtype), self.features[query].to(self.dtype)

    def coordinates(self, support: Tensor, query: Tensor, *, jointly: bool = False) -> tuple[Tensor, Tensor]:
        """Give coordinates that keep all lengths and all inner products with the support.

        Args:
            support: (b, n_support) rows.
            query: (b, n_query) rows.
            jointly: keep inner products among queries, too.

        Returns:
            (b, n_support, m) and (b, n_query, m); the features themselves where these have no more dimensions.
        """
        n_support, n_query = support.shape[1], query.shape[1]
        if self.width <= (n_support + n_query if jointly else n_support + 1):
            return self.vectors(support, query)
        if jointly:
            rows = torch.cat([support, query], dim=1)
            both = (_factor(self._gather(rows, rows)) * self._norms[rows].unsqueeze(-1)).to(self.dtype)
            return both[:, :n_support], both[:, n_support:]
        supports, queries = _span(self._gather(support, support), self._gather(support, query))
        return self._scaled(supports, self._norms[support]), self._scaled(queries, self._norms[query])

    def mean_products(
        self, support: Tensor, query: Tensor, labels: Tensor, n_way: int, shots: int | None, *, unit: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Give what class means have in common with queries, in float64.

        Args:
            support: (b, n_support) rows.
            query: (b, n_query) rows.
            labels: (b, n_support) classes 0..n_way-1, each at least once.
            n_way: number of classes.
            shots: rows per class, where all classes have equally many and they lie class after class; else ``None``.
            unit: of unit vectors rather than of the features as they are.

        Returns:
            (b, n_way, n_query) inner products, (b, n_way) lengths of the means, and (b, n_query) of the queries.
        """
        across = self._gather(support, query)
        lengths, query_lengths = self._norms[support], self._norms[query]
        if unit:
            lengths, query_lengths = lengths.sign(), query_lengths.sign()
        else:
            across.mul_(lengths.unsqueeze(-1)).mul_(query_lengths.unsqueeze(-2))
        if shots is None:
            member = torch.nn.functional.one_hot(labels, n_way).to(across.dtype)
            weights = (member / member.sum(dim=1, keepdim=True)).mT
            among = self._gather(support, support) * lengths.unsqueeze(-1) * lengths.unsqueeze(-2)
            return weights @ across, ((weights @ among) * weights).sum(dim=-1).clamp_min(0).sqrt(), query_lengths
        if shots == 1:
            return across, lengths, query_lengths
        # Of the products among support, only those within a class matter.
        within = self._gather(support.view(-1, shots), support.view(-1, shots))
        if not unit:
            within = within * lengths.view(-1, shots, 1) * lengths.view(-1, 1, shots)
        squares = within.mean(dim=(1, 2)).view(-1, n_way)
        across = across.view(-1, n_way, shots, across.shape[-1]).mean(dim=2)
        return across, squares.clamp_min(0).sqrt(), query_lengths

    def _scaled(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """Give (b, n, m) vectors of these lengths for (b, m, n) unit ones, one per column."""
        return (vectors * lengths.unsqueeze(-2)).to(self.dtype).mT.contiguous()

    def _gather(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Inner products of unit features, (b, n_rows, n_columns) float64."""
        if self._products is None:
            # Few episodes at a time: their vectors stay in the cache, and memory does not grow with the batch.
            starts = range(0, len(rows), 4)
            parts = [self._unit(rows[i : i + 4]) @ self._unit(columns[i : i + 4]).mT for i in starts]
            return torch.cat(parts)
        if self._products.numel() < 2**31:
            rows, columns = rows.int(), columns.int()
        flat = (rows * len(self._products)).unsqueeze(2) + columns.unsqueeze(1)
        return self._products.view(-1).index_select(0, flat.view(-1)).view(flat.shape)

    def _unit(self, rows: Tensor) -> Tensor:
        return self.features[rows].double() * self._scale[rows].unsqueeze(-1)

    def _all_products(self) -> Tensor:
        everything = torch.arange(len(self.features), device=self.device)
        unit = self._unit(everything)
        products = torch.empty(len(unit), len(unit), dtype=torch.float64, device=self.device)
        for start in range(0, len(unit), _BLOCK):
            torch.matmul(unit[start : start + _BLOCK], unit.mT, out=products[start : start + _BLOCK])
        return products


def _span(among: Tensor, across: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates from inner products of unit vectors.

    Args:
        among: (b, n, n) of those that span the space.
        across: (b, n, n_query) of these with others.

    Returns:
        (b, n + 1, n) coordinates of the first, and (b, n + 1, n_query) of the others, one vector per column.
    """
    factor = _factor(among)
    inside = torch.linalg.solve_triangular(factor, across, upper=False)
    outside = (1 - inside.square().sum(dim=-2, keepdim=True)).clamp_min_(0).sqrt_()
    return torch.nn.functional.pad(factor.mT, (0, 0, 0, 1)), torch.cat([inside, outside], dim=-2)


def _inverse(lengths: Tensor) -> Tensor:
    """One divided by lengths; zero where they are."""
    return torch.where(lengths > 0, 1 / lengths.clamp_min(torch.finfo(lengths.dtype).tiny), 0.0)


def _factor(products: Tensor) -> Tensor:
    """Cholesky factor of (b, n, n) inner products of unit vectors, which may be dependent."""
    for jitter in _JITTERS:
        lifted = products + jitter * torch.eye(products.shape[-1], dtype=products.dtype, device=products.device)
        factor, info = torch.linalg.cholesky_ex(lifted)
        if not bool(info.any()):
            found: Tensor = factor
            return found
    raise AssertionError("unit vectors' products have a factor")  # rounding is far below the largest jitter
