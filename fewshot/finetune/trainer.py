"""The one training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fewshot import interrupts
from fewshot.memory import free_memory, is_out_of_memory, warn_of_memory

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
    parts = 1
    with torch.enable_grad():
        for step, (inputs, labels) in enumerate(batches, start=1):
            interrupts.check()
            parts, loss = _gradient(model, criterion, inputs, labels, optimizer, parts)
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            if on_step is not None:
                on_step(step, sum(part.item() for part in loss))


def _gradient(
    model: nn.Module,
    criterion: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    optimizer: torch.optim.Optimizer,
    parts: int,
) -> tuple[int, list[Tensor]]:
    """Compute a batch's gradient in so many parts, and in twice as many for as long as memory does not suffice.

    The gradients of parts add up to that of the whole, but for rounding.

    Returns:
        The number of parts, and what each adds to the loss.

    Raises:
        MemoryError: a part of one example does not fit.
    """
    while True:
        optimizer.zero_grad(set_to_none=True)
        losses = []
        try:
            for part, codes in zip(inputs.chunk(parts), labels.chunk(parts), strict=True):
                loss: Tensor = criterion(model(part), codes) * (len(codes) / len(labels))
                loss.backward()  # type: ignore[no-untyped-call]
                losses.append(loss.detach())
            return parts, losses
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or parts >= len(labels):
                raise
        parts = min(2 * parts, len(labels))
        free_memory()
        warn_of_memory("training", -(-len(labels) // parts))


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
