"""Linear support vector machine, one class against the rest, with the squared hinge loss.

Corinna Cortes and Vladimir Vapnik, "Support-Vector Networks", 1995; one against the rest: Ryan Rifkin and Aldebaran
Klautau, "In Defense of One-Vs-All Classification", 2004. A linear function per class is to be at least 1 on the
class's own support features and at most -1 on all others; what falls short costs its square, and what is beyond costs
nothing, so that only the features near a boundary shape it.

The objective is scikit-learn's ``LinearSVC``: with targets y of +-1, features x and rows z = [x, 1], for each class

    minimise over v = [w, b]:   |v|^2 / 2 + C sum_i max(0, 1 - y_i v . z_i)^2

in which the intercept is penalised as any other weight. The gradient is continuous and piecewise linear. Where the rows
that fall short are the set A, Newton's step leads to the ridge regression on A alone,

    v = (Z_A^T Z_A + I / (2 C))^-1 Z_A^T y_A

and v is the minimum as soon as A stays the same: after finitely many steps if each is shortened until the objective
falls (S. Sathiya Keerthi and Dennis DeCoste, "A Modified Finite Newton Method for Fast Solution of Large Scale Linear
SVMs", 2005). Few are needed. They start at the ridge regression on all rows, which is the minimum where C is small. The
minimum lies in the span of the support, whose orthonormal basis keeps the systems no wider than there are samples. Wide
ones are solved by conjugate gradients, with the factor that the start needed as the preconditioner of all classes.
"""

from __future__ import annotations

import warnings
from typing import ClassVar

import torch
from torch import Tensor

from fewshot.heads.base import Head, Shape, State, check_positive, l2_normalise


class SVMHead(Head):
    """Linear SVM, one against the rest, squared hinge; decides as scikit-learn's ``LinearSVC`` at its optimum.

    Args:
        C: inverse strength of the penalty, as in scikit-learn.
        normalize: scale every feature vector to length 1 first.
        temperature: divides the logits. Distances from boundaries are no log-probabilities; at the default their
            softmax is about as sure as it is right on normalised features of a few images per class. It never changes
            which class wins.

    Example:
        >>> head = SVMHead().fit([[1.0, 0.0], [0.0, 1.0]], ["cat", "dog"])
        >>> head.predict([[0.9, 0.2]]).item()
        'cat'
    """

    isometric: ClassVar[bool] = True

    def __init__(self, *, C: float = 1.0, normalize: bool = True, temperature: float = 0.15) -> None:
        self.C = C
        self.normalize = normalize
        self.temperature = temperature

    def _check_parameters(self) -> None:
        check_positive("C", self.C)
        check_positive("temperature", self.temperature)

    def _fit(self, support: Tensor, labels: Tensor, n_way: int) -> State:
        features = l2_normalise(support) if self.normalize else support
        if not self.normalize or self.C > _MAX_C:
            # float32 would be too coarse: features of any scale, or hardly a penalty.
            features = features.double()
        targets = 2 * torch.nn.functional.one_hot(labels, n_way).to(features.dtype).mT.contiguous() - 1
        n_samples, width = features.shape[-2:]
        if width > n_samples + 1:
            # One dimension more costs less than the basis.
            basis, _ = torch.linalg.qr(features.mT)
            weight, bias = _by_class(features @ basis, targets, self.C)
            weight = weight @ basis.mT
        else:
            weight, bias = _by_class(features, targets, self.C)
        return {"weight": weight.to(support.dtype), "bias": bias.to(support.dtype)}

    def state_shapes(self, n_way: int, n_features: int) -> dict[str, Shape]:
        """State the shapes of the linear classifiers."""
        return {"weight": (n_way, n_features), "bias": (n_way,)}

    def _logits(self, state: State, query: Tensor) -> Tensor:
        features = l2_normalise(query) if self.normalize else query
        return (features @ state["weight"].mT + state["bias"].unsqueeze(-2)) / self.temperature


_MAX_STEPS = 500
_MAX_C = 10
# Of the squared Newton decrement against the objective: errors in scores are at most about its root.
_TOLERANCE = {torch.float64: 1e-18, torch.float32: 1e-10}
_NARROW = 128
"""Systems up to so wide are solved one by one; wider ones by conjugate gradients that need only one factor."""
_NUMBERS = 1 << 24
"""Classes are solved together as far as they hold about so many numbers: memory does not grow with their count."""


