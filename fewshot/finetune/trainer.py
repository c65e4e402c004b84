"""The one training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Batch: TypeAlias = "tuple[Tensor, Tensor]"


def train(
    model: nn.Module,
    batches: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    *,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    label_smoothing: float = 0.0,
    on_step: Callable[[int, float], None] | None = None,
) -> None:
    """Minimise cross-entropy over batches, one optimiser step each.

    The caller sets the model's mode: batch-norm statistics of a handful of images are noise, so a pretrained network
    is trained in eval mode.

    Args:
        model: maps (b, ...) inputs to (b, n_classes) logits.
        batches: (inputs, (b,) class positions).
        optimizer: over the parameters to train.
        scheduler: stepped after every batch.
        label_smoothing: share of the target spread over all classes.
        on_step: called with (steps done, loss of the batch).
    """
    criterion = nn.CrossEntropyLoss(label_smoothing=label_smoothing)
    with torch.enable_grad():
        for step, (inputs, labels) in enumerate(batches, start=1):
            optimizer.zero_grad(set_to_none=True)
            loss: Tensor = criterion(model(inputs), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            if on_step is not None:
                on_step(step, loss.item())


def warm_up_and_decay(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """Raise the learning rate linearly over the first tenth of the steps, then lower it along a cosine to 0."""
    warm_up = max(1, steps // 10)

    def share(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, share)


def balanced_batches(
    codes: NDArray[np.int64], *, batch_size: int, steps: int, rng: np.random.Generator
) -> Iterator[NDArray[np.intp]]:
    """Yield positions of examples: classes in turn, examples within a class at random without early repeats.

    Sampling goes on past the end of a small set, so that no example is ever dropped and a batch is always full.
    """
    classes = [np.flatnonzero(codes == code) for code in np.unique(codes)]
    decks: list[list[int]] = [[] for _ in classes]
    turn = 0
    for _ in range(steps):
        batch = []
        for _ in range(batch_size):
            deck = decks[turn % len(classes)]
            if not deck:
                deck.extend(rng.permutation(classes[turn % len(classes)]).tolist())
            batch.append(deck.pop())
            turn += 1
        yield np.array(batch, dtype=np.intp)
