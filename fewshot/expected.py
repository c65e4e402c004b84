"""The accuracy to expect, as an interval, before there is a test set.

What the training images say is compared with what the same evidence was worth on other data sets. Two kinds of it:

- With two images of a class or more, answers to images left out (see :mod:`fewshot.held_out`): how many are right, and
  how probable the truth is made.
- With one image per class, and views of it, how much farther apart the classes are than the views of one image. It says
  little: what a class's other images look like cannot be seen in one of them, and the interval is accordingly wide.

A softmax over n classes whose true class leads all others by m is right with probability 1 / (1 + (n - 1) exp(-m)).
Everything is therefore measured as such a lead, m = logit(p) + log(n - 1), which does not change with the number of
ways as accuracy does, and the accuracy's lead is predicted by a linear regression on the evidence.

The interval is conformal (Vladimir Vovk, Alex Gammerman and Glenn Shafer, "Algorithmic Learning in a Random World",
2005), over data sets and not over images, because a new data set is what users bring: each data set's residuals come
from a regression on all others, and the interval leaves out equal shares of them at both ends, each data set counting
the same. ``benchmarks/expected_accuracy.py`` makes the table of coefficients and residuals, and measures how often
intervals hold on data sets they know nothing of.
"""

from __future__ import annotations

import functools
import json
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewshot.calibration import MARGIN_SHARE, log_loss
from fewshot.errors import InvalidInputError
from fewshot.heads.base import Head
from fewshot.held_out import HeldOut, as_support, held_out

# Leads beyond it are not told apart: one answer in a thousand, of two classes.
_MOST = 7.0
_LEAST_DISTANCE = 1e-4
# What the chance of held-out answers adds to the residuals, in squares of what data sets differ by.
_CHANCE = 10.0


class Evidence(NamedTuple):
    """What training images say about accuracy.

    Attributes:
        n_way: number of classes.
        k_shot: images per class, as a mean.
        separation: mean over classes of log(1 - cos) between a class's prototype and the nearest other one, less the
            mean over images of log(1 - cos) between views of one; ``None`` without views.
        right: lead that the share of right held-out answers amounts to; ``None`` where nothing can be held out.
        likely: lead that the truth's geometric mean probability amounts to, after calibration; as ``right``.
        n_held: how many held-out answers there were.
    """

    n_way: int
    k_shot: float
    separation: float | None = None
    right: float | None = None
    likely: float | None = None
    n_held: int = 0


class ExpectedAccuracy(NamedTuple):
    """An interval for the accuracy on new images of the same classes, all in 0..1."""

    low: float
    mid: float
    high: float


def gather_evidence(
    head: Head, X: ArrayLike, y: ArrayLike, views: ArrayLike | None = None, *, answers: HeldOut | None = None
) -> Evidence:
    """Collect what the training images say about the accuracy of an inductive head.

    Args:
        head: an inductive head, fitted or not; it is not changed.
        X: (n, d) features, or (n, n_samples, d) where it is fitted on several of each image; the first is the image.
        y: (n,) labels.
        views: (n, n_views, d) features of at least two views of each image.
        answers: what :func:`~fewshot.held_out.held_out` gave for the images, where it is known already.

    Raises:
        InvalidInputError: arrays that do not fit, or fewer than two classes.
    """
    samples, codes, n_way = as_support(X, y)
    k_shot = len(codes) / n_way
    separation = None if views is None else _separation(samples[:, 0], codes, n_way, views)
    answers = held_out(head, samples, codes) if answers is None else answers
    n_held = len(answers.labels)
    if not n_held:
        return Evidence(n_way, k_shot, separation)
    # Half a right and half a wrong answer more keep the lead finite, however few there are.
    right = (float((answers.logits.argmax(axis=1) == answers.labels).sum()) + 0.5) / (n_held + 1)
    scale = np.where(answers.margins > 0, answers.margins * MARGIN_SHARE, np.inf)
    likely = np.exp(-log_loss(answers.logits / scale[:, None], answers.labels) / n_held)
    return Evidence(n_way, k_shot, separation, lead(right, n_way), lead(float(likely), n_way), n_held)


