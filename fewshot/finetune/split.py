"""A timm network in two parts: a frozen trunk, run once per view, and a tail that is trained on its stored maps.

A step of the last stage on stored maps costs about a twentieth of training the whole network
(``benchmarks/stored_maps.py``).
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fewshot.backbones.base import Network
from fewshot.backbones.timm import TimmNetwork
from fewshot.errors import InvalidInputError

# The last stage of each family and what follows it up to the pooling head, by attribute names. A family is taken
# when all its names are there; the split is then checked against the whole network.
_FAMILIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("blocks", ("conv_head", "bn2")),  # EfficientNet
    ("blocks", ("norm",)),  # ViT, DeiT, EVA, BEiT
    ("blocks", ()),  # MobileNetV3: its conv_head belongs to the pooling head
    ("layer4", ()),  # ResNet
    ("stages", ("norm_pre",)),  # ConvNeXt
    ("layers", ("norm",)),  # Swin
    ("s4", ("final_conv",)),  # RegNet
    ("stages", ("final_conv",)),  # what timm's byobnet builds
    ("stages", ()),
)


class Tail(nn.Module):
    """The trainable end of a network: its last stage, up to pooled features."""

    def __init__(self, modules: list[nn.Module], model: nn.Module) -> None:
        super().__init__()
        self.stages = nn.ModuleList(copy.deepcopy(module) for module in modules)
        # In a list, so that the frozen rest is neither trained nor saved as part of the tail.
        self._rest = [model]

    def forward(self, maps: Tensor) -> Tensor:
        """Map the trunk's output (b, ...) to pooled features (b, n_features)."""
        for stage in self.stages:
            maps = stage(maps)
        features: Tensor = self._rest[0].forward_head(maps)  # type: ignore[operator]
        return features


class SplitNetwork:
    """A network cut before its last stage.

    Args:
        network: a timm network.

    Raises:
        InvalidInputError: the network is not timm's, or of a family whose last stage is not known.
    """

    def __init__(self, network: Network) -> None:
        if not isinstance(network, TimmNetwork):
            raise InvalidInputError(f"fine-tune needs a timm backbone; {network.spec!r} is none.")
        self.network = network
        example = np.full((1, network.image_size, network.image_size, 3), 96, dtype=np.uint8)
        example[:, ::3] = 160
        with torch.inference_mode():
            expected = network.runtime(network.normalise(example)).float().cpu()
        for container, followers in _FAMILIES:
            if not all(hasattr(network.model, name) for name in (container, *followers)):
                continue
            modules = [_last_stage(network.model, container), *(getattr(network.model, name) for name in followers)]
            self._modules = modules
            self._trunk = copy.deepcopy(network.runtime)
            _last_stage(self._trunk, container).register_forward_pre_hook(_stop)
            try:
                maps = torch.from_numpy(self.trunk(example)).to(network.device)
                with torch.no_grad():
                    again = self.new_tail()(maps).cpu()
            # A wrong family shows as any error of shapes or attributes inside the model.
            except Exception:  # noqa: S112 # nosec B112
                continue
            if again.shape == expected.shape and torch.allclose(again, expected, rtol=1e-2, atol=1e-3):
                return
        raise InvalidInputError(
            f"fine-tune does not know where the last stage of {network.spec!r} begins; use 'linear-probe', or a "
            "backbone of the EfficientNet, MobileNetV3, ResNet, RegNet, ConvNeXt, ViT or Swin families."
        )

    def new_tail(self) -> Tail:
        """Copy the last stage with its pretrained weights, in eval mode: batch-norm statistics stay frozen."""
        tail = Tail(self._modules, self.network.model).eval().to(memory_format=torch.channels_last)
        return tail.requires_grad_(True)

    def trunk(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run (b, S, S, 3) uint8 up to the last stage; return what it would receive, (b, ...) float32."""
        with torch.inference_mode():
            try:
                self._trunk(self.network.normalise(pixels))
            except _ReachedLastStageError as reached:
                return reached.maps.float().cpu().contiguous().numpy()
        raise AssertionError("the last stage was not reached")  # unreachable: __init__ has run this once


class _ReachedLastStageError(Exception):
    """Unwinds a forward pass at the last stage, carrying what that stage would have received."""

    def __init__(self, maps: Tensor) -> None:
        super().__init__()
        self.maps = maps


def _stop(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    raise _ReachedLastStageError(inputs[0])


def _last_stage(model: nn.Module, container: str) -> nn.Module:
    stages = getattr(model, container)
    stage: nn.Module = stages if container in ("layer4", "s4") else stages[-1]
    return stage
