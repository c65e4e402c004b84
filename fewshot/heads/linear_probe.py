"""Linear probe: multinomial logistic regression on frozen features.

Guillaume Alain and Yoshua Bengio, "Understanding intermediate layers using linear classifier probes", 2016,
arXiv:1610.01644; as the strong few-shot baseline: Yinbo Chen et al., "Meta-Baseline", 2021, arXiv:2003.04390, and
Yonglong Tian et al., "Rethinking Few-Shot Image Classification", 2020, arXiv:2003.11539. A linear classifier with an
L2 penalty is fitted to its optimum on L2-normalised features; nothing of the network changes.

The objective is scikit-learn's ``LogisticRegression``: with one-hot targets Y (n, K), features X (n, d),

    minimise over W (K, d) and b (K):   sum_i -log softmax(W x_i + b)[y_i] + |W|^2 / (2 C)

It is minimised by Newton's method. With P the predicted probabilities, a step V solves H V = G, where for
parameters' rows Z = [X, 1]

    G = (P - Y)^T Z + [W, 0] / C,          H V = (P * A - P (P . A))^T Z + [V, 0] / C   with A = Z V^T

so H is applied with two matrix products and never formed, and conjugate gradients solve for V. Their preconditioner is
H at the start, where P is uniform and H is Z^T Z / K + [I, 0] / C for every class: one small factor per episode, after
which two or three iterations do. The intercepts have a null direction (adding the same to all of them changes nothing):
G has no component along it but for rounding, which is projected away, because H could never reduce it.
"""

from __future__ import annotations

import warnings
from typing import ClassVar

import torch
from torch import Tensor

from fewshot.heads.base import Head, Shape, State, check_positive, l2_normalise


class LinearProbe(Head):
    """Multinomial logistic regression with an L2 penalty, fitted to its optimum.

    Args:
        C: inverse strength of the penalty, as in scikit-learn.
        normalize: scale every feature vector to length 1 first.

    Example:
        >>> head = LinearProbe().fit([[1.0, 0.0], [0.0, 1.0]], ["cat", "dog"])
        >>> head.predict([[0.9, 0.2]]).item()
        'cat'
    """

    isometric: ClassVar[bool] = True

    def __init__(self, *, C: float = 1.0, normalize: bool = True) -> None:
        self.C = C
        self.normalize = normalize

    def _check_parameters(self) -> None:
        check_positive("C", self.C)

    def _fit(self, support: Tensor, labels: Tensor, n_way: int) -> State:
        features = l2_normalise(support) if self.normalize else support
        if not self.normalize or self.C > _MAX_C:
            # float32 would be too coarse: features of any scale, or hardly a penalty.
            features = features.double()
        # The intercepts make up for any shift, and without one numbers stay small.
        centre = features.mean(dim=-2, keepdim=True)
        features = features - centre
        targets = torch.nn.functional.one_hot(labels, n_way).to(features.dtype)
        # With two classes scikit-learn penalises the one vector w = w_1 - w_2, and |w|^2 = 2 |W|^2 at the optimum.
        penalty = (2 if n_way == 2 else 1) / self.C
        n_samples, width = features.shape[-2:]
        if width > n_samples + 1:
            # The optimum lies in the span of the support; in an orthonormal basis of it, norms and products are the
            # same and the problem is as wide as there are samples. One dimension more costs less than the basis.
            basis, _ = torch.linalg.qr(features.mT)
            weight, bias = _newton(features @ basis, targets, penalty)
            weight = weight @ basis.mT
        else:
            weight, bias = _newton(features, targets, penalty)
        bias = bias - (weight @ centre.mT).squeeze(-1)
        return {"weight": weight.to(support.dtype), "bias": bias.to(support.dtype)}

    def state_shapes(self, n_way: int, n_features: int) -> dict[str, Shape]:
        """State the shapes of the linear classifier."""
        return {"weight": (n_way, n_features), "bias": (n_way,)}

    def _logits(self, state: State, query: Tensor) -> Tensor:
        features = l2_normalise(query) if self.normalize else query
        return features @ state["weight"].mT + state["bias"].unsqueeze(-2)


# About five Newton steps are needed. The squared Newton decrement G . H^-1 G estimates twice the distance of the
# objective from its minimum, whatever the scale of the features. In float32 the tolerance leaves errors of less than a
# millionth in probabilities, and below it is rounding.
_MAX_STEPS = 100
_MAX_C = 1e3
_TOLERANCE = {torch.float64: 1e-18, torch.float32: 1e-10}
# The least accuracy asked of a step; far from the optimum less is asked.
_FINEST = {torch.float64: 1e-6, torch.float32: 0.05}


