"""A packaged network that gives more than its last features: the probabilities of its own classes.

One pass of an EfficientNet-Lite gives, side by side in one vector,

* its pooled last features, as the plain backbone does
* the probabilities of the 1,000 classes of ImageNet, of the classifier that came with the weights

so that the store keeps one vector for each view.
"""

from __future__ import annotations

import functools
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from fewshot.backbones import BACKBONES
from fewshot.backbones.base import Network
from fewshot.backbones.packaged import PACKAGED, restore_classifier
from fewshot.backbones.timm import TimmNetwork
from fewshot.errors import InvalidInputError

N_CLASSES = 1000
_VERSION = 2


class ModelWithClasses(nn.Module):
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
        """Map (b, 3, S, S) to (b, last + classes)."""
        model = self.model
        last = model.global_pool(model.forward_features(pixels))
        return torch.cat([last, torch.softmax(model.classifier(last), dim=-1)], dim=-1)


def has_classes(network: Network) -> TypeGuard[TimmNetwork]:
    """Whether a network is a packaged one, whose classifier is known."""
    return type(network) is TimmNetwork and network.spec in PACKAGED and network.spec not in BACKBONES


def with_classes(network: Network) -> TimmNetwork:
    """Give the network that computes what another one does, and its classes.

    Its fingerprint is another, too, so that their stored features are told apart.

    Raises:
        InvalidInputError: it is no packaged network.
    """
    if not has_classes(network):
        raise InvalidInputError(
            f"{network.spec!r} is no packaged backbone, so its classes are not known; packaged are "
            f"{', '.join(sorted(PACKAGED))}."
        )
    return _with_classes(network.spec, network.device, network.runtime_choice)


@functools.lru_cache(maxsize=4)
def _with_classes(name: str, device: str, runtime: str) -> TimmNetwork:
    recipe = {"output": "last, probabilities", "version": _VERSION}
    network = TimmNetwork(name, ModelWithClasses(restore_classifier(name)), device, recipe=recipe)
    network.use_runtime(runtime)
    return network
