"""k nearest neighbours with votes weighted by similarity.

Thomas Cover and Peter Hart, "Nearest neighbor pattern classification", 1967; with weights: Zhirong Wu, Yuanjun Xiong,
Stella Yu and Dahua Lin, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", 2018,
arXiv:1805.01978. The k support features with the largest cosine vote for their classes, each with weight
exp(cosine / temperature). Nothing is learned beyond the support.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fewshot.heads.base import Head, Shape, State, check_count, check_positive, l2_normalise


class KNNHead(Head):
    """Votes of the k most similar support features, by cosine.

    Support features that are equally similar to a query in k-th place all vote, so that neither their order nor
    rounding decides; a tie between classes goes to the first in order.

    Args:
        k: neighbours that vote; all of the support where it has fewer.
        temperature: a vote's weight is exp(cosine / temperature): the smaller, the more the nearest decides.

    Example:
        >>> head = KNNHead(k=1).fit([[1.0, 0.0], [0.0, 1.0]], ["cat", "dog"])
        >>> head.predict([[0.9, 0.2]]).item()
        'cat'
    """

    isometric: ClassVar[bool] = True

    def __init__(self, *, k: int = 3, temperature: float = 0.07) -> None:
        self.k = k
        self.temperature = temperature

    def _check_parameters(self) -> None:
        check_count("k", self.k)
        check_positive("temperature", self.temperature)

    def _fit(self, support: Tensor, labels: Tensor, n_way: int) -> State:
        member = torch.nn.functional.one_hot(labels, n_way).to(support.dtype)
        return {"support": l2_normalise(support), "member": member}

    def state_shapes(self, n_way: int, n_features: int) -> dict[str, Shape]:
        """State the shapes of the support and of its classes."""
        return {"support": ("n_support", n_features), "member": ("n_support", n_way)}

    def _logits(self, state: State, query: Tensor) -> Tensor:
        # A step of 64 rounding errors makes equal similarities equal in whatever order their products were summed.
        step = 64 * torch.finfo(query.dtype).eps
        similarity = torch.round(l2_normalise(query) @ state["support"].mT / step) * step
        best = similarity.topk(min(self.k, similarity.shape[-1]), dim=-1).values
        vote = torch.exp((similarity - best[..., :1]) / self.temperature)
        votes = torch.where(similarity >= best[..., -1:], vote, torch.zeros_like(vote)) @ state["member"]
        return torch.log(votes + _DOUBT)


# What every class has without a vote, where the nearest neighbour's vote counts 1: a class that no neighbour is of
# is unlikely, not impossible.
_DOUBT = 0.1
