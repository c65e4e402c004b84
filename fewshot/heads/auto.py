"""Auto: logistic regression, ridge and shrunk Gaussians averaged, or the one of them that the images speak for.

No method of one paper. On normalised features of few images three linear classifiers lead: logistic regression with a
weak penalty, ridge regression (Rifkin et al., 2003) and Gaussian discriminant analysis with a shrunk covariance (Wang
et al. 2024, arXiv:2402.04087). Their average is the default, since it is hardly ever worse than the best of them. Where
every class has two images or more, some of each class are held out in turn; another choice replaces the default only
if its loss on held-out images is lower by more than one standard error of the paired differences. With one image of a
class nothing can be held out, and the default stays.

**One linear classifier.** Each member m gives scores z_m = W_m f + b_m on unit features f. They are brought to one
scale by s_m, the mean over the support of the score of the own class minus the mean of the other classes' scores, and
averaged with weights a:

    logits = (sum_m a_m z_m / s_m) / T = W f + b

**Temperature.** A prior T0 says how sure a classifier may be that separates its own support by 1: held-out images lie
nearer to the boundary than those learned from. Held-out images correct it: T is where

    sum over held-out images of -log softmax(z / T)[own class]  +  (log T - log T0)^2 / (2 spread^2)

is least, over a grid. With one image of a class the prior alone decides. T0 was measured on data sets that no result is
reported on.
"""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewshot.calibration import MARGIN_SHARE
from fewshot.heads.base import Head, Shape, State, check_count, check_positive, l2_normalise
from fewshot.heads.gda import GDAHead
from fewshot.heads.linear_probe import LinearProbe
from fewshot.heads.ridge import RidgeHead
from fewshot.held_out import HeldOut

