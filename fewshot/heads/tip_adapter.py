"""Tip-Adapter: a key-value cache of the support, added to a classifier that needs no training.

Renrui Zhang, Wei Zhang, Rongyao Fang, Peng Gao, Kunchang Li, Jifeng Dai, Yu Qiao and Hongsheng Li, "Tip-Adapter:
Training-free Adaption of CLIP for Few-shot Classification", 2022, arXiv:2207.09519. Every support feature is a key and
its class a value; a query sums the values of the keys near it, and adds the sum to the logits of a classifier made from
the classes' names. Networks without a text encoder have no such classifier, so here class means take its place.

With unit features f, keys F (n, d), their one-hot classes Y (n, n_way) and class means w_k of length 1,

    logits_k = f . w_k / temperature  +  alpha sum_i exp(-beta (1 - f . F_i)) Y_ik

The sum over keys grows with the number of support features of a class, as in the paper, which has equally many of each.
With one of each, both terms rank classes alike, as the nearest mean does.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fewshot.heads.base import Head, Shape, State, check_positive, l2_normalise


class TipAdapterHead(Head):
    """Cosine to class means, plus what the support features near a query are.

    Args:
        alpha: weight of the cache against the class means. 1 is the authors' default, as 5.5 is for ``beta``; the
            values of the published results were searched for on the test sets, so that those are too good.
        beta: how fast a key's say falls with its distance.
        temperature: divides the cosines to class means, as in ``prototypical``.

    Example:
        >>> head = TipAdapterHead().fit([[1.0, 0.0], [0.0, 1.0]], ["cat", "dog"])
        >>> head.predict([[0.9, 0.2]]).item()
        'cat'
    """

    isometric: ClassVar[bool] = True

    def __init__(self, *, alpha: float = 1.0, beta: float = 5.5, temperature: float = 0.1) -> None:
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature

    def _check_parameters(self) -> None:
        check_positive("alpha", self.alpha)
        check_positive("beta", self.beta)
        check_positive("temperature", self.temperature)

    def _fit(self, support: Tensor, labels: Tensor, n_way: int) -> State:
        keys = l2_normalise(support)
        values = torch.nn.functional.one_hot(labels, n_way).to(support.dtype)
        return {"keys": keys, "values": values, "prototypes": l2_normalise(values.mT @ keys)}

    def state_shapes(self, n_way: int, n_features: int) -> dict[str, Shape]:
        """State the shapes of the cache and of the class means."""
        return {
            "keys": ("n_support", n_features),
            "values": ("n_support", n_way),
            "prototypes": (n_way, n_features),
        }

    def _logits(self, state: State, query: Tensor) -> Tensor:
        query = l2_normalise(query)
        near = torch.exp(self.beta * (query @ state["keys"].mT - 1))
        return query @ state["prototypes"].mT / self.temperature + self.alpha * near @ state["values"]
