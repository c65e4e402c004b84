"""The linear probe as a layer: where fine-tuning starts (LP-FT, arXiv:2202.10054)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fewshot.heads.linear_probe import LinearProbe


def linear_probe(features: Tensor, codes: NDArray[np.int64], C: float) -> nn.Linear:
    """Solve the linear probe on (m, d) features and put its weights into a layer for normalised features."""
    probe = LinearProbe(C=C).fit(features.double().numpy(), codes)
    layer = unset_linear(features.shape[1], len(probe.classes_))
    with torch.no_grad():
        layer.weight.copy_(probe.state_["weight"])
        layer.bias.copy_(probe.state_["bias"])
    return layer


def unset_linear(n_features: int, n_classes: int) -> nn.Linear:
    """Make a linear layer whose values are to be set; initial ones would be drawn from the caller's random numbers."""
    return nn.Linear(n_features, n_classes, device="meta").to_empty(device="cpu")