def _by_class(features: Tensor, targets: Tensor, C: float) -> tuple[Tensor, Tensor]:
    """Minimise for (*batch, n, d) features, (*batch, K, n) targets: weights (*batch, K, d), biases (*batch, K)."""
    rows = torch.cat([features, torch.ones_like(features[..., :1])], dim=-1)
    # A narrow system holds each class's own choice of rows, which is the largest thing there is.
    together = targets.shape[-2] if rows.shape[-1] > _NARROW else max(1, _NUMBERS // rows.numel())
    parts = [targets[..., first : first + together, :] for first in range(0, targets.shape[-2], together)]
    found = torch.cat([_newton(rows, part, C) for part in parts], dim=-2)
    return found[..., :-1], found[..., -1]


def _newton(rows: Tensor, targets: Tensor, C: float) -> Tensor:
    """Minimise for (*batch, n, m) rows and (*batch, K, n) targets of +-1: (*batch, K, m)."""
    factor = _factor(rows.mT @ rows, C)
    parameters = torch.cholesky_solve((targets @ rows).mT, factor).mT
    scores = parameters @ rows.mT
    value, short = _objective(scores, targets, parameters, C)
    for _ in range(_MAX_STEPS):
        active = (short > 0).to(rows.dtype)
        if rows.shape[-1] <= _NARROW:
            step = _solve(rows, targets, active, C) - parameters
        else:
            step = _conjugate_gradients(rows, active, (active * targets * short) @ rows, parameters, factor, C)
        along = step @ rows.mT
        # The gradient along the step, from the objective's definition.
        slope = (parameters * step).sum(dim=-1) - 2 * C * (short * targets * along).sum(dim=-1)
        # Rounding of the objective itself: below it a comparison says nothing, and the full step is right.
        noise = 64 * torch.finfo(value.dtype).eps * value
        length = torch.ones_like(value)
        for _ in range(40):
            # Halved until the objective falls as Armijo's rule asks.
            t = length.unsqueeze(-1)
            candidate = parameters + t * step, scores + t * along
            reached, there = _objective(candidate[1], targets, candidate[0], C)
            taken = reached <= value + 1e-4 * length * slope + noise
            if bool(taken.all()):
                break
            length = torch.where(taken, length, length / 2)
        keep = taken.unsqueeze(-1)
        # Exact where those that fall short stay the same, and otherwise as near as this precision tells.
        same = (length == 1) & ((there > 0) == (short > 0)).all(dim=-1)
        done = same | (slope.abs() <= _TOLERANCE[rows.dtype] * value) | ~taken
        parameters, scores = torch.where(keep, candidate[0], parameters), torch.where(keep, candidate[1], scores)
        value, short = torch.where(taken, reached, value), torch.where(keep, there, short)
        if bool(done.all()):
            return parameters
    # Without a penalty to speak of, rounding can keep the decrement above the tolerance for ever, harmlessly.
    if not bool((slope.abs() <= 1e-8 * value).all()):
        warnings.warn(f"The SVM did not converge in {_MAX_STEPS} Newton steps; lower C.", RuntimeWarning, stacklevel=2)
    return parameters


def _factor(gram: Tensor, C: float) -> Tensor:
    """Cholesky factor of gram + I / (2 C), for (*batch, m, m) positive semidefinite matrices."""
    # A penalty below the rounding of the matrix would be lost in it, and leave it without a factor.
    number = torch.finfo(gram.dtype)
    trace = gram.diagonal(dim1=-2, dim2=-1).sum(dim=-1, keepdim=True)
    diagonal = (number.eps * trace + 1 / (2 * C)).clamp_min(number.tiny).expand(gram.shape[:-1])
    factor: Tensor = torch.linalg.cholesky(gram + torch.diag_embed(diagonal))
    return factor


def _solve(rows: Tensor, targets: Tensor, active: Tensor, C: float) -> Tensor:
    """Ridge regression on the rows that (*batch, K, n) ``active`` names by 1: (*batch, K, m)."""
    gram = (active.unsqueeze(-1) * rows.unsqueeze(-3)).mT @ rows.unsqueeze(-3)
    right = ((active * targets) @ rows).unsqueeze(-1)
    return torch.cholesky_solve(right, _factor(gram, C)).squeeze(-1)


def _conjugate_gradients(
    rows: Tensor, active: Tensor, pull: Tensor, parameters: Tensor, factor: Tensor, C: float
) -> Tensor:
    """The same less ``parameters``, without a system per class, where these would be wide.

    Args:
        rows: (*batch, n, m).
        active: (*batch, K, n).
        pull: (*batch, K, m) sum over active rows of target times shortfall.
        parameters: (*batch, K, m).
        factor: (*batch, m, m) of the system with all rows, which preconditions all classes' systems.
        C: of the objective.
    """
    residual = pull - parameters / (2 * C)
    solution, tiny = torch.zeros_like(residual), torch.finfo(rows.dtype).tiny
    eased = torch.cholesky_solve(residual.mT, factor).mT
    direction, power = eased, (residual * eased).sum(dim=-1, keepdim=True)
    target = power * _TOLERANCE[rows.dtype]
    for _ in range(10 * rows.shape[-1]):
        if bool((power <= target).all()):
            break
        image = (active * (direction @ rows.mT)) @ rows + direction / (2 * C)
        length = torch.where(
            power <= target, 0.0, power / (direction * image).sum(dim=-1, keepdim=True).clamp_min(tiny)
        )
        solution, residual = solution + length * direction, residual - length * image
        eased = torch.cholesky_solve(residual.mT, factor).mT
        fresh = torch.where(power <= target, power, (residual * eased).sum(dim=-1, keepdim=True))
        direction, power = eased + fresh / power.clamp_min(tiny) * direction, fresh
    return solution


def _objective(scores: Tensor, targets: Tensor, parameters: Tensor, C: float) -> tuple[Tensor, Tensor]:
    """Value (*batch, K) of the objective, and by how much (*batch, K, n) rows fall short of their targets."""
    short = (1 - targets * scores).clamp_min(0)
    return parameters.square().sum(dim=-1) / 2 + C * short.square().sum(dim=-1), short