def _newton(features: Tensor, targets: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Minimise the objective; (*batch, n, d) and (*batch, n, K) to weights (*batch, K, d) and biases (*batch, K)."""
    rows = torch.cat([features, torch.ones_like(features[..., :1])], dim=-1)
    # Classes before samples: sums over a short last dimension are many times slower.
    truth = targets.mT.contiguous()
    penalty = torch.full((rows.shape[-1],), strength, dtype=rows.dtype, device=rows.device)
    penalty[-1] = 0
    inverse = _preconditioner(rows, penalty, truth.shape[-2])
    parameters = rows.new_zeros(*truth.shape[:-1], rows.shape[-1])
    scores = torch.zeros_like(truth)
    value, proba = _objective(scores, truth, parameters, penalty)
    for _ in range(_MAX_STEPS):
        gradient = (proba - truth) @ rows + parameters * penalty
        gradient[..., -1] -= gradient[..., -1].mean(dim=-1, keepdim=True)
        step, along = _conjugate_gradients(rows, proba, penalty, gradient, inverse)
        decrement = (gradient * step).sum(dim=(-2, -1))
        length = torch.ones_like(value)
        # Rounding of the objective itself: below it a comparison says nothing, and the full step is right.
        noise = 64 * torch.finfo(value.dtype).eps * value.abs()
        for _ in range(40):
            # Halved until the objective falls as Armijo's rule asks.
            t = length[..., None, None]
            candidate = parameters - t * step, scores - t * along
            reached, there = _objective(candidate[1], truth, candidate[0], penalty)
            taken = reached <= value - 1e-4 * length * decrement + noise
            if bool(taken.all()):
                break
            length = torch.where(taken, length, length / 2)
        keep = taken[..., None, None]
        parameters, scores = torch.where(keep, candidate[0], parameters), torch.where(keep, candidate[1], scores)
        value, proba = torch.where(taken, reached, value), torch.where(keep, there, proba)
        # The last step was within the precision wanted, or no step improves at this precision.
        if bool(((decrement <= _TOLERANCE[rows.dtype] * value.clamp_min(1)) | ~taken).all()):
            break
    # Without a penalty to speak of, rounding can keep the decrement above the tolerance for ever, harmlessly.
    if not bool((decrement <= 1e-8 * value.clamp_min(1)).all()):
        warnings.warn(
            f"The linear probe did not converge in {_MAX_STEPS} Newton steps; lower C.",
            RuntimeWarning,
            stacklevel=2,
        )
    return parameters[..., :-1], parameters[..., -1]


def _objective(scores: Tensor, truth: Tensor, parameters: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor]:
    """Value (*batch,) of the objective, and probabilities (*batch, K, n)."""
    top = scores.amax(dim=-2, keepdim=True)
    shares = (scores - top).exp_()
    total = shares.sum(dim=-2, keepdim=True)
    loss = (total.log() + top).sum(dim=(-2, -1)) - (scores * truth).sum(dim=(-2, -1))
    return loss + 0.5 * (parameters.square() * penalty).sum(dim=(-2, -1)), shares / total


def _preconditioner(rows: Tensor, penalty: Tensor, n_way: int) -> Tensor:
    """Inverse (*batch, d + 1, d + 1) of the curvature at uniform probabilities, the same for every class."""
    exact = rows.double()
    curvature = exact.mT @ exact / n_way + torch.diag(penalty.double())
    factor, info = torch.linalg.cholesky_ex(curvature)
    if bool(info.any()):
        # Beyond what rounding allows: the diagonal alone still preconditions.
        return torch.diag_embed(1 / curvature.diagonal(dim1=-2, dim2=-1)).to(rows.dtype)
    return torch.cholesky_inverse(factor).to(rows.dtype)


def _conjugate_gradients(
    rows: Tensor, proba: Tensor, penalty: Tensor, gradient: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor]:
    """Solve H V = gradient for every episode at once, to a precision that tightens near the optimum.

    Returns:
        (*batch, K, d + 1) the step V, and (*batch, K, n) its scores V Z^T.
    """
    solution, along_solution = torch.zeros_like(gradient), torch.zeros_like(proba)
    residual = gradient.clone()
    eased = residual @ inverse
    direction = eased.clone()
    power = (residual * eased).sum(dim=(-2, -1), keepdim=True)
    # min(0.1, |g|) is the forcing term that makes an inexact Newton method converge quadratically; asking for more
    # than rounding allows would let the residual grow again.
    target = power * torch.clamp(power.sqrt(), min=_FINEST[rows.dtype], max=0.1).square()
    tiny = torch.finfo(rows.dtype).tiny
    for _ in range(2 * gradient.shape[-1] * gradient.shape[-2]):
        if bool((power <= target).all()):
            break
        along = direction @ rows.mT
        weighed = proba * along
        image = (weighed - proba * weighed.sum(dim=-2, keepdim=True)) @ rows + direction * penalty
        # Along the intercepts' null direction there is only rounding, which no step could take away again.
        image[..., -1] -= image[..., -1].mean(dim=-1, keepdim=True)
        slope = (direction * image).sum(dim=(-2, -1), keepdim=True)
        # Solved, or at the end of what this precision can tell.
        length = torch.where((power <= target) | (slope <= 0), 0.0, power / slope.clamp_min(tiny))
        solution = solution + length * direction
        along_solution = along_solution + length * along
        residual = residual - length * image
        eased = residual @ inverse
        fresh = torch.where(power <= target, power, (residual * eased).sum(dim=(-2, -1), keepdim=True))
        direction = eased + fresh / power.clamp_min(tiny) * direction
        power = fresh
    return solution, along_solution
