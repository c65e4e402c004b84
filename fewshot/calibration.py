"""Probabilities that mean something: a temperature from the support images alone.

Chuan Guo, Geoff Pleiss, Yu Sun and Kilian Weinberger, "On Calibration of Modern Neural Networks", 2017,
arXiv:1706.04599: logits divided by one number T, the temperature, that minimises the log-loss of images the classifier
was not fitted on. Which class wins stays the same. A few-shot task has no such images to spare, so two kinds of
evidence are joined here:

- Prior: how far a fitted head separates its own support. With m the mean margin there (the true class's logit less
  the largest other one), T0 = 0.15 m. One number for every head, because T and m scale alike: it was fitted on
  nine data sets with two heads at 1, 2 and 5 images per class, where it hardly differed.
- Held-out answers (see :mod:`fewshot.held_out`), with two or more images of a class. Their heads have fewer images
  than the one at hand and separate them differently, so what is learned from them is the ratio c = T / m.

With a log-normal prior of spread s around c0 = 0.15, the temperature is m times the maximum a posteriori

    c = argmin  sum_i -log softmax(logits_i / (c m_i))[y_i]  +  (log c - log c0)^2 / (2 s^2)

where m_i is the margin of the head that answered. Without held-out answers c = c0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from fewshot.heads.base import Head, TransductiveHead
from fewshot.held_out import HeldOut, as_support, held_out, margins

MARGIN_SHARE = 0.15
"""Temperature over mean training margin, where nothing else is known."""
SPREAD = 0.3
"""Standard deviation of the log of that ratio, over tasks."""
# Of the ratio's logarithm about the prior's: answers no better than chance take it far up.
_LOWEST, _HIGHEST = -2.0, 5.0


def support_temperature(head: Any, X: ArrayLike, y: ArrayLike, *, answers: HeldOut | None = None) -> float:
    """Find the number to divide a head's logits by, so that it is as sure as it is right.

    Args:
        head: a fitted inductive head; it is not changed. Others (scikit-learn's classifiers, transductive heads, heads
            that take images) have no logits that could be asked for in this way, and get 1.
        X: (n, d) features the head was fitted on, or (n, n_views, d) where every view is a sample with its image's
            label; the first view is the image itself.
        y: (n,) labels of the images.
        answers: what :func:`~fewshot.held_out.held_out` gave for them, where it is known already.

    Returns:
        A temperature above 0; 1 where the head does not tell the support's own classes apart.

    Raises:
        InvalidInputError: arrays that do not fit, or fewer than two classes.
    """
    if not isinstance(head, Head) or isinstance(head, TransductiveHead):
        return 1.0
    views, codes, _ = as_support(X, y)
    with torch.no_grad():
        logits = head._logits(head.state_, torch.from_numpy(views[:, 0]))
        margin = float(margins(logits, torch.from_numpy(codes.astype(np.int64))).mean())
    if not np.isfinite(margin) or margin <= 0:
        return 1.0
    return margin * margin_share(held_out(head, views, y) if answers is None else answers)


def margin_share(evidence: HeldOut, *, prior: float = MARGIN_SHARE, spread: float = SPREAD) -> float:
    """Maximum a posteriori of temperature over mean training margin.

    Args:
        evidence: held-out answers; those of heads with no positive margin are left out.
        prior: the ratio without evidence.
        spread: standard deviation of its logarithm.

    Returns:
        The ratio, from exp(-2) to exp(5) times the prior.
    """
    usable = np.isfinite(evidence.margins) & (evidence.margins > 0)
    if not usable.any():
        return prior
    logits = evidence.logits[usable] / evidence.margins[usable, None]
    labels = evidence.labels[usable]

    def surprise(log_ratio: float) -> float:
        return log_loss(logits / (prior * np.exp(log_ratio)), labels) + 0.5 * (log_ratio / spread) ** 2

    found = minimize_scalar(surprise, bounds=(_LOWEST, _HIGHEST), method="bounded", options={"xatol": 1e-6})
    return float(prior * np.exp(found.x))


def log_loss(logits: NDArray[np.float64], labels: NDArray[np.intp]) -> float:
    """Sum of -log softmax of the true class; (n, n_way) logits and (n,) class positions."""
    return float((logsumexp(logits, axis=1) - logits[np.arange(len(labels)), labels]).sum())
