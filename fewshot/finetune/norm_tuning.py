"""Norm-tuning: train the scales and shifts of normalisation layers, and nothing else of the network.

Jonathan Frankle, David J. Schwab and Ari S. Morcos, "Training BatchNorm and Only BatchNorm", 2020, arXiv:2003.00152;
Samyadeep Basu et al., "Strong Baselines for Parameter Efficient Few-Shot Fine-tuning", 2023, arXiv:2304.01917 (on few
images it is as good as methods that train far more). A channel's scale and shift decide how much of it is seen, so
that features are chosen anew without being learned anew. Statistics stay those of the pretrained network: those of a
handful of images are noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import nn

from fewshot.errors import InvalidInputError
from fewshot.finetune.network_tuning import NetworkTuning
from fewshot.finetune.tuning import Trained


class NormTuning(NetworkTuning):
    """Train all normalisation layers from the linear probe, at a learning rate that the training images choose.

    See :class:`~fewshot.finetune.tuning.Tuning` for how the rate is chosen and what is found.

    Args:
        learning_rates: Adam's at its highest, the candidates besides 0.
        steps: optimiser steps.
        batch_size: views per step.
        C: inverse penalty of the linear probe it starts from.
    """

    title: ClassVar[str] = "norm-tuning"
    part: ClassVar[str] = "the normalisation layers"

    def __init__(
        self,
        *,
        learning_rates: Sequence[float] = (1e-2,),
        steps: int = 50,
        batch_size: int = 16,
        C: float = 1.0,
    ) -> None:
        self.learning_rates = learning_rates
        self.steps = steps
        self.batch_size = batch_size
        self.C = C

    def _begin(self, body: nn.Module, seed: int) -> Trained:
        own = dict(body.named_parameters())
        return [([own[name] for name in self._changed(body)], 1.0)]

    def _changed(self, network: nn.Module) -> list[str]:
        names = [
            f"{path}.{name}" if path else name
            for path, module in network.named_modules()
            # timm has many of its own, not all of them descended from torch's; all are called so.
            if "Norm" in type(module).__name__
            for name, parameter in module.named_parameters(recurse=False)
            if parameter.ndim <= 1
        ]
        if not names:
            raise InvalidInputError(
                f"norm-tuning found no normalisation layer with a scale or shift in {type(network).__name__}; use "
                "'lora' or 'linear-probe' with this backbone."
            )
        return names
