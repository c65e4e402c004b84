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

from fewshot.products import PlainProducts, Products, WeighedProducts
from fewshot.representation.base import Parts

DEFAULT_BUDGET = 256 << 20
"""Bytes that the inner products of a data set may take: up to 5,793 rows."""
_JITTERS = (1e-12, 1e-9, 1e-6)


class EpisodeSpace:
    """The features of a data set, as episodes see them.

    Args:
        features: (n, d) of any scale.
        parts: in place of features, those of a representation, which each episode weighs by its support.
        budget: bytes for the inner products of all pairs; where they take more, each episode's own are computed.
        dtype: of the coordinates.
        device: where heads compute.

    Raises:
        InvalidInputError: features of another shape, or NaN or infinite ones.
    """

    def __init__(
        self,
        features: NDArray[np.floating] | None = None,
        *,
        parts: Parts | None = None,
        budget: int = DEFAULT_BUDGET,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> None:
        self.dtype = dtype
        self.device = device
        self._products: Products
        if parts is not None:
            self._products = WeighedProducts(parts, budget=budget, device=device)
        else:
            self._products = PlainProducts(np.asarray(features), budget=budget, device=device)

    @property
    def width(self) -> int:
        """Number of features."""
        return self._products.width

    def vectors(self, support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Gather the features themselves: (b, n_support, d) and (b, n_query, d) of (b, n) rows."""
        weights = self._products.weights(support)
        supports, queries = (self._products.vectors(rows, weights).to(self.dtype) for rows in (support, query))
        return supports, queries

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
        products, weights = self._products, self._products.weights(support)
        if jointly:
            rows = torch.cat([support, query], dim=1)
            lengths = products.lengths(rows, weights)
            both = (_factor(products.units(rows, rows, weights)) * lengths.unsqueeze(-1)).to(self.dtype)
            return both[:, :n_support], both[:, n_support:]
        supports, queries = _span(products.units(support, support, weights), products.units(support, query, weights))
        return (
            self._scaled(supports, products.lengths(support, weights)),
            self._scaled(queries, products.lengths(query, weights)),
        )

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
        products, weights = self._products, self._products.weights(support)
        across = products.units(support, query, weights)
        lengths, query_lengths = products.lengths(support, weights), products.lengths(query, weights)
        if unit:
            lengths, query_lengths = lengths.sign(), query_lengths.sign()
        else:
            across.mul_(lengths.unsqueeze(-1)).mul_(query_lengths.unsqueeze(-2))
        if shots is None:
            member = torch.nn.functional.one_hot(labels, n_way).to(across.dtype)
            means = (member / member.sum(dim=1, keepdim=True)).mT
            among = products.units(support, support, weights) * lengths.unsqueeze(-1) * lengths.unsqueeze(-2)
            return means @ across, ((means @ among) * means).sum(dim=-1).clamp_min(0).sqrt(), query_lengths
        if shots == 1:
            return across, lengths, query_lengths
        # Of the products among support, only those within a class matter.
        each = support.reshape(-1, shots)
        # Each class of an episode is weighed as its episode is.
        within = products.units(each, each, None if weights is None else weights.repeat_interleave(n_way, dim=0))
        if not unit:
            within = within * lengths.view(-1, shots, 1) * lengths.view(-1, 1, shots)
        squares = within.mean(dim=(1, 2)).view(-1, n_way)
        across = across.view(-1, n_way, shots, across.shape[-1]).mean(dim=2)
        return across, squares.clamp_min(0).sqrt(), query_lengths

    def _scaled(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """Give (b, n, m) vectors of these lengths for (b, m, n) unit ones, one per column."""
        return (vectors * lengths.unsqueeze(-2)).to(self.dtype).mT.contiguous()


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


def _factor(products: Tensor) -> Tensor:
    """Cholesky factor of (b, n, n) inner products of unit vectors, which may be dependent."""
    for jitter in _JITTERS:
        lifted = products + jitter * torch.eye(products.shape[-1], dtype=products.dtype, device=products.device)
        factor, info = torch.linalg.cholesky_ex(lifted)
        if not bool(info.any()):
            found: Tensor = factor
            return found
    raise AssertionError("unit vectors' products have a factor")  # rounding is far below the largest jitter
