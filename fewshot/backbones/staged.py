"""A packaged network that gives more than its last features: an early stage and its own classes' probabilities.

One pass of an EfficientNet-Lite gives, side by side in one vector,

* its pooled last features, as the plain backbone does
* the pooled map of stage 3, where textures and parts are found before they are put together to objects
* the probabilities of the 1,000 classes of ImageNet, of the classifier that came with the weights

so that the store keeps one vector for each view.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from fewshot.backbones import BACKBONES
from fewshot.backbones.base import Network
from fewshot.backbones.packaged import PACKAGED, restore_classifier
from fewshot.backbones.timm import TimmNetwork
from fewshot.errors import InvalidInputError

STAGE = 3
"""Position in ``blocks`` of the stage whose map is pooled; its last layer has no activation, so features have signs."""
N_CLASSES = 1000
_VERSION = 1


class StagedModel(nn.Module):
    """An EfficientNet of timm with its classifier.

    Args:
        model: as :func:`fewshot.backbones.packaged.restore_classifier` makes it.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        # timm's own models are untyped.
        self.model: Any = model
        # What says how pictures are prepared for it.
        self.pretrained_cfg = self.model.pretrained_cfg

    def forward(self, pixels: Tensor) -> Tensor:
        """Map (b, 3, S, S) to (b, last + stage + classes)."""
        model = self.model
        x, stage = model.bn1(model.conv_stem(pixels)), pixels
        for position, block in enumerate(model.blocks):
            x = block(x)
            if position == STAGE:
                stage = x.mean(dim=(2, 3))
        last = model.global_pool(model.bn2(model.conv_head(x)))
        return torch.cat([last, stage, torch.softmax(model.classifier(last), dim=-1)], dim=-1)


def can_stage(network: Network) -> bool:
    """Whether a network is a packaged one, of which the classifier and the stages are known."""
    return type(network) is TimmNetwork and network.spec in PACKAGED and network.spec not in BACKBONES


def stage(network: Network) -> TimmNetwork:
    """Give the network that computes what another one does, and the rest.

    Its fingerprint is another, too, so that their stored features are told apart.

    Raises:
        InvalidInputError: it is no packaged network.
    """
    if not can_stage(network):
        raise InvalidInputError(
            f"{network.spec!r} is no packaged backbone, so its stages are not known; packaged are "
            f"{', '.join(sorted(PACKAGED))}."
        )
    assert isinstance(network, TimmNetwork)  # noqa: S101 - for the type checker
    return _staged(network.spec, network.device, network.runtime_choice)


@functools.lru_cache(maxsize=4)
def _staged(name: str, device: str, runtime: str) -> TimmNetwork:
    recipe = {"output": f"last, stage {STAGE}, probabilities", "version": _VERSION}
    network = TimmNetwork(name, StagedModel(restore_classifier(name)), device, recipe=recipe)
    network.use_runtime(runtime)
    return network
