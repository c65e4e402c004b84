"""How a network is executed: prepared once for inference, by PyTorch or OpenVINO, with the same numbers as before."""

from __future__ import annotations

import contextlib
import copy
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from fewshot.backbones import openvino
from fewshot.errors import InvalidInputError, MissingExtraError
from fewshot.names import unknown_name

RUNTIMES = ("auto", "openvino", "pytorch")
_MIN_COSINE = 0.9999

Forward: TypeAlias = "Callable[[NDArray[np.uint8]], NDArray[np.float32]]"
"""Maps (b, S, S, 3) uint8 to (b, n_features) float32."""


@dataclass(frozen=True)
class Engine:
    """What executes a network.

    Attributes:
        name: ``"pytorch"``, ``"openvino"`` or ``"cuda-autocast"``; part of the keys of stored features, because
            engines differ in the last bits.
        forward: runs pictures through the network, from any thread.
    """

    name: str
    forward: Forward


class PixelNetwork(nn.Module):
    """A prepared network that takes pixels: what is subtracted and divided by is part of it.

    Args:
        network: maps (b, 3, S, S) float32 to features.
        mean: per channel, on the scale of 0..255.
        std: per channel, on the scale of 0..255.
    """

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.network, self.mean, self.std = network, mean, std

    def forward(self, pixels: Tensor) -> Tensor:
        """Map (b, S, S, 3) uint8 to (b, n_features)."""
        features: Tensor = self.network((pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std)
        return features


def resolve_runtime(runtime: str | None, device: str) -> str:
    """Check a runtime's name; without one take ``FEWSHOT_RUNTIME`` from the environment, else ``"auto"``.

    Raises:
        UnknownNameError: no such runtime.
        MissingExtraError: OpenVINO is asked for and not installed.
        InvalidInputError: OpenVINO is asked for on a device other than the CPU.
    """
    name = runtime or os.environ.get("FEWSHOT_RUNTIME") or "auto"
    if name not in RUNTIMES:
        raise unknown_name("runtime", name, RUNTIMES)
    if name == "openvino" and device != "cpu":
        raise InvalidInputError(f"runtime='openvino' runs on the CPU, not on {device!r}; use runtime='auto' there.")
    if name == "openvino" and not openvino.is_installed():
        raise MissingExtraError("OpenVINO is not installed. Run: pip install 'fewshot[openvino]'")
    return name


def start_engine(network: PixelNetwork, *, runtime: str, device: str, size: int, name: str) -> Engine:
    """Choose what executes a network, and check its features against PyTorch's in float32.

    Args:
        network: the prepared network, on ``device``.
        runtime: one of :data:`RUNTIMES`. ``"auto"`` takes OpenVINO on a CPU where it is installed, float16 where
            that is safe on CUDA, and otherwise PyTorch in float32, which is also what ``"pytorch"`` means everywhere.
        device: where the network is.
        size: side of its pictures in pixels.
        name: what to call the network in messages.

    Raises:
        InvalidInputError: OpenVINO is asked for, and does not convert the network or gives other features.
    """
    exact = Engine("pytorch", _pytorch(network, device))
    try:
        if runtime != "pytorch" and device == "cpu" and openvino.is_installed():
            engine = Engine("openvino", openvino.CompiledNetwork(network, size))
        elif runtime == "auto" and device.startswith("cuda"):
            engine = Engine("cuda-autocast", _pytorch(network, device, half=torch.float16))
        else:
            return exact
        _check_same(engine.forward, exact.forward, size)
    # Converters raise errors of many kinds, and all mean the same here.
    except Exception as error:
        reason = f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]}"
        if runtime != "auto":
            raise InvalidInputError(
                f"runtime={runtime!r} cannot run {name!r} ({reason}); use runtime='auto' or 'pytorch'."
            ) from error
        warnings.warn(
            f"{name!r} is run by PyTorch in float32, slower but right: the faster runtime failed ({reason}). "
            "runtime='pytorch' or FEWSHOT_RUNTIME=pytorch avoids the attempt.",
            RuntimeWarning,
            stacklevel=2,
        )
        return exact
    return engine


