"""How good answers are: accuracy, probabilities and calibration, of many episodes at once.

Calibration is kept as bins, (n_bins, 3): for each bin of confidence the number of answers, the sum of their
confidences and the sum of right answers. Bins of different episodes, batches or data sets are added.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewshot.errors import InvalidInputError

if TYPE_CHECKING:
    from torch import Tensor

N_BINS = 15
METRICS = ("accuracy", "balanced_accuracy", "log_loss", "brier")
"""What is kept of every episode."""


def episode_metrics(logits: Tensor, labels: Tensor, *, n_bins: int = N_BINS) -> dict[str, Tensor]:
    """Score the answers of many episodes in a few operations, on the device of the logits; results are on the CPU.

    The answer is the class with the largest logit, the first of several equal ones. NaN logits make ``log_loss`` and
    ``brier`` NaN.

    Args:
        logits: (*batch, n_query, n_way), at least one query.
        labels: (*batch, n_query) true class positions, 0..n_way-1, int64.
        n_bins: equally wide bins of confidence, over 0..1.

    Returns:
        float64 tensors:

        - ``accuracy``: (*batch,) share of right answers;
        - ``balanced_accuracy``: (*batch,) that share within each class, averaged over the classes that have queries;
        - ``log_loss``: (*batch,) mean of -log of the probability of the true class, infinite where that is 0;
        - ``brier``: (*batch,) mean over queries of the squared distance of the probabilities from the truth, 0..2;
        - ``calibration``: (n_bins, 3) bins over all answers of the batch, see the module.

    Raises:
        InvalidInputError: shapes that do not fit, or no queries.
    """
    import torch

    if logits.ndim < 2 or labels.shape != logits.shape[:-1] or 0 in logits.shape[-2:]:
        raise InvalidInputError(
            f"Got logits {tuple(logits.shape)} and labels {tuple(labels.shape)}; needs (*batch, n_query, n_way) and "
            "(*batch, n_query), with queries."
        )
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    batch, n_way = logits.shape[:-2], logits.shape[-1]
    # Classes before queries: sums over a short last dimension are many times slower.
    scores = logits.reshape(-1, *logits.shape[-2:]).mT.contiguous()
    true = labels.reshape(-1, labels.shape[-1])
    top, answer = scores.max(dim=-2)
    shares = (scores - top.unsqueeze(-2)).exp_()
    total = shares.sum(dim=-2)
    confidence = total.reciprocal()
    behind = scores.gather(-2, true.unsqueeze(-2)).squeeze(-2) - top
    log_loss = total.log() - behind
    # |p - e_true|^2 = |p|^2 - 2 p_true + 1
    brier = shares.square_().sum(dim=-2) * confidence.square() - 2 * behind.exp() * confidence + 1
    # On the CPU from here on, where there is little left to do: sums on a GPU would differ from run to run.
    right, true, confidence = (answer == true).long().cpu(), true.cpu(), confidence.cpu()
    position = (confidence * n_bins).ceil_().long().clamp_(1, n_bins) - 1
    of_class = true + n_way * torch.arange(len(true)).unsqueeze(-1)
    # Wrong and right answers of each class of each episode, and of each bin.
    by_class = _count(2 * of_class + right, 2 * n_way * len(true)).view(-1, n_way, 2)
    by_bin = _count(2 * position + right, 2 * n_bins).view(n_bins, 2)
    sure = torch.bincount(position.reshape(-1), confidence.double().reshape(-1), minlength=n_bins)
    size, hits = by_class.sum(dim=-1), by_class[..., 1]
    return {
        "accuracy": (hits.sum(dim=-1) / true.shape[-1]).view(batch),
        "balanced_accuracy": ((hits / size.clamp_min(1)).sum(dim=-1) / (size > 0).sum(dim=-1)).view(batch),
        "log_loss": log_loss.mean(dim=-1, dtype=torch.float64).cpu().view(batch),
        "brier": brier.mean(dim=-1, dtype=torch.float64).cpu().view(batch),
        "calibration": torch.stack([by_bin.sum(dim=-1), sure, by_bin[:, 1]], dim=-1),
    }


def _count(places: Tensor, size: int) -> Tensor:
    import torch

    return torch.bincount(places.reshape(-1), minlength=size).double()


def calibration_bins(proba: ArrayLike, labels: ArrayLike, *, n_bins: int = N_BINS) -> NDArray[np.float64]:
    """Sort answers into equally wide bins of their confidence, the probability of the class they give.

    Args:
        proba: (n, n_classes) probabilities.
        labels: (n,) true class positions.
        n_bins: number of bins over 0..1, each open below and closed above.

    Returns:
        (n_bins, 3) bins, see the module.

    Raises:
        InvalidInputError: shapes that do not fit, or values outside 0..1.
    """
    values, true = np.asarray(proba, dtype=np.float64), np.asarray(labels)
    if values.ndim != 2 or true.shape != values.shape[:1]:
        raise InvalidInputError(
            f"Got probabilities {values.shape} and labels {true.shape}; needs (n, n_classes) and (n,)."
        )
    if not ((values >= 0) & (values <= 1 + 1e-6)).all():
        raise InvalidInputError("Probabilities must lie between 0 and 1.")
    answer = values.argmax(axis=1)
    confidence = values[np.arange(len(values)), answer]
    position = np.clip(np.ceil(confidence * n_bins).astype(np.intp), 1, n_bins) - 1
    weights = (np.ones(len(values)), confidence, (answer == true).astype(np.float64))
    return np.stack([np.bincount(position, weight, minlength=n_bins) for weight in weights], axis=1)


def expected_calibration_error(bins: ArrayLike) -> float:
    """Mean distance, in 0..1, between how sure answers were and how often they were right; NaN without answers.

    Chuan Guo, Geoff Pleiss, Yu Sun and Kilian Weinberger, "On Calibration of Modern Neural Networks", 2017,
    arXiv:1706.04599: the absolute difference between mean confidence and accuracy in each bin, weighted by its answers.

    Args:
        bins: (*batch, n_bins, 3) bins, see the module; those of a batch are added first.
    """
    total = np.asarray(bins, dtype=np.float64)
    total = total.reshape(-1, *total.shape[-2:]).sum(axis=0)
    count = total[:, 0].sum()
    return float(np.abs(total[:, 1] - total[:, 2]).sum() / count) if count else float("nan")
