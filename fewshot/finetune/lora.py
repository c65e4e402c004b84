"""LoRA: train a low-rank change of each linear map, which is then added to the network's weights.

Edward J. Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, arXiv:2106.09685; for few images:
Maxime Zanella and Ismail Ben Ayed, "Low-Rank Few-Shot Adaptation of Vision-Language Models", 2024, arXiv:2405.18541.
A weight W (out, in) becomes W + B A with A (r, in) random and B (out, r) 0 at first, so that training starts at the
pretrained network and can only change it in r directions. Linear layers (a ViT's qkv among them) and convolutions of
one pixel, which are linear maps at every place, are changed so.
"""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from typing import ClassVar

import torch
from torch import nn

from fewshot.backbones.base import Backbone
from fewshot.errors import InvalidInputError, MissingExtraError
from fewshot.finetune.network_tuning import NetworkTuning
from fewshot.finetune.tuning import Trained
from fewshot.heads.base import check_count

_INITIALISING = threading.Lock()


class LoRA(NetworkTuning):
    """Train low-rank changes of all linear maps from the linear probe, at a rate that the training images choose.

    Training needs the package ``peft``; what was trained is put into the weights, so that a saved model does not.
    See :class:`~fewshot.finetune.tuning.Tuning` for how the rate is chosen and what is found.

    Args:
        rank: r above; 2 to 4 is enough for few images.
        learning_rates: Adam's at its highest, the candidates besides 0.
        steps: optimiser steps.
        batch_size: views per step.
        C: inverse penalty of the linear probe it starts from.
    """

    title: ClassVar[str] = "lora"
    part: ClassVar[str] = "low-rank changes of the linear maps"

    def __init__(
        self,
        *,
        rank: int = 4,
        learning_rates: Sequence[float] = (1e-2,),
        steps: int = 50,
        batch_size: int = 16,
        C: float = 1.0,
    ) -> None:
        self.rank = rank
        self.learning_rates = learning_rates
        self.steps = steps
        self.batch_size = batch_size
        self.C = C

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_count("rank", self.rank)
        _require_peft()

    def check_backbone(self, backbone: Backbone) -> None:
        """Refuse joined backbones and networks without linear maps; say so where ``peft`` is missing.

        Raises:
            InvalidInputError: with what to use instead.
            MissingExtraError: ``peft`` is not installed.
        """
        super().check_backbone(backbone)
        _require_peft()

    def _begin(self, body: nn.Module, seed: int) -> Trained:
        names = [name.removesuffix(".weight") for name in self._changed(body)]
        # A fork keeps the caller's random numbers as they were; the lock keeps other threads out of it.
        with _INITIALISING, torch.random.fork_rng(devices=[]):
            import peft

            torch.manual_seed(seed)
            config = peft.LoraConfig(
                r=self.rank,
                lora_alpha=self.rank,
                # As a pattern: a list would match every layer whose name ends so.
                target_modules="|".join(map(re.escape, names)),
            )
            peft.inject_adapter_in_model(config, body)
        return [([p for name, p in body.named_parameters() if ".lora_" in name], 1.0)]

    def _finish(self, trained: nn.Module) -> nn.Module:
        merged = copy.deepcopy(self._network.model).to(memory_format=torch.channels_last)
        adapted = dict(trained.named_modules())
        with torch.no_grad():
            for name, weight in merged.named_parameters():
                layer = adapted.get(name.removesuffix(".weight"))
                if name in self._names and layer is not None:
                    weight.add_(layer.get_delta_weight("default"))
        return merged

    def _changed(self, network: nn.Module) -> list[str]:
        names = [f"{path}.weight" for path, module in network.named_modules() if path and _is_linear_map(module)]
        if not names:
            raise InvalidInputError(
                f"lora found no linear layer and no convolution of one pixel in {type(network).__name__}; use "
                "'norm-tuning' or 'linear-probe' with this backbone."
            )
        return names


def _is_linear_map(module: nn.Module) -> bool:
    pointwise = isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1
    return isinstance(module, nn.Linear) or pointwise


def _require_peft() -> None:
    if find_spec("peft") is None:
        raise MissingExtraError("lora needs the package peft. Run: pip install 'fewshot[lora]'")
