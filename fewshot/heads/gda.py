"""Gaussian discriminant analysis with a shrunk covariance.

Zhengbo Wang, Jian Liang, Lijun Sheng, Ran He, Zilei Wang and Tieniu Tan, "A Hard-to-Beat Baseline for Training-free
CLIP-based Adaptation", 2024, arXiv:2402.04087. Every class is a Gaussian around the mean of its support features, all
with the same covariance, which is estimated within the classes and shrunk towards a multiple of the identity. Bayes'
rule with equally likely classes then gives a linear classifier.

With R (n, d) the features less the means of their classes, and s = |R|^2 / (n - 1) the trace of their covariance, the
paper's estimate is, up to a factor that only scales the logits (there, the number of dimensions; here, one that
makes it the plain covariance when n grows, and that the answers do not depend on the space the features are given in),

    C = M / n,   M = R^T R + s I,     logits_k = (x - m) C^-1 (mu_k - m) - (mu_k - m) C^-1 (mu_k - m) / 2

where m, the mean of all features, cancels and only keeps digits. M's condition is below n, and where d > n it is
inverted among the samples: M^-1 = (I - R^T (s I + R R^T)^-1 R) / s.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fewshot.heads.base import Head, Shape, State, check_positive, l2_normalise


class GDAHead(Head):
    """Gaussian classes with one shrunk covariance; nearest mean where no class varies, as with one image per class.

    Where all support features of a class are equal, for every class, there is nothing to estimate a covariance within
    classes from: C is then a multiple of the identity whose trace is that of the support as a whole.

    Args:
        normalize: scale every feature vector to length 1 first.
        temperature: divides the logits: how sure the probabilities are, never which class wins.

    Example:
        >>> head = GDAHead().fit([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.2, 0.9]], ["cat", "cat", "dog", "dog"])
        >>> head.predict([[0.9, 0.2]]).item()
        'cat'
    """

    isometric: ClassVar[bool] = True

    def __init__(self, *, normalize: bool = True, temperature: float = 1.0) -> None:
        self.normalize = normalize
        self.temperature = temperature

    def _check_parameters(self) -> None:
        check_positive("temperature", self.temperature)

    def _fit(self, support: Tensor, labels: Tensor, n_way: int) -> State:
        features = l2_normalise(support) if self.normalize else support
        member = torch.nn.functional.one_hot(labels, n_way).to(features.dtype)
        # Everything about the overall mean, so that features far from the origin keep their digits.
        centre = features.mean(dim=-2, keepdim=True)
        features = features - centre
        means = member.mT @ features / member.sum(dim=-2).unsqueeze(-1)
        residual = features - member @ means
        weight = _inverse_covariance_times(means, residual, _spread(residual, features))
        return {"weight": weight, "bias": -(weight * means).sum(dim=-1) / 2, "centre": centre}

    def state_shapes(self, n_way: int, n_features: int) -> dict[str, Shape]:
        """State the shapes of the linear classifier and of what it is applied about."""
        return {"weight": (n_way, n_features), "bias": (n_way,), "centre": (1, n_features)}

    def _logits(self, state: State, query: Tensor) -> Tensor:
        features = l2_normalise(query) if self.normalize else query
        return ((features - state["centre"]) @ state["weight"].mT + state["bias"].unsqueeze(-2)) / self.temperature


# Support features that differ within their classes by less than a thousandth of their differences overall are copies
# of one image per class, and rounding: they say nothing about how a class varies.
_NO_VARIATION = 1e-6


def _spread(residual: Tensor, features: Tensor) -> Tensor:
    """Trace of the covariance within classes, or overall where there is none within: (*batch, 1, 1)."""
    within = residual.square().sum(dim=(-2, -1), keepdim=True)
    overall = features.square().sum(dim=(-2, -1), keepdim=True)
    scatter = torch.where(within > _NO_VARIATION * overall, within, overall)
    # All features equal: no class is nearer than another, whatever the scale.
    return torch.where(scatter > 0, scatter, torch.ones_like(scatter)) / (features.shape[-2] - 1)


def _inverse_covariance_times(means: Tensor, residual: Tensor, spread: Tensor) -> Tensor:
    """C^-1 mu_k for (*batch, n_way, d) means and (*batch, n, d) residuals: (*batch, n_way, d)."""
    n_samples, width = residual.shape[-2:]
    wide = width > n_samples
    gram = residual @ residual.mT if wide else residual.mT @ residual
    shrunk = gram + spread * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    factor = torch.linalg.cholesky(shrunk)
    if wide:
        inverse = (means - torch.cholesky_solve(residual @ means.mT, factor).mT @ residual) / spread
    else:
        inverse = torch.cholesky_solve(means.mT, factor).mT
    return n_samples * inverse
