"""LaplacianShot: nearest prototype, and neighbouring queries agree (transductive).

Imtiaz Masud Ziko, Jose Dolz, Eric Granger and Ismail Ben Ayed, "Laplacian Regularized Few-Shot Learning", 2020,
arXiv:2006.15486. Every query is near a prototype, rectified as in BD-CSPN, and similar queries prefer the same class:
a Laplacian term rewards agreement with the nearest neighbours among the queries.

Bound updates minimise it: from y = softmax(-a), with a (n_query, n_way) the squared distances to the prototypes and W
the graph of neighbours, y <- softmax(-a + weight W y) is repeated.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fewshot.heads.base import TransductiveHead, check_count, check_positive, l2_normalise
from fewshot.heads.bd_cspn import rectified_prototypes


class LaplacianShotHead(TransductiveHead):
    """Squared distances to rectified prototypes, smoothed over the graph of nearest queries.

    Queries that are equally near in the last place share it, so that their order does not decide.

    Args:
        k: size of a query's neighbourhood, itself included as in the authors' code: it agrees with k - 1 others.
        laplacian_weight: weight of a neighbour's agreement against one unit of squared distance.
        steps: bound updates.
        temperature: divides the logits after the last update: how sure the probabilities are, never which class wins.

    Example:
        >>> head = LaplacianShotHead().fit([[1.0, 0.0], [0.0, 1.0]], ["cat", "dog"])
        >>> head.predict([[0.9, 0.2], [0.3, 0.9]]).tolist()
        ['cat', 'dog']
    """

    isometric: ClassVar[bool] = True

    def __init__(self, *, k: int = 3, laplacian_weight: float = 0.7, steps: int = 20, temperature: float = 0.2) -> None:
        self.k = k
        self.laplacian_weight = laplacian_weight
        self.steps = steps
        self.temperature = temperature

    def _check_parameters(self) -> None:
        check_count("k", self.k)
        check_count("steps", self.steps)
        check_positive("laplacian_weight", self.laplacian_weight)
        check_positive("temperature", self.temperature)

    def _label_jointly(self, support: Tensor, member: Tensor, query: Tensor) -> Tensor:
        support, query = l2_normalise(support), l2_normalise(query)
        prototypes = rectified_prototypes(support, member, query)
        # -|q - p|^2 less what is the same for all classes of a query, as (*batch, n_way, n_query): a softmax over few
        # classes is several times faster that way round.
        near = 2 * prototypes @ query.mT - prototypes.square().sum(dim=-1, keepdim=True)
        graph = self.laplacian_weight * _neighbours(query, self.k - 1).mT
        logits = near
        for _ in range(self.steps):
            logits = near + torch.softmax(logits, dim=-2) @ graph
        return logits.mT / self.temperature


def _neighbours(query: Tensor, n_others: int) -> Tensor:
    """Graph of the nearest others of (*batch, n_query, d) unit vectors: (*batch, n_query, n_query), rows sum to n."""
    n_others = min(n_others, query.shape[-2] - 1)
    if n_others == 0:
        return query.new_zeros(*query.shape[:-1], query.shape[-2])
    # A step of 64 rounding errors makes equal similarities equal in whatever order their products were summed.
    step = 64 * torch.finfo(query.dtype).eps
    similarity = torch.round(query @ query.mT / step) * step
    itself = torch.eye(query.shape[-2], dtype=torch.bool, device=query.device)
    similarity = similarity.masked_fill(itself, -torch.inf)
    last = similarity.topk(n_others, dim=-1).values[..., -1:]
    nearer, tied = (similarity > last).to(query.dtype), (similarity == last).to(query.dtype)
    places = n_others - nearer.sum(dim=-1, keepdim=True)
    return nearer + tied * (places / tied.sum(dim=-1, keepdim=True))