def _pytorch(network: PixelNetwork, device: str, *, half: torch.dtype | None = None) -> Forward:
    """Run by PyTorch: in float32, or with what ``torch.autocast`` holds to be safe in a shorter type."""

    def forward(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        # Not every device that PyTorch knows has an autocast to be turned off.
        precision = contextlib.nullcontext() if half is None else torch.autocast(torch.device(device).type, half)
        # Pixels arrive channels last, as the network's weights are.
        with torch.inference_mode(), precision:
            features: Tensor = network(torch.from_numpy(pixels).to(device))
        return features.float().cpu().numpy()

    return forward


def _check_same(forward: Forward, exact: Forward, size: int) -> None:
    pictures = _check_pictures(size)
    ours, theirs = (f(pictures).astype(np.float64) for f in (forward, exact))
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosine = float(((ours * theirs).sum(axis=1) / norms).min())
    # Written so that NaN fails.
    if not cosine >= _MIN_COSINE:
        raise ValueError(f"its features have a cosine of {cosine:.6f} with PyTorch's, below {_MIN_COSINE}")


def _check_pictures(size: int) -> NDArray[np.uint8]:
    """Draw four fixed pictures, (4, size, size, 3): coarse and fine clouds, and clouds and noise on a gradient.

    Smooth ones are like photographs, where an engine's errors add up; white noise alone averages them away. A bare
    gradient is like no photograph: float16 turns its EfficientNet-Lite0 features by 3e-4, those of photographs by 2e-5.
    """
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 255, size)
    gradient = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, :], ramp[::-1, None]), axis=-1)
    clouds = [
        np.asarray(
            Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)).resize(
                (size, size), Image.Resampling.BICUBIC
            )
        )
        for cells in (5, 32)
    ]
    noisy = np.clip(gradient + rng.normal(0, 40, gradient.shape), 0, 255)
    return np.stack([picture.astype(np.uint8) for picture in (*clouds, (gradient + clouds[0]) / 2, noisy)])


def prepare(model: nn.Module, example: Tensor) -> nn.Module:
    """Copy a network for inference: frozen, batch norms folded into convolutions, channels last.

    Args:
        model: the network, in any mode; it is left unchanged.
        example: (1, 3, S, S) float input, on the network's device, by which the copy is checked.

    Returns:
        A network that computes the same to float32 rounding; unfolded where folding would change the result.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    with torch.no_grad():
        expected = model(example)
        folded = _fold_batch_norms(copy.deepcopy(model), example)
        same = torch.allclose(folded(example), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()) + 1e-6)
    return (folded if same else model).to(memory_format=torch.channels_last)


def _fold_batch_norms(model: nn.Module, example: Tensor) -> nn.Module:
    """Fold each batch norm that directly follows a convolution; which do is seen by running the example."""
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def after_convolution(module: nn.Module, _: Any, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)  # noqa: S101 - for the type checker
        outputs[id(output)] = (module, output)  # holding the tensor keeps its id from being used again

    def before_batch_norm(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.BatchNorm2d)  # noqa: S101 - for the type checker
        if id(inputs[0]) in outputs:
            pairs.append((outputs[id(inputs[0])][0], module))

    handles = [m.register_forward_hook(after_convolution) for m in model.modules() if type(m) is nn.Conv2d]
    handles += [
        m.register_forward_pre_hook(before_batch_norm) for m in model.modules() if isinstance(m, nn.BatchNorm2d)
    ]
    try:
        model(example)
    finally:
        for handle in handles:
            handle.remove()
    for convolution, norm in pairs:
        _fold(convolution, norm)
    replacements = {id(norm): _what_remains(norm) for _, norm in pairs}
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if id(child) in replacements:
                setattr(parent, name, replacements[id(child)])
    return model


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None  # noqa: S101 - for the type checker: a network in eval mode has them
    assert norm.running_var is not None  # noqa: S101
    weight, bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    convolution.weight = nn.Parameter(weight, requires_grad=False)
    convolution.bias = nn.Parameter(bias, requires_grad=False)


def _what_remains(norm: nn.BatchNorm2d) -> nn.Module:
    """Keep what timm's ``BatchNormAct2d`` does after normalising: an activation."""
    return getattr(norm, "act", None) or nn.Identity()
