"""What a classifier knows of its training images, as data: vectors as tensors, the rest in the configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from fewshot.errors import ModelFileError
from fewshot.expected import Evidence
from fewshot.known import MAX_IMAGES, Known
from fewshot.modelfile.schema import KnownEntry
from fewshot.modelfile.weights import Expected, as_tensors

_PREFIX = "known."


def describe_known(known: Known) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Give the entry ``known`` of the configuration, and its tensors."""
    entry = {
        "temperature": known.temperature,
        # JSON has no infinity.
        "novelty_threshold": known.novelty_threshold if math.isfinite(known.novelty_threshold) else None,
        "evidence": None if known.evidence is None else known.evidence._asdict(),
        "unlabeled": known.unlabeled is not None,
    }
    arrays: dict[str, np.ndarray[Any, Any]] = {"features": known.features, "codes": known.codes}
    if known.unlabeled is not None:
        arrays["unlabeled"] = known.unlabeled
    return entry, {_PREFIX + name: tensor for name, tensor in as_tensors(arrays).items()}


def expected_known(entry: KnownEntry | None, n_features: int | None) -> dict[str, Expected]:
    """Say what its tensors must be.

    Raises:
        ModelFileError: there are some, and the width of features is missing.
    """
    if entry is None:
        return {}
    if n_features is None:
        raise ModelFileError("config.json: 'known' needs a head that takes features")
    expected = {
        f"{_PREFIX}features": Expected("F32", ("n_known", n_features)),
        f"{_PREFIX}codes": Expected("I64", ("n_known",)),
    }
    if entry.unlabeled:
        expected[f"{_PREFIX}unlabeled"] = Expected("F32", ("n_unlabeled", n_features))
    return expected


def take_known(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take its tensors out of all that a model has, and leave the head's."""
    return {name.removeprefix(_PREFIX): tensors.pop(name) for name in list(tensors) if name.startswith(_PREFIX)}


def restore_known(entry: KnownEntry | None, tensors: Mapping[str, Tensor], n_classes: int) -> Known | None:
    """Make it again, of tensors that are what :func:`expected_known` says.

    Raises:
        ModelFileError: positions of classes that there are not, or classes without an image.
    """
    if entry is None:
        return None
    codes = tensors["codes"].numpy()
    if len(codes) > MAX_IMAGES + n_classes or not np.array_equal(np.unique(codes), np.arange(n_classes)):
        raise ModelFileError("its training images are not of the classes that config.json names")
    unlabeled = tensors["unlabeled"].numpy() if entry.unlabeled else None
    return Known(
        tensors["features"].numpy(),
        codes,
        entry.temperature,
        float("inf") if entry.novelty_threshold is None else entry.novelty_threshold,
        None if entry.evidence is None else Evidence(**entry.evidence.model_dump()),
        unlabeled,
    )