def expected_accuracy(evidence: Evidence, *, coverage: float = 0.8) -> ExpectedAccuracy:
    """Say which accuracy to expect on new images of the same classes, equally many of each.

    Args:
        evidence: from :func:`gather_evidence`.
        coverage: share of data sets' intervals that are to hold the accuracy; a multiple of 0.05 from 0.5 to 0.95.

    Raises:
        InvalidInputError: a coverage the table has no entry for, or evidence that is not finite.
    """
    kind, row, doubt = regressors(evidence)
    entry = _table()[kind]
    name = f"{coverage:.2f}"
    if name not in entry["reach"] or abs(float(name) - coverage) > 1e-9:
        raise InvalidInputError(f"coverage={coverage!r}: needs one of {', '.join(entry['reach'])}.")
    if not np.isfinite(row).all():
        raise InvalidInputError(f"Got {evidence}; needs finite numbers, as gather_evidence gives them.")
    middle = float(row @ np.array(entry["weights"]))
    low, high = entry["reach"][name]
    return ExpectedAccuracy(*(accuracy(middle + doubt * step, evidence.n_way) for step in (low, 0.0, high)))


def regressors(evidence: Evidence) -> tuple[str, NDArray[np.float64], float]:
    """Name the regression for a kind of evidence, the numbers its weights multiply, and how doubtful they make it.

    Residuals are counted in units of that doubt. A share p of n answers has a lead whose variance is about
    1 / (n p (1 - p)): few held-out answers say less than many, and so do answers that are nearly all right, which tell
    an accuracy of 98 % from one of 99.9 % only where there are hundreds.
    """
    ways = np.log(evidence.n_way)
    if evidence.right is not None and evidence.likely is not None:
        row = np.array([1.0, ways, np.log(evidence.k_shot), evidence.right, evidence.likely])
        # Evidence never leads by more, but a file may say so.
        p = accuracy(float(np.clip(evidence.right, -_MOST, _MOST)), evidence.n_way)
        return "several", row, float(np.sqrt(1 + _CHANCE / ((evidence.n_held + 1) * p * (1 - p))))
    if evidence.separation is not None:
        return "one, with views", np.array([1.0, ways, evidence.separation]), 1.0
    return "one", np.array([1.0, ways]), 1.0


def lead(proba: float, n_way: int) -> float:
    """Lead of the true class at which a softmax over ``n_way`` classes gives it this probability."""
    p = min(max(proba, 1e-12), 1 - 1e-12)
    return float(np.clip(np.log(p / (1 - p)) + np.log(n_way - 1), -_MOST, _MOST))


def accuracy(of_lead: float, n_way: int) -> float:
    """Undo :func:`lead`."""
    return float(1 / (1 + (n_way - 1) * np.exp(-of_lead)))


def _separation(rows: NDArray[np.float64], codes: NDArray[np.intp], n_way: int, views: ArrayLike) -> float:
    """See :class:`Evidence`; (n, d) features, (n,) classes and (n, n_views, d) views."""
    seen = np.asarray(views, dtype=np.float64)
    if seen.ndim != 3 or len(seen) != len(rows) or seen.shape[2] != rows.shape[1] or seen.shape[1] < 2:
        raise InvalidInputError(
            f"Got views {seen.shape} of features {rows.shape}; needs (n, n_views, d), at least two views of each."
        )
    prototypes = _unit(np.stack([_unit(rows[codes == c]).mean(axis=0) for c in range(n_way)]))
    apart = 1 - prototypes @ prototypes.T
    np.fill_diagonal(apart, np.inf)
    n_views = seen.shape[1]
    alike = (np.linalg.norm(_unit(seen).sum(axis=1), axis=1) ** 2 - n_views) / (n_views * (n_views - 1))
    return float(_log(apart.min(axis=1)).mean() - _log(1 - alike).mean())


def _log(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.log(distance.clip(_LEAST_DISTANCE)), dtype=np.float64)


@functools.cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(files("fewshot").joinpath("expected_accuracy.json").read_text("utf-8"))
    return table


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.where(length > 0, length, 1.0), dtype=np.float64)