MEMBERS = ("linear-probe", "ridge", "gda")
_CHOICES = torch.tensor([[1 / 3, 1 / 3, 1 / 3], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
"""Weights of the members under each choice: the default first."""


class _Linear(NamedTuple):
    """Linear classifiers: (*batch, n_members, n_way, d) weights and (*batch, n_members, n_way) biases."""

    weight: Tensor
    bias: Tensor

    def scores(self, features: Tensor) -> Tensor:
        """Score (*batch, n, d) unit features: (*batch, n_members, n, n_way)."""
        return features.unsqueeze(-3) @ self.weight.mT + self.bias.unsqueeze(-2)


class AutoHead(Head):
    """An average of linear classifiers, or one of them where held-out training images say so by a standard error.

    Args:
        C: of the linear probe.
        alpha: of ridge.
        max_folds: how often parts of the support are held out, at most; never more than the images of any class.
        views: rows of the support come in runs of so many views of one image, which are held out together; the first is
            asked about.
        margin_share: temperature, as a share of the margin on the support, before any image was held out.
        spread: standard deviation of the logarithm of the temperature about that.

    Example:
        >>> head = AutoHead().fit([[1.0, 0.0], [0.0, 1.0]], ["cat", "dog"])
        >>> head.predict([[0.9, 0.2]]).item()
        'cat'
    """

    isometric: ClassVar[bool] = True
    calibrated: ClassVar[bool] = True

    def __init__(
        self,
        *,
        C: float = 30.0,
        alpha: float = 0.2,
        max_folds: int = 5,
        views: int = 1,
        margin_share: float = 0.13,
        spread: float = 0.3,
    ) -> None:
        self.C = C
        self.alpha = alpha
        self.max_folds = max_folds
        self.views = views
        self.margin_share = margin_share
        self.spread = spread

    def _check_parameters(self) -> None:
        check_count("max_folds", self.max_folds)
        check_count("views", self.views)
        for name in ("C", "alpha", "margin_share", "spread"):
            check_positive(name, getattr(self, name))

    def _fit(self, support: Tensor, labels: Tensor, n_way: int) -> State:
        images, codes = _in_order(_by_image(l2_normalise(support), self.views), labels[..., :: self.views])
        if codes.ndim > 1 and bool((codes != codes[:1]).any()):
            # Classes of other sizes in each episode: what is held out differs, too.
            states = [self._fit(one, own, n_way) for one, own in zip(support, labels, strict=True)]
            return {name: torch.stack([state[name] for state in states]) for name in states[0]}
        images, basis = _in_span(images)
        classes = codes.reshape(-1, codes.shape[-1])[0]
        members = self._members(images, codes, n_way)
        weights, temperature, gain, error = self._decide(self._held_out(images, codes, classes, n_way), classes, images)
        weight = torch.einsum("...m,...mkd->...kd", weights, members.weight) / temperature[..., None, None]
        return {
            "weight": weight if basis is None else weight @ basis.mT,
            "bias": torch.einsum("...m,...mk->...k", weights, members.bias) / temperature[..., None],
            "weights": weights,
            "gain": gain,
            "error": error,
            "temperature": temperature,
        }

    def answer_held_out(self, samples: NDArray[np.float32], codes: NDArray[np.int64]) -> HeldOut:
        """Ask of every training image what the fitted choice, learned from others, says of it.

        Args:
            samples: (n, views, d) what it was fitted on; the first view of each image is asked about.
            codes: (n,) positions of classes.
        """
        with torch.no_grad():
            n_way = len(self.classes_)
            images, labels = _in_order(
                _by_image(l2_normalise(torch.from_numpy(samples.astype(np.float64)).flatten(0, 1)), samples.shape[1]),
                torch.from_numpy(codes.astype(np.int64)),
            )
            scores = self._held_out(_in_span(images)[0], labels, labels, n_way)
        if scores is None:
            return HeldOut(np.empty((0, n_way)), np.empty(0, np.intp), np.empty(0))
        mixed = torch.einsum("m,mnk->nk", self.state_["weights"], scores) / self.state_["temperature"]
        # They have their temperature already, which others get by their margin.
        return HeldOut(mixed.numpy(), labels.numpy().astype(np.intp), np.full(len(labels), 1 / MARGIN_SHARE))

    def state_shapes(self, n_way: int, n_features: int) -> dict[str, Shape]:
        """State the shapes of the linear classifier, and of what it was chosen by."""
        chosen: dict[str, Shape] = {"weights": (len(MEMBERS),), "gain": (), "error": (), "temperature": ()}
        return {"weight": (n_way, n_features), "bias": (n_way,)} | chosen

    def _logits(self, state: State, query: Tensor) -> Tensor:
        return l2_normalise(query) @ state["weight"].mT + state["bias"].unsqueeze(-2)

    def explain(self) -> str:
        """Say in one sentence why the fitted classifier is what it is."""
        weights, gain, error = (self.state_[name] for name in ("weights", "gain", "error"))
        chosen = [name for name, weight in zip(MEMBERS, weights.tolist(), strict=True) if weight > 0]
        average = f"the average of {', '.join(MEMBERS[:-1])} and {MEMBERS[-1]}"
        if float(error) < 0:
            return (
                f"Chose {average}, the default: with one image of a class none can be held out to compare methods on."
            )
        figures = f"by {float(gain):.4f} (standard error {float(error):.4f}) in log-loss on held-out training images"
        if len(chosen) == 1:
            return f"Chose {chosen[0]}: it is better than {average} {figures}."
        if float(gain) > _NOTICEABLE:
            return f"Chose {average}, the default: the best single method is better {figures}, which is within chance."
        return f"Chose {average}, the default: no single method did better on held-out training images."

    def _members(self, images: Tensor, codes: Tensor, n_way: int) -> _Linear:
        """Fit every member to (*batch, n, views, d) unit features, and bring its scores to a margin of 1 on them."""
        features, labels = images.flatten(-3, -2), codes.repeat_interleave(images.shape[-2], dim=-1)
        heads = (LinearProbe(C=self.C), RidgeHead(alpha=self.alpha, temperature=1.0), GDAHead())
        states = [head._fit(features, labels, n_way) for head in heads]
        found = _Linear(
            torch.stack([state["weight"] for state in states], dim=-3),
            torch.stack([_bias(state) for state in states], dim=-2),
        )
        own = torch.nn.functional.one_hot(labels, n_way).to(features.dtype).unsqueeze(-3)
        scores = found.scores(features)
        others = (scores * (1 - own)).sum(dim=-1) / (n_way - 1)
        margin = ((scores * own).sum(dim=-1) - others).mean(dim=-1)
        # A member that does not tell the classes of its own support apart says nothing, rather than rounding.
        least = torch.finfo(margin.dtype).eps ** 0.5
        scale = torch.where(margin > least, 1 / margin.clamp_min(least), 0)
        return _Linear(found.weight * scale[..., None, None], found.bias * scale[..., None])

    def _held_out(self, images: Tensor, codes: Tensor, classes: Tensor, n_way: int) -> Tensor | None:
        """Score every image by members that saw no view of it: (*batch, n_members, n, n_way), or nothing.

        Args:
            images: (*batch, n, views, d) unit features, class after class.
            codes: (*batch, n) their classes.
            classes: (n,) the same, of one episode: they are those of all.
            n_way: number of classes.
        """
        counts = torch.bincount(classes, minlength=n_way)
        # Each fold costs a fit, and many images tell as much in two.
        most = self.max_folds if len(classes) <= _MANY else min(2, self.max_folds)
        folds = min(int(counts.min()), most)
        if folds < 2:
            return None
        starts = torch.cumsum(counts, dim=0) - counts
        fold = (torch.arange(len(classes), device=classes.device) - starts[classes]) % folds
        scores = images.new_empty(*images.shape[:-3], len(MEMBERS), len(classes), n_way)
        for one in range(folds):
            seen, unseen = (fold != one).nonzero().squeeze(-1), (fold == one).nonzero().squeeze(-1)
            members = self._members(images[..., seen, :, :], codes[..., seen], n_way)
            scores[..., unseen, :] = members.scores(images[..., unseen, 0, :])
        return scores

    def _decide(
        self, held_out: Tensor | None, classes: Tensor, images: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Choose weights of members and a temperature.

        Args:
            held_out: (*batch, n_members, n, n_way) scores of images by members that did not see them.
            classes: (n,) classes of these.
            images: (*batch, n, views, d).

        Returns:
            (*batch, n_members) weights, (*batch,) temperatures, and how much lower the log-loss of the best choice
            besides the default is, with its standard error, both (*batch,); the error is negative without a trial.
        """
        batch = images.shape[:-3]
        choices, grid = _CHOICES.to(images), _GRID.to(images)
        if held_out is None:
            nothing = images.new_zeros(batch)
            share, never = torch.full_like(nothing, self.margin_share), torch.full_like(nothing, _NOT_TRIED)
            return choices[0].expand(*batch, -1).clone(), share, nothing, never
        logits = torch.einsum("cm,...mnk->...cnk", choices, held_out)
        temperatures = self.margin_share * torch.exp(grid)
        loss = _log_loss(logits.unsqueeze(-4) / temperatures.view(-1, 1, 1, 1), classes)
        prior = (grid / self.spread).square() / 2
        best = (loss.sum(dim=-1) + prior.view(-1, 1)).argmin(dim=-2, keepdim=True)
        losses = loss.gather(-3, best.unsqueeze(-1).expand(*best.shape, loss.shape[-1])).squeeze(-3)
        better = losses[..., :1, :] - losses[..., 1:, :]
        gain, error = better.mean(dim=-1), better.std(dim=-1) / math.sqrt(better.shape[-1])
        # What differs by rounding alone, as choices do that agree, is no gain.
        passed = gain > error + _ROUNDING
        tried = torch.where(passed, gain, gain - _FAR).argmax(dim=-1, keepdim=True)
        choice = torch.where(passed.any(dim=-1), tried.squeeze(-1) + 1, 0)
        gain, error = gain.gather(-1, tried).squeeze(-1), error.gather(-1, tried).squeeze(-1)
        chosen = best.squeeze(-2).gather(-1, choice.unsqueeze(-1)).squeeze(-1)
        return choices[choice], temperatures[chosen], gain, error


_ROUNDING = 1e-6
_NOT_TRIED = -1.0
_MANY = 1000
_NOTICEABLE = 5e-4
_FAR = 1e6
"""More than losses differ by."""
_GRID = torch.arange(-2, 5.0001, 0.125, dtype=torch.float64)
"""Logarithms of temperatures, relative to the prior's."""


def _log_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Log-loss (*batch, n) of (*batch, n, n_way) logits for (n,) classes."""
    own = classes.view(-1, 1).expand(*logits.shape[:-1], 1)
    return torch.logsumexp(logits, dim=-1) - logits.gather(-1, own).squeeze(-1)


def _bias(state: State) -> Tensor:
    """Biases (*batch, n_way) of a linear state, also where it is applied about a centre."""
    if "centre" not in state:
        return state["bias"]
    return state["bias"] - (state["weight"] @ state["centre"].mT).squeeze(-1)


def _by_image(features: Tensor, views: int) -> Tensor:
    """Split (*batch, n * views, d) rows, which come in runs of views of one image: (*batch, n, views, d)."""
    return features.reshape(*features.shape[:-2], features.shape[-2] // views, views, features.shape[-1])


def _in_order(images: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Sort (*batch, n, views, d) images by class, and within it by the product of the first view with the mean of all.

    So what is held out does not depend on the order in which images are given.
    """
    first = images[..., 0, :]
    along = (first @ first.mean(dim=-2).unsqueeze(-1)).squeeze(-1)
    order = along.argsort(dim=-1, stable=True)
    order = order.gather(-1, codes.gather(-1, order).argsort(dim=-1, stable=True))
    return images.gather(-3, order[..., None, None].expand_as(images)), codes.gather(-1, order)


def _in_span(images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Give (*batch, n, views, d) images as coordinates in their span, and its (*batch, d, m) basis, where that is less.

    Every member's solution lies in the span of what it is fitted on.
    """
    rows = images.flatten(-3, -2)
    if rows.shape[-1] <= rows.shape[-2] + 1:
        return images, None
    basis, triangle = torch.linalg.qr(rows.mT)
    return triangle.mT.reshape(*images.shape[:-1], triangle.shape[-2]), basis
