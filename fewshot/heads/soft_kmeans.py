"""Soft k-means: prototypes refined by the queries themselves (transductive).

Mengye Ren, Eleni Triantafillou, Sachin Ravi, Jake Snell, Kevin Swersky, Joshua Tenenbaum, Hugo Larochelle and Richard
Zemel, "Meta-Learning for Semi-Supervised Few-Shot Classification", 2018, arXiv:1803.00676. Starting from the means of
the support features, every query is shared among the classes by its similarity to their prototypes, and every
prototype becomes the mean of its support and of its shares of the queries. Support features keep their classes.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fewshot.heads.base import TransductiveHead, check_count, check_positive, l2_normalise


class SoftKMeansHead(TransductiveHead):
    """Class means of the support and, by soft assignment, of the queries, all by cosine similarity.

    Args:
        steps: times that prototypes are moved.
        temperature: divides cosines, both where queries are shared among classes and in the logits.

    Example:
        >>> head = SoftKMeansHead().fit([[1.0, 0.0], [0.0, 1.0]], ["cat", "dog"])
        >>> head.predict([[0.9, 0.2], [0.3, 0.9]]).tolist()
        ['cat', 'dog']
    """

    isometric: ClassVar[bool] = True

    def __init__(self, *, steps: int = 3, temperature: float = 0.1) -> None:
        self.steps = steps
        self.temperature = temperature

    def _check_parameters(self) -> None:
        check_count("steps", self.steps)
        check_positive("temperature", self.temperature)

    def _label_jointly(self, support: Tensor, member: Tensor, query: Tensor) -> Tensor:
        support, query = l2_normalise(support), l2_normalise(query)
        labelled, count = member.mT @ support, member.sum(dim=-2)
        logits = self._similarity(query, labelled)
        for _ in range(self.steps):
            share = torch.softmax(logits, dim=-1)
            means = (labelled + share.mT @ query) / (count + share.sum(dim=-2)).unsqueeze(-1)
            logits = self._similarity(query, means)
        return logits

    def _similarity(self, query: Tensor, prototypes: Tensor) -> Tensor:
        return query @ l2_normalise(prototypes).mT / self.temperature
