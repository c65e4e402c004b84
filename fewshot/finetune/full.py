"""Full fine-tuning: train every layer, those near the pixels at lower rates than those near the classifier.

Jeremy Howard and Sebastian Ruder, "Universal Language Model Fine-tuning for Text Classification", 2018,
arXiv:1801.06146 (rates that fall from layer to layer); Hangbo Bao, Li Dong, Songhao Piao and Furu Wei, "BEiT", 2021,
arXiv:2106.08254 (for images, by a constant factor). Early stages see edges and textures, which any photographs teach;
the last ones see what the pretrained classes needed. Statistics of batch norms stay the pretrained ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import ClassVar

from torch import nn

from fewshot.errors import InvalidInputError
from fewshot.finetune.network_tuning import NetworkTuning
from fewshot.finetune.tuning import Trained
from fewshot.heads.base import check_positive


class FullFineTune(NetworkTuning):
    """Train all layers from the linear probe, at a learning rate that the training images choose.

    See :class:`~fewshot.finetune.tuning.Tuning` for how the rate is chosen and what is found.

    Args:
        learning_rates: Adam's at its highest, of the last stage and the classifier: the candidates besides 0.
        decay: what a stage's rate is of that of the stage after it, above 0 and at most 1; a stage is timm's: of a
            CNN a stage, of a ViT a block.
        steps: optimiser steps.
        batch_size: views per step.
        C: inverse penalty of the linear probe it starts from.
    """

    title: ClassVar[str] = "fine-tune-full"
    part: ClassVar[str] = "all layers"

    def __init__(
        self,
        *,
        learning_rates: Sequence[float] = (1e-3,),
        decay: float = 0.7,
        steps: int = 50,
        batch_size: int = 16,
        C: float = 1.0,
    ) -> None:
        self.learning_rates = learning_rates
        self.decay = decay
        self.steps = steps
        self.batch_size = batch_size
        self.C = C

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_positive("decay", self.decay)
        if self.decay > 1:
            raise InvalidInputError(f"decay={self.decay!r}: needs a number above 0 and at most 1.")

    def _begin(self, body: nn.Module, seed: int) -> Trained:
        own = dict(body.named_parameters())
        stages = _stages(body)
        return [
            ([own[name] for name in names], self.decay ** (len(stages) - 1 - position))
            for position, names in enumerate(stages)
        ]

    def _changed(self, network: nn.Module) -> list[str]:
        return [name for stage in _stages(network) for name in stage]


def _stages(network: nn.Module) -> list[list[str]]:
    """List the names of a network's parameters stage by stage, from the pixels up.

    Raises:
        InvalidInputError: timm does not know the network's stages.
    """
    from timm.models import group_parameters

    if not hasattr(network, "group_matcher"):
        raise InvalidInputError(
            f"fine-tune-full does not know the stages of {type(network).__name__}; use 'norm-tuning' or 'linear-probe' "
            "with this backbone."
        )
    number = group_parameters(network, network.group_matcher(coarse=True), reverse=True)  # type: ignore[operator]
    stages: dict[int, list[str]] = defaultdict(list)
    for name, _ in network.named_parameters():
        stages[int(number[name])].append(name)
    return [stages[position] for position in sorted(stages)]
