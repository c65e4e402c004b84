"""Any timm model as a backbone, with its own preprocessing."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from fewshot.backbones.base import Network
from fewshot.backbones.runtime import Engine, PixelNetwork, prepare, start_engine
from fewshot.backbones.weights import find_weights, hub_offline, not_found
from fewshot.errors import UnknownNameError, WeightsNotFoundError
from fewshot.names import unknown_name

# Part of the fingerprint: raise it when the same weights and preprocessing begin to give other features.
_EXTRACTION_VERSION = 1

# What of timm's configuration determines an input's pixels. The transform is made from these alone, and so is the
# fingerprint: a key that timm adds some day changes neither.
_PREPROCESSING = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")

# Of the module, not of a network, which must stay possible to copy and pickle.
_STARTING = threading.Lock()


class TimmNetwork(Network):
    """A timm model whose pooled features are used, resized and normalised as the model was trained.

    Args:
        spec: how :func:`fewshot.load_backbone` finds it again.
        model: a timm model made with ``num_classes=0``, its weights loaded.
        device: where it runs.
        recipe: what determines the features besides weights and preprocessing, as plain data; nothing for a network
            whose name says it.
    """

    def __init__(self, spec: str, model: nn.Module, device: str, *, recipe: dict[str, Any] | None = None) -> None:
        # timm takes a second to import; names are checked without it.
        from timm.data.config import resolve_model_data_config
        from timm.data.transforms_factory import create_transform

        self.spec = spec
        self.device = device
        self.model = model.to(device).eval().requires_grad_(False)
        resolved = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
        self.config: dict[str, Any] = {key: resolved[key] for key in _PREPROCESSING if key in resolved}
        self.image_size = int(self.config["input_size"][-1])
        # Small batches stay in a CPU's cache and are faster there; a GPU wants to be filled.
        self.batch_size = 4 if device == "cpu" else 64
        self._transform = create_transform(**self.config, is_training=False, use_prefetcher=True)
        self._mean = torch.tensor(self.config["mean"], device=device).view(1, 3, 1, 1) * 255
        self._std = torch.tensor(self.config["std"], device=device).view(1, 3, 1, 1) * 255
        example = torch.linspace(-1, 1, 3 * self.image_size**2, device=device).view(1, 3, self.image_size, -1)
        self.runtime = prepare(self.model, example)
        with torch.inference_mode():
            self.n_features = int(self.runtime(example).shape[1])
        self.fingerprint = _fingerprint(self.model, [self.config, _EXTRACTION_VERSION, *([recipe] if recipe else [])])
        if recipe:
            self.former_fingerprints = (_fingerprint(self.model, [self.config, _EXTRACTION_VERSION]),)
        self.use_runtime("auto")

    def use_runtime(self, runtime: str) -> None:
        """Choose one of :data:`fewshot.backbones.runtime.RUNTIMES`; it is started when first needed."""
        self._runtime_choice = runtime
        self._engine: Engine | None = None

    @property
    def runtime_choice(self) -> str:
        """What :meth:`use_runtime` was told last."""
        return self._runtime_choice

    @property
    def runtime_name(self) -> str:
        """What computes the features: ``"pytorch"``, ``"openvino"`` or ``"cuda-autocast"``."""
        return self._started().name

    def _started(self) -> Engine:
        with _STARTING:
            if self._engine is None:
                self._engine = start_engine(
                    PixelNetwork(self.runtime, self._mean, self._std).eval(),
                    runtime=self._runtime_choice,
                    device=self.device,
                    size=self.image_size,
                    name=self.spec,
                )
            return self._engine

    def __getstate__(self) -> dict[str, Any]:
        # A compiled network stays in its process; a copy compiles its own.
        return self.__dict__ | {"_engine": None}

    def preprocess(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize and crop (H, W, 3) uint8 to (image_size, image_size, 3) uint8 with timm's own transform."""
        pixels: NDArray[np.uint8] = np.asarray(self._transform(Image.fromarray(image)))
        return pixels.transpose(1, 2, 0)

    def normalise(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Turn (b, S, S, 3) uint8 into the network's float input (b, 3, S, S)."""
        tensor = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2)
        return (tensor.float() - self._mean) / self._std

    def forward(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run (b, S, S, 3) uint8 through the network; return (b, n_features) float32."""
        return self._started().forward(pixels)


def load_timm(name: str, device: str, *, also_known: Sequence[str] = ()) -> TimmNetwork:
    """Create a timm model with its pretrained weights.

    Args:
        name: a timm model name, ``hf-hub:org/model`` or ``local-dir:path``.
        device: where it runs.
        also_known: names that are no timm models, for the suggestions to a misspelt one.

    Raises:
        UnknownNameError: timm knows no such model.
        WeightsNotFoundError: its weights are neither cached nor reachable, or there are only pickled ones. Random
            weights are never used instead.
    """
    import timm

    is_timm_name = not name.startswith(("hf-hub:", "local-dir:"))
    if is_timm_name and not timm.is_model(name):
        raise _unknown(name, also_known)
    if is_timm_name and not timm.is_model_pretrained(name):
        raise WeightsNotFoundError(
            f"timm knows {name!r} and has no pretrained weights for it; random ones are of no use. "
            f"{_unknown(name, also_known)}"
        )
    weights = find_weights(name)
    try:
        # Everything it needs is on this machine now, and nothing else may be fetched.
        with hub_offline(), _MissingKeys() as missing:
            overlay = {"source": "", "file": str(weights), "custom_load": False}
            model = timm.create_model(name, pretrained=True, num_classes=0, pretrained_cfg_overlay=overlay)
    # safetensors and timm each raise their own kinds here.
    except Exception as error:
        raise not_found(name, error) from error
    untrained = sorted(missing.keys & dict(model.named_parameters()).keys())
    if untrained:
        raise WeightsNotFoundError(
            f"{weights} lacks {', '.join(untrained[:3])}{' and more' * (len(untrained) > 3)} of {name!r}, which would "
            "be left at random. Save the whole network, or choose another backbone."
        )
    return TimmNetwork(name, model, device, recipe=None if is_timm_name else _recipe(weights.parent))


def _recipe(folder: Path) -> dict[str, Any]:
    """What a folder's own configuration says of how its network computes, which the weights alone do not tell."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return {key: config.get(key) for key in ("architecture", "model_args", "global_pool")}


class _MissingKeys(logging.Filter):
    """Collects the names that timm says, in its log alone, it found no weights for.

    What this thread logs goes no further, and what others log goes where it would have gone. One at a time: within
    :func:`hub_offline`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.keys: set[str] = set()
        self._logger = logging.getLogger("timm.models._builder")
        self._thread = threading.get_ident()

    def filter(self, record: logging.LogRecord) -> bool:
        if threading.get_ident() != self._thread:
            return record.levelno >= self._usual_level
        found = re.match(r"Missing keys \((.*?)\)", record.getMessage())
        self.keys.update(found[1].split(", ") if found else ())
        return False

    def __enter__(self) -> Self:
        manager = self._logger.manager
        self._before = self._logger.level, self._logger.disabled, manager.disable
        # However quiet a program has made its logs: weights that are missing must be noticed.
        self._usual_level = max(self._logger.getEffectiveLevel(), manager.disable + 1)
        self._logger.disabled = False
        logging.disable(min(manager.disable, logging.INFO - 1))
        self._logger.addFilter(self)
        self._logger.setLevel(min(self._logger.getEffectiveLevel(), logging.INFO))
        return self

    def __exit__(self, *_: object) -> None:
        level, self._logger.disabled, disabled = self._before
        self._logger.setLevel(level)
        logging.disable(disabled)
        self._logger.removeFilter(self)


def _unknown(name: str, also_known: Sequence[str]) -> UnknownNameError:
    import timm

    known = timm.list_models(pretrained=True)
    # People write architectures; timm lists them with the names of their weights.
    error = unknown_name("backbone", name, {*also_known, *known, *(tagged.partition(".")[0] for tagged in known)})
    guess = str(error).split(" Available:")[0]
    return UnknownNameError(
        f"{guess} Packaged: {', '.join(also_known)}; or any pretrained timm model (timm.list_models(pretrained=True)), "
        "'hf-hub:org/model', 'local-dir:folder', or several joined with '+'."
    )


def _fingerprint(model: nn.Module, rest: list[Any]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
    digest.update(json.dumps(rest, sort_keys=True, default=str).encode())
    return digest.hexdigest()
