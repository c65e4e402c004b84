"""Networks small enough to train in a test, and pictures that their frozen features do not tell apart."""

import numpy as np
import torch
from torch import nn

from fewshot.backbones.timm import TimmNetwork


def make_network(name="test_efficientnet", size=32, **options):
    """Make a tiny network with random weights, whose batch norms hold statistics of something."""
    import timm

    torch.manual_seed(0)
    overlay = {"input_size": (3, size, size)}
    model = timm.create_model(name, pretrained=False, num_classes=0, pretrained_cfg_overlay=overlay, **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.8, 1.2)
    return TimmNetwork(name, model, "cpu")


def halves(n, seed):
    """Draw noisy pictures whose halves are of one colour (class 0) or of two (class 1), each colour as often.

    Pooled features are about the mean over both halves, which is the same for both classes.
    """
    rng = np.random.default_rng(seed)
    pictures = rng.integers(0, 40, (n, 32, 32, 3))
    left, codes = np.arange(n) // 2 % 2, np.arange(n) % 2
    for picture, a, b in zip(pictures, left, left ^ codes, strict=True):
        picture[:, :16, 2 * a] += 180
        picture[:, 16:, 2 * b] += 180
    return list(pictures.astype(np.uint8)), codes
