"""How a network is executed: prepared once for inference, with the same numbers as before."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


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
