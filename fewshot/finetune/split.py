"""A timm network in two parts: a frozen trunk, run once per view, and a tail that is trained on its stored maps.

On stored maps, a step of the last stage of ``efficientnet_lite0`` costs a twentieth of training the whole network, and
one of the last two stages a sixth (``benchmarks/stored_maps.py``).
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
from fewshot.heads.base import check_count

# The stages of each family and what follows them up to the pooling head, by attribute names. A family is taken
# when all its names are there; the split is then checked against the whole network.
_FAMILIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("blocks", ("conv_head", "bn2")),  # EfficientNet
    ("blocks", ("norm",)),  # ViT, DeiT, EVA, BEiT
    ("blocks", ()),  # MobileNetV3: its conv_head belongs to the pooling head
    ("layer{}", ()),  # ResNet: layer1 to layer4
    ("stages", ("norm_pre",)),  # ConvNeXt
    ("layers", ("norm",)),  # Swin
    ("s{}", ("final_conv",)),  # RegNet: s1 to s4
    ("stages", ("final_conv",)),  # what timm's byobnet builds
    ("stages", ()),
)


class Tail(nn.Module):
    """The trainable end of a network: its last stages, up to pooled features."""

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
    """A network cut before its last stages.

    Args:
        network: a timm network.
        n_stages: how many are behind the cut.
        title: of the head that cuts, for messages.
        instead: the head to take where this cannot be done.

    Raises:
        InvalidInputError: ``n_stages`` is below 1; the network is not timm's, of a family whose stages are not known,
            or has no more of them.
    """

    def __init__(
        self, network: Network, n_stages: int = 1, *, title: str = "fine-tune", instead: str = "linear-probe"
    ) -> None:
        check_count("n_stages", n_stages)
        if not isinstance(network, TimmNetwork):
            raise InvalidInputError(f"{title} needs a timm backbone; {network.spec!r} is none.")
        self.network = network
        example = np.full((1, network.image_size, network.image_size, 3), 96, dtype=np.uint8)
        example[:, ::3] = 160
        with torch.inference_mode():
            expected = network.runtime(network.normalise(example)).float().cpu()
        for container, followers in _FAMILIES:
            stages = _stages(network.model, container)
            if len(stages) <= n_stages or not all(hasattr(network.model, name) for name in followers):
                continue
            self._modules = [*stages[-n_stages:], *(getattr(network.model, name) for name in followers)]
            self._trunk = copy.deepcopy(network.runtime)
            _stages(self._trunk, container)[-n_stages].register_forward_pre_hook(_stop)
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
            f"{title} does not know where the last {'stage' if n_stages == 1 else f'{n_stages} stages'} of "
            f"{network.spec!r} begin{'s' if n_stages == 1 else ''}; use {instead!r}, or a backbone of the "
            "EfficientNet, MobileNetV3, ResNet, RegNet, ConvNeXt, ViT or Swin families."
        )

    def new_tail(self) -> Tail:
        """Copy the last stages with their pretrained weights, in eval mode: batch-norm statistics stay frozen."""
        tail = Tail(self._modules, self.network.model).eval().to(memory_format=torch.channels_last)
        return tail.requires_grad_(True)

    def trunk(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run (b, S, S, 3) uint8 up to the cut; return what the next stage would receive, (b, ...) float32."""
        with torch.inference_mode():
            try:
                self._trunk(self.network.normalise(pixels))
            except _ReachedCutError as reached:
                return reached.maps.float().cpu().contiguous().numpy()
        raise AssertionError("the cut was not reached")  # unreachable: __init__ has run this once


class _ReachedCutError(Exception):
    """Unwinds a forward pass at the cut, carrying what the next stage would have received."""

    def __init__(self, maps: Tensor) -> None:
        super().__init__()
        self.maps = maps


def _stop(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    raise _ReachedCutError(inputs[0])


def _stages(model: nn.Module, container: str) -> list[nn.Module]:
    """List the stages of a model; none where it has no such attributes."""
    if "{}" not in container:
        found = getattr(model, container, None)
        return list(found.children()) if isinstance(found, nn.Module) else []
    names = [container.format(number) for number in range(1, 5)]
    return [getattr(model, name) for name in names] if all(hasattr(model, name) for name in names) else []
