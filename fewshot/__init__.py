"""From two images to a classifier that can be trusted, and honest benchmarks of strategies that claim to get there.

Names are imported when they are first used, so that ``import fewshot`` takes no noticeable time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "FewShotClassifier": "fewshot.classifier",
    "FewshotError": "fewshot.errors",
    "ImageDataset": "fewshot.images.dataset",
    "ImageError": "fewshot.errors",
    "Report": "fewshot.report.model",
    "Strategy": "fewshot.strategies",
    "benchmark": "fewshot.benchmarking",
    "check": "fewshot.images.check",
    "compare": "fewshot.comparison",
    "evaluate_features": "fewshot.benchmarking",
    "list_augmentations": "fewshot.augment",
    "list_backbones": "fewshot.backbones",
    "list_heads": "fewshot.heads",
    "list_strategies": "fewshot.strategies",
    "load": "fewshot.modelfile",
    "load_backbone": "fewshot.backbones",
    "read_image": "fewshot.images.reader",
    "sample_episode": "fewshot.episodes",
}

__all__ = [
    "FewShotClassifier",
    "FewshotError",
    "ImageDataset",
    "ImageError",
    "Report",
    "Strategy",
    "benchmark",
    "check",
    "compare",
    "evaluate_features",
    "list_augmentations",
    "list_backbones",
    "list_heads",
    "list_strategies",
    "load",
    "load_backbone",
    "read_image",
    "sample_episode",
]

if TYPE_CHECKING:
    from fewshot.augment import list_augmentations
    from fewshot.backbones import list_backbones, load_backbone
    from fewshot.benchmarking import benchmark, evaluate_features
    from fewshot.classifier import FewShotClassifier
    from fewshot.comparison import compare
    from fewshot.episodes import sample_episode
    from fewshot.errors import FewshotError, ImageError
    from fewshot.heads import list_heads
    from fewshot.images.check import check
    from fewshot.images.dataset import ImageDataset
    from fewshot.images.reader import read_image
    from fewshot.modelfile import load
    from fewshot.report.model import Report
    from fewshot.strategies import Strategy, list_strategies


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'fewshot' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
