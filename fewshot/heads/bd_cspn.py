"""BD-CSPN: prototypes rectified against bias (transductive).

Jinlu Liu, Liang Song and Yongqiang Qin, "Prototype Rectification for Few-Shot Learning", 2020, arXiv:1911.10713.
All queries are shifted together so that their mean is the support's, and each is given the class whose prototype is
most similar. Prototypes then become means over both sets, weighted by the exponential of that similarity. Queries are
compared with them where they were, not where they were shifted to.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fewshot.heads.base import TransductiveHead, check_positive, l2_normalise


class BDCSPNHead(TransductiveHead):
    """Cosine to prototypes that pseudo-labelled queries, shifted onto the support, have been averaged into.

    Args:
        temperature: divides the logits: how sure the probabilities are, never which class wins.

    Example:
        >>> head = BDCSPNHead().fit([[1.0, 0.0], [0.0, 1.0]], ["cat", "dog"])
        >>> head.predict([[0.9, 0.2], [0.3, 0.9]]).tolist()
        ['cat', 'dog']
    """

    isometric: ClassVar[bool] = True

    def __init__(self, *, temperature: float = 0.1) -> None:
        self.temperature = temperature

    def _check_parameters(self) -> None:
        check_positive("temperature", self.temperature)

    def _label_jointly(self, support: Tensor, member: Tensor, query: Tensor) -> Tensor:
        support, query = l2_normalise(support), l2_normalise(query)
        prototypes = rectified_prototypes(support, member, query)
        return query @ l2_normalise(prototypes).mT / self.temperature


def rectified_prototypes(support: Tensor, member: Tensor, query: Tensor) -> Tensor:
    """Average support and shifted, pseudo-labelled queries into class means of weight exp(cosine).

    Args:
        support: (*batch, n_support, d) features of length 1.
        member: (*batch, n_support, n_way) one-hot classes.
        query: (*batch, n_query, d) features of length 1.

    Returns:
        (*batch, n_way, d) prototypes, whose length is not 1.
    """
    shifted = query + support.mean(dim=-2, keepdim=True) - query.mean(dim=-2, keepdim=True)
    features = torch.cat([support, shifted], dim=-2)
    means = l2_normalise(member.mT @ support)
    similarity = l2_normalise(features) @ means.mT
    guess = torch.nn.functional.one_hot(similarity[..., support.shape[-2] :, :].argmax(dim=-1), means.shape[-2])
    weight = similarity.exp() * torch.cat([member, guess.to(member.dtype)], dim=-2)
    return weight.mT @ features / weight.sum(dim=-2).unsqueeze(-1)
