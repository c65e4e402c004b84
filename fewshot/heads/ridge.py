"""Ridge: regularised least squares onto the classes, in closed form.

Ryan Rifkin, Gene Yeo and Tomaso Poggio, "Regularized Least-Squares Classification", 2003; as a few-shot head: Luca
Bertinetto, Joao Henriques, Philip Torr and Andrea Vedaldi, "Meta-learning with differentiable closed-form solvers",
2018, arXiv:1805.08136. A linear function per class is fitted to +1 on its own support features and -1 on the others,
with an L2 penalty and an intercept that is not penalised. One small linear system gives the optimum.

The objective is scikit-learn's ``RidgeClassifier``: with targets Y (n, K) of +-1 and features X (n, d),

    minimise over W (K, d) and b (K):   |X W^T + b - Y|^2 + alpha |W|^2

The intercept takes up the means; with R = X - mean(X) and T = Y - mean(Y) what is left is solved by either of

    W^T = (R^T R + alpha I)^-1 R^T T  =  R^T (R R^T + alpha I)^-1 T

the first as wide as the features, the second as wide as there are samples.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fewshot.heads.base import Head, Shape, State, check_positive, l2_normalise


class RidgeHead(Head):
    """Least squares onto +-1 targets with an L2 penalty; ranks classes as scikit-learn's ``RidgeClassifier`` does.

    Args:
        alpha: strength of the penalty, as in scikit-learn.
        normalize: scale every feature vector to length 1 first.
        temperature: divides the logits. Regression scores stay close to each other where the penalty matters, and are
            no log-probabilities; at the default their softmax is about as sure as it is right on normalised features
            of a few images per class. It never changes which class wins.

    Example:
        >>> head = RidgeHead().fit([[1.0, 0.0], [0.0, 1.0]], ["cat", "dog"])
        >>> head.predict([[0.9, 0.2]]).item()
        'cat'
    """

    isometric: ClassVar[bool] = True

    def __init__(self, *, alpha: float = 1.0, normalize: bool = True, temperature: float = 0.1) -> None:
        self.alpha = alpha
        self.normalize = normalize
        self.temperature = temperature

    def _check_parameters(self) -> None:
        check_positive("alpha", self.alpha)
        check_positive("temperature", self.temperature)

    def _fit(self, support: Tensor, labels: Tensor, n_way: int) -> State:
        features = l2_normalise(support) if self.normalize else support
        targets = 2 * torch.nn.functional.one_hot(labels, n_way).to(features.dtype) - 1
        centre, level = features.mean(dim=-2, keepdim=True), targets.mean(dim=-2, keepdim=True)
        rows, wanted = features - centre, targets - level
        if rows.shape[-1] > rows.shape[-2]:
            weight = _solve(rows @ rows.mT, wanted, self.alpha).mT @ rows
        else:
            weight = _solve(rows.mT @ rows, rows.mT @ wanted, self.alpha).mT
        return {"weight": weight, "bias": (level - centre @ weight.mT).squeeze(-2)}

    def state_shapes(self, n_way: int, n_features: int) -> dict[str, Shape]:
        """State the shapes of the linear classifier."""
        return {"weight": (n_way, n_features), "bias": (n_way,)}

    def _logits(self, state: State, query: Tensor) -> Tensor:
        features = l2_normalise(query) if self.normalize else query
        return (features @ state["weight"].mT + state["bias"].unsqueeze(-2)) / self.temperature


def _solve(gram: Tensor, right: Tensor, alpha: float) -> Tensor:
    """Solve (gram + alpha I) x = right for (*batch, m, m) positive semidefinite matrices."""
    number = torch.finfo(gram.dtype)
    # A penalty below the rounding of the matrix would be lost in it, and leave it without a Cholesky factor.
    trace = gram.diagonal(dim1=-2, dim2=-1).sum(dim=-1, keepdim=True)
    diagonal = (number.eps * trace + alpha).clamp_min(number.tiny).expand(gram.shape[:-1])
    return torch.cholesky_solve(right, torch.linalg.cholesky(gram + torch.diag_embed(diagonal)))
