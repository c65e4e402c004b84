"""From a checked configuration and checked tensors to a classifier: what saving tries and loading does."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, BinaryIO

from torch import Tensor

from fewshot.augment import POLICIES
from fewshot.backbones import is_place, load_backbone
from fewshot.backbones.base import Backbone
from fewshot.classifier import FewShotClassifier
from fewshot.errors import FewshotError, ModelFileError
from fewshot.modelfile.heads import expected_tensors, fill, make_own
from fewshot.modelfile.known import expected_known, restore_known, take_known
from fewshot.modelfile.labels import restore_labels
from fewshot.modelfile.schema import Config, SklearnHead
from fewshot.modelfile.sklearn_heads import expected_sklearn, fit_again, make_sklearn
from fewshot.modelfile.weights import Expected, check_expected, check_named, read_header, tensors_from
from fewshot.representation import load_representation
from fewshot.representation.base import Representation, Space

_MAX_NETWORKS = 8
_MAX_SPEC = 4096


def restore(
    config: Config, file: BinaryIO, size: int, backbone: str | Backbone | None, *, trusted: bool
) -> FewShotClassifier:
    """Make the classifier that a configuration and a file of tensors describe.

    Everything is checked before what it says is allocated: first the configuration, then the header of the tensors,
    then their digest and values.

    Args:
        config: of the newest schema.
        file: ``model.safetensors``, open at its beginning.
        size: of that file in bytes.
        backbone: what the caller says the backbone is; ``None`` to go by the configuration.
        trusted: whether the configuration may name a place to load a backbone from.

    Raises:
        ModelFileError: the parts do not fit together.
        UnknownNameError: a head or backbone nobody registered.
        WeightsNotFoundError: the backbone's weights are not here.
    """
    found = read_header(file, size)
    check_named(found, config.tensors)
    classes = restore_labels(config.classes, config.class_dtype)
    make = functools.partial(_unfitted, config)
    head, network, representation, space = make(), None, None, None
    if getattr(head, "needs_backbone", True):
        if config.n_features is not None:
            # Before the backbone, which takes longer to load than anything else.
            check_expected(found, _expected(config, head, len(classes), None))
        network = _backbone(config, backbone, trusted)
        if config.n_features is not None:
            representation, space = _representation(config, network)
    check_expected(found, _expected(config, head, len(classes), network))
    file.seek(0)
    tensors = tensors_from(file.read(size), config.tensors_digest)
    known = restore_known(config.known, take_known(tensors), len(classes))
    classifier = FewShotClassifier(
        backbone=backbone or config.backbone or FewShotClassifier().backbone,
        head=make(),
        augmentation=config.augmentation if config.augmentation in POLICIES else None,
        n_views=config.n_views,
        random_state=config.random_state,
        representation=representation.name if representation else "plain",
    )
    classifier.support_, classifier.seed_, classifier.history_ = None, config.random_state, []
    if isinstance(config.head, SklearnHead):
        classifier.support_ = fit_again(head, config.head, tensors, classes)
    else:
        _fill(head, tensors, classes, network, config.n_features)
    classifier.head_, classifier.backbone_, classifier.classes_ = head, network, classes
    classifier.representation_, classifier.space_, classifier.known_ = representation, space, known
    return classifier


def _unfitted(config: Config) -> Any:
    return make_sklearn(config.head) if isinstance(config.head, SklearnHead) else make_own(config.head)


def _expected(config: Config, head: Any, n_classes: int, network: Backbone | None) -> dict[str, Expected]:
    if isinstance(config.head, SklearnHead):
        expected = expected_sklearn(config.head, config.n_features)
    else:
        expected = expected_tensors(head, config.head.facts, n_classes, config.n_features, network)
    return expected | expected_known(config.known, config.n_features)


def _fill(
    head: Any,
    tensors: Mapping[str, Tensor],
    classes: Any,
    network: Any,
    n_features: int | None,
) -> None:
    try:
        fill(head, tensors, classes, network, n_features)
    except FewshotError:
        raise
    # Values that pass every check and still make a method fail: a bad file, whatever the method raises.
    except Exception as error:
        raise ModelFileError(f"its parts do not fit together: {type(error).__name__}: {error}") from error


def _representation(config: Config, network: Backbone) -> tuple[Representation, Space]:
    """Make what the head's features are made by, and put the shares that they had in training back."""
    entry = config.representation
    if entry is None:
        raise ModelFileError("config.json: 'representation' is missing, which its head needs")
    if entry.name == "auto":
        raise ModelFileError("it names 'auto' as its representation, which says nothing of its features")
    representation = load_representation(entry.name, network)
    if entry.fingerprint != representation.fingerprint:
        raise ModelFileError(
            f"its features were made in another way than this version makes its representation {entry.name!r} "
            f"(fingerprint {entry.fingerprint[:40]}, here {representation.fingerprint}); its answers would be wrong. "
            f"Install the versions it was saved with (fewshot {config.fewshot[:40]}), or train it again."
        )
    if entry.shares.keys() != representation.widths.keys():
        raise ModelFileError(
            f"its representation {entry.name!r} has the parts {', '.join(representation.widths)}, and it names others"
        )
    space = Space(dict(entry.shares), representation.widths)
    if config.n_features != space.width:
        raise ModelFileError(f"it takes {config.n_features} features; its backbone gives {space.width}")
    return representation, space


def _backbone(config: Config, given: str | Backbone | None, trusted: bool) -> Backbone:
    spec = config.backbone
    if spec is None or config.backbone_fingerprint is None:
        raise ModelFileError("it names no backbone, which its head needs")
    if len(spec) > _MAX_SPEC:
        raise ModelFileError(f"it names its backbone in {len(spec)} characters")
    if given is None and not trusted:
        if is_place(spec):
            raise ModelFileError(
                f"it names {spec!r} as its backbone. A model folder may come from anyone, so what it names is not "
                f"fetched from any place unasked. If you know the backbone, say so: fewshot.load(FOLDER, "
                f"backbone={spec!r}), or on the command line --backbone {spec!r}"
            )
        if spec.count("+") >= _MAX_NETWORKS:
            raise ModelFileError(f"it joins more than {_MAX_NETWORKS} networks as its backbone")
    backbone = load_backbone(given or spec)
    if config.backbone_fingerprint not in (backbone.fingerprint, *backbone.former_fingerprints):
        raise ModelFileError(
            f"it was trained with other weights of {spec!r} (fingerprint {config.backbone_fingerprint[:40]}, here "
            f"{backbone.fingerprint}); its answers would be wrong. Install the versions it was saved with (fewshot "
            f"{config.fewshot[:40]}), or train it again."
        )
    return backbone
