"""Which candidate to trust, and how far: decided on support images that the candidate was not trained on.

Every image is held out once, with all its views. Where a class has one image, nothing is held out and nothing is
chosen: views of an image are told by whatever remembers it, so that they speak for training where it does harm. A
candidate's logits z on what it did not see are divided by their spread on what it was trained on, because training
makes logits larger, which improves nobody's predictions. Losses are then those of softmax(s z) at a scale s, which is
estimated, too, and kept within bounds:

    s = argmin over a grid of   sum_i -log softmax(s z_i)[y_i] + (log2 s - log2 s_0)^2 / 2

Without the bounds and the prior s_0, a handful of images that are all on the right side would ask for an infinite s,
where every candidate has loss 0. Where nothing is held out, s is s_0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

N_FOLDS = 2
"""Two folds: each more is another training run for every candidate."""

# Linear probes on EfficientNet-Lite0 are best between 2 (signed digits) and 2.8 (fruits), with 1, 2 and 5 images of
# each of five classes alike.
_PRIOR_SCALE = 2.4
_SCALES = torch.logspace(-4, 3, 57, base=2, dtype=torch.float64)
# Differences in log-loss below this are of no use to anybody, however certain they are.
_LEAST_GAIN = 0.01


@dataclass(frozen=True)
class HeldOut:
    """What one candidate says of examples that it was not trained on.

    Attributes:
        logits: (n, n_classes) divided by their spread on what it was trained on.
        codes: (n,) class positions.
        images: (n,) the image that each example is a view of.
    """

    logits: Tensor
    codes: NDArray[np.int64]
    images: NDArray[np.int64]

    @staticmethod
    def join(parts: list[HeldOut]) -> HeldOut:
        """Put what was held out in different folds together."""
        return HeldOut(
            torch.cat([part.logits for part in parts]),
            np.concatenate([part.codes for part in parts]),
            np.concatenate([part.images for part in parts]),
        )


def make_folds(
    codes: NDArray[np.int64], images: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64] | None:
    """Deal the images of each class into folds.

    Args:
        codes: (m,) class positions of examples.
        images: (m,) the image that each example is a view of.
        rng: deals.

    Returns:
        (m,) the fold of each example, 0 to ``N_FOLDS - 1``, the same for all views of an image; ``None`` where a class
        has fewer images than there are folds.
    """
    fold = np.zeros(len(codes), dtype=np.int64)
    for code in np.unique(codes):
        members = np.unique(images[codes == code])
        if len(members) < N_FOLDS:
            return None
        for turn, image in enumerate(rng.permutation(members)):
            fold[images == image] = turn % N_FOLDS
    return fold


def spread(logits: Tensor) -> float:
    """Root mean square of (n, n_classes) logits about their mean over classes; never 0."""
    centred = logits - logits.mean(dim=1, keepdim=True)
    return max(float(centred.square().mean().sqrt()), 1e-12)


def fit_scale(held_out: HeldOut) -> float:
    """Estimate the scale at which held-out logits are confidences; see the top of this file."""
    logits, codes = held_out.logits.double(), torch.from_numpy(held_out.codes)
    losses = torch.stack([torch.nn.functional.cross_entropy(logits * s, codes, reduction="sum") for s in _SCALES])
    penalty = (_SCALES.log2() - np.log2(_PRIOR_SCALE)).square() / 2
    return float(_SCALES[(losses + penalty).argmin()])


def image_losses(held_out: HeldOut, scale: float) -> NDArray[np.float64]:
    """Log-loss of each held-out image, the mean over its examples: (n_images,)."""
    logits, codes = held_out.logits.double(), torch.from_numpy(held_out.codes)
    losses = torch.nn.functional.cross_entropy(logits * scale, codes, reduction="none").numpy()
    return np.array([losses[held_out.images == image].mean() for image in np.unique(held_out.images)])


@dataclass(frozen=True)
class Verdict:
    """What held-out examples say of learning rates.

    Attributes:
        rate: the one to take.
        losses: mean log-loss of each rate whose training did not diverge; empty where nothing was held out.
        scales: at which its logits, divided by their spread in training, are confidences.
    """

    rate: float
    losses: dict[float, float]
    scales: dict[float, float]


def compare(held_out: Mapping[float, HeldOut]) -> Verdict:
    """Choose among learning rates.

    Args:
        held_out: of each rate, 0 first; all on the same examples. Empty where nothing could be held out.
    """
    found = {rate: one for rate, one in held_out.items() if bool(torch.isfinite(one.logits).all())}
    if not found:
        return Verdict(0.0, {}, {0.0: _PRIOR_SCALE})
    scales = {rate: fit_scale(one) for rate, one in found.items()}
    losses = {rate: image_losses(one, scales[rate]) for rate, one in found.items()}
    best = list(found)[choose(list(losses.values()))]
    return Verdict(best, {rate: float(loss.mean()) for rate, loss in losses.items()}, scales)


def choose(losses: list[NDArray[np.float64]]) -> int:
    """Pick the candidate with the lowest mean loss, and the first unless that is clearly better.

    Clearly: by more than one standard error of the paired differences, and by more than 0.01 nats.

    Args:
        losses: (n_images,) of each candidate, on the same images.

    Returns:
        The position of the candidate.
    """
    best = int(np.argmin([loss.mean() for loss in losses]))
    gain = losses[0] - losses[best]
    error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else 0.0
    return best if gain.mean() > max(error, _LEAST_GAIN) else 0
