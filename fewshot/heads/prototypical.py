"""Prototypical classification: nearest class mean.

Jake Snell, Kevin Swersky and Richard Zemel, "Prototypical Networks for Few-shot Learning", 2017, arXiv:1703.05175.
Each class is represented by the mean of its support features, and a query belongs to the class whose mean is
closest. With cosine similarity on L2-normalised features this is the nearest-centroid rule of SimpleShot (Wang et
al. 2019, arXiv:1911.04623) without centring.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fewshot.heads.base import Head, Shape, State, check_choice, check_positive, l2_normalise


class PrototypicalHead(Head):
    """Nearest class mean, by cosine similarity or Euclidean distance.

    Args:
        metric: ``"cosine"`` (features and class means on the unit sphere) or ``"euclidean"`` (features as they are).
        temperature: divides the logits: cosine times 1/temperature, or -||q - p||^2 / (2 temperature). It changes how
            sure the probabilities are, never which class wins.

    Example:
        >>> head = PrototypicalHead().fit([[1.0, 0.0], [0.0, 1.0]], ["cat", "dog"])
        >>> head.predict([[0.9, 0.2]]).item()
        'cat'
    """

    isometric: ClassVar[bool] = True

    def __init__(self, *, metric: str = "cosine", temperature: float = 0.1) -> None:
        self.metric = metric
        self.temperature = temperature

    @property
    def learns_from(self) -> str:
        """Class means: of unit features for the cosine, which is the same for means of any length."""
        return "unit means" if self.metric == "cosine" else "means"

    def _check_parameters(self) -> None:
        check_choice("metric", self.metric, ("cosine", "euclidean"))
        check_positive("temperature", self.temperature)

    def _fit(self, support: Tensor, labels: Tensor, n_way: int) -> State:
        if self.metric == "cosine":
            support = l2_normalise(support)
        member = torch.nn.functional.one_hot(labels, n_way).to(support.dtype)
        means = member.mT @ support / member.sum(dim=-2).unsqueeze(-1)
        return {"prototypes": l2_normalise(means) if self.metric == "cosine" else means}

    def state_shapes(self, n_way: int, n_features: int) -> dict[str, Shape]:
        """State the shapes of the prototypes."""
        return {"prototypes": (n_way, n_features)}

    def _logits(self, state: State, query: Tensor) -> Tensor:
        prototypes = state["prototypes"]
        if self.metric == "cosine":
            return l2_normalise(query) @ prototypes.mT / self.temperature
        # Differences, not |q|^2 - 2qp + |p|^2: that form loses digits where features are far from the origin.
        return -(torch.cdist(query, prototypes, compute_mode="donot_use_mm_for_euclid_dist") ** 2) / (
            2 * self.temperature
        )

    def _logits_of_means(self, products: Tensor, mean_lengths: Tensor, query_lengths: Tensor) -> Tensor:
        if self.metric == "cosine":
            # Products are those of unit queries; a mean of zero is equally far from all.
            scale = torch.where(mean_lengths > 0, 1 / (self.temperature * mean_lengths), 0.0)
            return products * scale.unsqueeze(-1)
        # -|q - p|^2 / 2 from products in float64, so that little is lost.
        half = products - (mean_lengths.square() / 2).unsqueeze(-1)
        return half.sub_((query_lengths.square() / 2).unsqueeze(-2)).mul_(1 / self.temperature)
