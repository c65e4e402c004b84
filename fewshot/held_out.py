"""What a head says of support images that it was not fitted on: the only evidence there is before a test set.

Some images of every class that has at least two are left out, and a head is fitted on all others; in turn, until every
such image was left out once. With as many images in every class and folds for each, one of each class is left out at a
time. Folds of one size are one batch: leaving out costs one fit, not one per fold. Held out in this way the classes
stay balanced, where leaving out one image alone would make its class the smallest, and heads that know the classes'
sizes would always be surprised.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fewshot.errors import InvalidInputError
from fewshot.heads.base import Head

MAX_FOLDS = 20
# Numbers in the features of as many folds as are fitted at once: 256 MiB in float64.
_MAX_NUMBERS = 2**25


class HeldOut(NamedTuple):
    """Answers to images that were left out.

    Attributes:
        logits: (n_held, n_way) what heads fitted on the others say, as raw as :meth:`Head._logits` gives it.
        labels: (n_held,) true class positions.
        margins: (n_held,) mean margin of the very head that answered, on what it was fitted on, see :func:`margins`.
    """

    logits: NDArray[np.float64]
    labels: NDArray[np.intp]
    margins: NDArray[np.float64]


def held_out(head: Head, X: ArrayLike, y: ArrayLike, *, max_folds: int = MAX_FOLDS) -> HeldOut:
    """Ask a head of every image, fitted on others.

    Args:
        head: any inductive head, fitted or not; it is not changed.
        X: (n, d) features, or (n, n_views, d). Views of an image are left out together; the first is asked about.
        y: (n,) labels.
        max_folds: refits, at most.

    Returns:
        Answers, fold by fold; none where every class has a single image.

    Raises:
        InvalidInputError: arrays that do not fit, or fewer than two classes.
    """
    views, codes, n_way = as_support(X, y)
    folds = stratified_folds(codes, max_folds)
    parts = []
    for size in sorted({len(fold) for fold in folds}):
        # Folds of one size are one batch, as far as memory allows.
        alike = np.array([fold for fold in folds if len(fold) == size])
        chunks = np.array_split(alike, max(1, -(-len(alike) * views.size // _MAX_NUMBERS)))
        parts += [_fit_and_ask(head, views, codes, n_way, chunk) for chunk in chunks if chunk.size]
    if not parts:
        return HeldOut(np.empty((0, n_way)), np.empty(0, np.intp), np.empty(0))
    return HeldOut(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def as_support(X: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.intp], int]:
    """Check a support set: (n, n_views, d) features, (n,) class positions, and the number of classes.

    Raises:
        InvalidInputError: arrays that do not fit, features that are not finite, or fewer than two classes.
    """
    features, labels = np.asarray(X, dtype=np.float64), np.asarray(y)
    if features.ndim not in (2, 3) or labels.shape != features.shape[:1] or 0 in features.shape:
        raise InvalidInputError(
            f"Got features {features.shape} and labels {labels.shape}; needs (n, d) or (n, n_views, d), and (n,)."
        )
    if not np.isfinite(features).all():
        raise InvalidInputError("Got features that are NaN or infinite; leave those images out.")
    classes, codes = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise InvalidInputError(f"Got {len(classes)} class ({classes.tolist()[0]!r}); needs at least 2.")
    return features.reshape(len(features), -1, features.shape[-1]), codes.astype(np.intp), len(classes)


def stratified_folds(codes: NDArray[np.intp], max_folds: int) -> list[NDArray[np.intp]]:
    """Choose the images that each fold leaves out: every image of a class of two or more, in one fold.

    There are as many folds as the smallest such class has images, at most ``max_folds``, so that each takes something
    of every class and leaves something. Images of a class that follow each other, as frames of a video do, go together.
    """
    members = [np.flatnonzero(codes == code) for code in range(int(codes.max()) + 1)]
    several = [part for part in members if len(part) > 1]
    if not several:
        return []
    n_folds = min(max_folds, *map(len, several))
    parts = [np.array_split(part, n_folds) for part in several]
    return [np.concatenate([part[fold] for part in parts]) for fold in range(n_folds)]


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """True class's logit less the largest other one: (*batch, n, n_way) and (*batch, n) to (*batch, n)."""
    true = labels.unsqueeze(-1)
    others = logits.scatter(-1, true, -torch.inf).amax(dim=-1)
    return logits.gather(-1, true).squeeze(-1) - others


def _fit_and_ask(
    head: Head, views: NDArray[np.float64], codes: NDArray[np.intp], n_way: int, folds: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.intp], NDArray[np.float64]]:
    kept = np.array([np.setdiff1d(np.arange(len(codes)), fold) for fold in folds])
    features, labels = torch.from_numpy(views), torch.from_numpy(codes.astype(np.int64))
    support = features[kept].flatten(1, 2)
    with torch.no_grad():
        state = head._fit(support, labels[kept].repeat_interleave(views.shape[1], dim=1), n_way)
        answers = head._logits(state, features[folds, 0])
        own = margins(head._logits(state, features[kept, 0]), labels[kept]).mean(dim=-1, keepdim=True)
    flat = answers.flatten(0, 1).numpy(), codes[folds].ravel(), own.expand(folds.shape).flatten().numpy()
    return flat[0].astype(np.float64), flat[1], flat[2].astype(np.float64)
