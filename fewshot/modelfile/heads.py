"""A head as data: its name, its parameters and its tensors; and back, with everything checked on the way."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewshot.backbones.base import Backbone
from fewshot.errors import InvalidInputError, ModelFileError
from fewshot.finetune.base import ImageHead
from fewshot.heads import HEADS, name_of
from fewshot.heads.base import Head
from fewshot.modelfile.schema import OwnHead
from fewshot.modelfile.weights import Expected

# What a step costs grows with the support, and prediction takes as many: no more than a patient person would wait for.
_MAX_STEPS = 10_000
_MAX_WHOLE = 1_000_000


def describe_own(head: Head | ImageHead) -> dict[str, Any]:
    """Give the entry ``head`` for a head that is registered by name.

    Raises:
        ModelFileError: it is not registered, or a parameter cannot be kept.
    """
    name = name_of(head)
    if name is None:
        raise ModelFileError(f"{type(head).__name__} is not registered as a head, so it could not be loaded again")
    facts = head.facts() if isinstance(head, ImageHead) else {}
    return {"name": name, "parameters": plain_parameters(head), "facts": facts}


def plain_parameters(head: Any) -> dict[str, Any]:
    """Give a head's parameters as JSON keeps them.

    Raises:
        ModelFileError: one of them cannot be kept.
    """
    parameters = {k: list(v) if isinstance(v, tuple) else v for k, v in head.get_params(deep=False).items()}
    try:
        written = json.loads(json.dumps(parameters))
    except TypeError:
        written = None
    # JSON has only strings as keys.
    if written != parameters:
        raise ModelFileError(
            f"{head!r} has a parameter that JSON cannot hold and cannot be saved; heads of this package and single "
            "scikit-learn classifiers with plain parameters can, and among those are names of heads, not heads"
        )
    return parameters


def make_own(description: OwnHead) -> Head | ImageHead:
    """Make an unfitted head, its parameters checked.

    Raises:
        UnknownNameError: no head has this name.
        ModelFileError: a parameter it does not have, of another type, or out of range.
    """
    factory: Any = HEADS.load(description.name)
    signature = inspect.signature(factory).parameters
    for name, value in description.parameters.items():
        if name not in signature:
            raise ModelFileError(f"head {description.name!r} has no parameter {name[:60]!r}")
        if not _alike(value, signature[name].default):
            raise ModelFileError(f"head {description.name!r}: {name}={value!r} is of another type than it takes")
    head: Any = factory(**{**getattr(factory, "earlier", {}), **description.parameters})
    if not isinstance(head, (Head, ImageHead)):
        raise ModelFileError(f"{description.name!r} is no head that can be loaded")
    limit = _MAX_STEPS if isinstance(head, Head) else _MAX_WHOLE
    high = [name for name, value in description.parameters.items() if type(value) is int and value > limit]
    if high:
        raise ModelFileError(f"head {description.name!r}: {high[0]} is above {limit}")
    if isinstance(head, Head):
        try:
            head._check_parameters()
        except InvalidInputError as error:
            raise ModelFileError(f"head {description.name!r}: {error}") from None
    return head


def _alike(value: Any, default: Any) -> bool:
    """Whether a value is of the type of a parameter's default; a whole number is a number, too."""
    if default is inspect.Parameter.empty:
        return True
    if isinstance(default, (list, tuple)):
        kind = default[0] if default else 1.0
        return isinstance(value, list) and all(_alike(item, kind) for item in value)
    if default is None:
        return not isinstance(value, list) or all(_alike(item, 1.0) for item in value)
    return type(value) is type(default) or (isinstance(default, float) and type(value) is int)


def expected_tensors(
    head: Head | ImageHead,
    facts: Mapping[str, Any],
    n_classes: int,
    n_features: int | None,
    backbone: Backbone | None,
) -> dict[str, Expected]:
    """Say what a head's tensors must be, and give a head on images what else it had found.

    Raises:
        ModelFileError: it needs a width of features, or a backbone, that the model does not name, or cannot take
            what it had found.
    """
    if isinstance(head, Head):
        if n_features is None:
            raise ModelFileError("config.json: 'n_features' is missing, which its head needs")
        try:
            shapes = head.state_shapes(n_classes, n_features)
        except NotImplementedError:
            raise ModelFileError(
                f"{type(head).__name__} does not state the shapes of what it keeps; give it a method state_shapes"
            ) from None
        return {name: Expected("F64", shape) for name, shape in shapes.items()}
    try:
        head.restore_facts(facts)
        blank = head.blank_tensors(n_classes, backbone)
    except InvalidInputError as error:
        raise ModelFileError(str(error)) from None
    return {name: Expected.like(tensor) for name, tensor in blank.items()}


def fill(
    head: Head | ImageHead,
    tensors: Mapping[str, Tensor],
    classes: NDArray[Any],
    backbone: Backbone | None,
    n_features: int | None,
) -> None:
    """Give a head what it had learned, of tensors that are what :func:`expected_tensors` says.

    Raises:
        ModelFileError: its answers are not probabilities.
    """
    if isinstance(head, ImageHead):
        head.restore(tensors, classes, backbone)
        proba = head.predict_proba_images([np.full((64, 64, 3), 127, dtype=np.uint8)])
    else:
        assert n_features is not None  # noqa: S101 - for the type checker: a model without is refused before
        head.state_, head.classes_, head.n_features_in_ = dict(tensors), classes, n_features
        with torch.no_grad():
            proba = head.predict_proba(np.full((1, n_features), 0.5))
    # Weights far beyond any that are learned overflow.
    if proba.shape != (1, len(classes)) or not np.isfinite(proba).all():
        raise ModelFileError("its head does not give a probability for every class")
