"""Backbones: frozen pretrained networks that turn images into features."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

from fewshot.errors import InvalidInputError
from fewshot.names import NameTable

if TYPE_CHECKING:
    from fewshot.backbones.base import Backbone, Network

DEFAULT_BACKBONE = "efficientnet_lite0"

# Backbones of other packages: a callable (device: str) -> Network under this entry-point group.
BACKBONES = NameTable("backbone", {}, entry_point_group="fewshot.backbones")
_PACKAGED_NAMES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")


def list_backbones() -> list[str]:
    """List the backbones that need no network: packaged ones and those of other packages.

    ``load_backbone`` takes any pretrained timm model besides, ``hf-hub:``, ``local-dir:``, and names joined by ``+``.
    """
    return sorted({*_PACKAGED_NAMES, *BACKBONES})


def load_backbone(
    spec: str | Backbone = DEFAULT_BACKBONE, *, device: str | None = None, runtime: str | None = None
) -> Backbone:
    """Load a frozen pretrained backbone.

    Args:
        spec: a packaged name (:func:`list_backbones`), any pretrained timm model name, ``hf-hub:org/model``,
            ``local-dir:folder``, several of these joined with ``+``, or a backbone, which is returned as it is.
            ``efficientnet_lite0`` means the packaged weights; timm's own are ``efficientnet_lite0.ra_in1k``.
        device: ``"cpu"``, ``"cuda"``, ...; by default a GPU where there is one.
        runtime: ``"pytorch"`` in float32; ``"openvino"``, on the CPU, with ``pip install 'fewshot[openvino]'``; or
            ``"auto"``, the fastest that gives the same features (a cosine of at least 0.9999 on test pictures, else
            PyTorch and a warning): OpenVINO where it is installed, float16 on CUDA. By default what the environment
            variable ``FEWSHOT_RUNTIME`` says, else ``"auto"``.

    Raises:
        UnknownNameError: no such backbone or runtime; the message lists the closest names.
        MissingExtraError: ``runtime="openvino"`` without the package.
        InvalidInputError: ``runtime="openvino"`` on a GPU.
        WeightsNotFoundError: its weights are neither here nor reachable.

    Example:
        >>> backbone = load_backbone("efficientnet_lite0")
        >>> backbone.n_features
        1280
    """
    if not isinstance(spec, str):
        from fewshot.backbones.base import Backbone

        if isinstance(spec, Backbone):
            return spec
        raise InvalidInputError(f"backbone={spec!r} is neither a name nor a Backbone.")
    # Both need torch, which listing the names does not.
    from fewshot.backbones.runtime import resolve_runtime

    chosen = device or _default_device()
    return _load(spec.strip(), chosen, resolve_runtime(runtime, chosen))


@functools.lru_cache(maxsize=4)
def _load(spec: str, device: str, runtime: str) -> Backbone:
    # A folder's name may hold a '+' of its own.
    is_folder = spec.startswith("local-dir:") and os.path.isdir(spec.removeprefix("local-dir:"))
    parts = [spec] if is_folder else [part.strip() for part in spec.split("+")]
    if not all(parts):
        raise InvalidInputError(f"backbone={spec!r} has an empty name; write for example 'efficientnet_lite0'.")
    if len(parts) == 1:
        return _load_network(parts[0], device, runtime)
    from fewshot.backbones.joined import JoinedBackbone

    return JoinedBackbone(tuple(_load_network(part, device, runtime) for part in parts))


def _load_network(name: str, device: str, runtime: str) -> Network:
    network = _find_network(name, device)
    network.use_runtime(runtime)
    return network


def _find_network(name: str, device: str) -> Network:
    if name in BACKBONES:
        factory = BACKBONES.load(name)
        network: Network = factory(device)  # type: ignore[operator]
        return network
    if name in _PACKAGED_NAMES:
        from fewshot.backbones.packaged import load_packaged

        return load_packaged(name, device)
    from fewshot.backbones.timm import load_timm

    return load_timm(name, device, also_known=list_backbones())


def is_place(spec: str) -> bool:
    """Whether a backbone's name says where its weights are to be fetched or read, rather than which they are."""
    return any(mark in spec for mark in ":/\\")


def _default_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
