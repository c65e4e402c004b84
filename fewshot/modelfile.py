"""Model folders: ``config.json``, ``model.safetensors`` and ``README.md``. No pickle is written, and none is read."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import fewshot
from fewshot.augment import POLICIES, load_policy
from fewshot.backbones import load_backbone
from fewshot.backbones.base import Backbone
from fewshot.classifier import FewShotClassifier
from fewshot.errors import FewshotError, ModelFileError
from fewshot.finetune.base import ImageHead
from fewshot.heads import HEADS
from fewshot.heads.base import Head

SCHEMA_VERSION = 1
_MAX_CONFIG_BYTES = 16 << 20
_FILES = frozenset(("config.json", "model.safetensors", "README.md"))
_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib")


def save(classifier: FewShotClassifier, path: str | os.PathLike[str]) -> None:
    """Write a fitted classifier to a folder, all of it or nothing; an older model there is replaced.

    A head of this package is saved as its tensors. A scikit-learn classifier has no form that is safe to load, so its
    training features are saved and it is fitted again on loading.

    Raises:
        NotFittedError: ``fit`` was not called.
        ModelFileError: the model could not be loaded again, the folder holds something else, or cannot be written.
    """
    from sklearn.utils.validation import check_is_fitted

    check_is_fitted(classifier)
    tensors, head = _describe_head(classifier)
    policy = load_policy(classifier.augmentation)
    config = {
        "schema": SCHEMA_VERSION,
        "fewshot": fewshot.__version__,
        "classes": classifier.classes_.tolist(),
        "class_dtype": classifier.classes_.dtype.str,
        "backbone": classifier.backbone_.spec if classifier.backbone_ else None,
        "backbone_fingerprint": classifier.backbone_.fingerprint if classifier.backbone_ else None,
        "head": head,
        "augmentation": policy.name,
        "n_views": int(classifier.n_views),
        "random_state": classifier.seed_,
        "tensors": {name: list(tensor.shape) for name, tensor in tensors.items()},
    }
    if classifier.classes_.dtype.kind not in "iufbU":
        if not all(isinstance(name, str) for name in classifier.classes_):
            raise ModelFileError(f"Labels of type {classifier.classes_.dtype} cannot be saved; use strings or numbers.")
        config["class_dtype"] = "str"
    check_target(path)
    _check_restorable(config, tensors)
    _write_folder(Path(os.path.realpath(path)), config, tensors)


def load(path: str | os.PathLike[str]) -> FewShotClassifier:
    """Read a classifier back from the folder that :meth:`FewShotClassifier.save` wrote.

    It predicts as before. An augmentation of one's own is not saved, so fitting it again would train without one.

    Raises:
        ModelFileError: no such folder, a file missing, damaged or of a newer version; weights of the backbone other
            than the model was trained with; or a pickle in the folder.
        WeightsNotFoundError: the backbone's weights are not here.
    """
    folder = Path(path)
    config = _read_config(folder)
    backbone = None
    if config["backbone"] is not None:
        backbone = load_backbone(config["backbone"])
        if backbone.fingerprint != config["backbone_fingerprint"]:
            raise ModelFileError(
                f"{folder} was trained with other weights of {config['backbone']!r} (fingerprint "
                f"{config['backbone_fingerprint']}, here {backbone.fingerprint}); its answers would be wrong. Install "
                f"the versions it was saved with (fewshot {config['fewshot']}), or train it again."
            )
    try:
        tensors = load_file(folder / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise ModelFileError(f"{folder / 'model.safetensors'} cannot be read: {error}") from None
    if {name: list(tensor.shape) for name, tensor in tensors.items()} != config["tensors"]:
        raise ModelFileError(f"{folder}: model.safetensors does not hold the tensors that config.json names.")
    try:
        return _restore(config, tensors, backbone)
    except FewshotError:
        raise
    # Any other failure means that the parts do not fit together.
    except Exception as error:
        raise ModelFileError(f"{folder} is damaged: {type(error).__name__}: {error}") from error


def _describe_head(classifier: FewShotClassifier) -> tuple[dict[str, Tensor], dict[str, Any]]:
    head = classifier.head_
    parameters = head.get_params(deep=False)
    try:
        written = json.loads(json.dumps(parameters))
    except TypeError:
        written = None
    # JSON has only strings as keys, and lists for tuples; lists do as well.
    if written != {k: list(v) if isinstance(v, tuple) else v for k, v in parameters.items()}:
        raise ModelFileError(
            f"{head!r} has a parameter that JSON cannot hold and cannot be saved; heads of this package and single "
            "scikit-learn classifiers with plain parameters can."
        )
    parameters = written
    if isinstance(head, (Head, ImageHead)):
        names = [name for name in HEADS if HEADS.load(name) is type(head)]
        if not names:
            raise ModelFileError(f"{type(head).__name__} is not registered as a head, so it could not be loaded again.")
        tensors = head.state_ if isinstance(head, Head) else head.tensors()
        return {k: v.contiguous() for k, v in tensors.items()}, {"name": names[0], "parameters": parameters}
    if type(head) is not _sklearn_classifiers().get(type(head).__name__):
        raise ModelFileError(f"{type(head).__name__} is neither a head of this package nor one of scikit-learn's own.")
    assert classifier.support_ is not None  # noqa: S101 - for the type checker: fit keeps it for such heads
    features, codes = classifier.support_
    return (
        {"features": torch.from_numpy(features), "codes": torch.from_numpy(codes)},
        {"sklearn": type(head).__name__, "parameters": parameters},
    )


def _check_restorable(config: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Refuse a model that could be saved and never loaded."""
    try:
        backbone = None if config["backbone"] is None else load_backbone(config["backbone"])
        if backbone is not None and backbone.fingerprint != config["backbone_fingerprint"]:
            raise ModelFileError(f"the name {config['backbone']!r} brings other weights")
        _restore(config, tensors, backbone)
    # Whatever it is that fails now would fail at loading.
    except Exception as error:
        raise ModelFileError(
            f"The model cannot be saved, because it could not be loaded again: {type(error).__name__}: {error}"
        ) from error


def _restore(config: dict[str, Any], tensors: Mapping[str, Tensor], backbone: Backbone | None) -> FewShotClassifier:
    classes: NDArray[Any] = np.array(config["classes"], dtype=np.dtype(config["class_dtype"]))
    description = config["head"]
    augmentation = config["augmentation"] if config["augmentation"] in POLICIES else None
    classifier = FewShotClassifier(
        backbone=config["backbone"] or FewShotClassifier().backbone,
        head=description.get("name", "linear-probe"),
        augmentation=augmentation,
        n_views=config["n_views"],
        random_state=config["random_state"],
    )
    classifier.support_, classifier.seed_ = None, config["random_state"]
    head: Any
    if "sklearn" in description:
        found = _sklearn_classifiers().get(description["sklearn"])
        if found is None:
            raise ModelFileError(f"scikit-learn has no classifier {description['sklearn']!r}.")
        head = found(**description["parameters"])
        classifier.head = head
        classifier.support_ = (tensors["features"].numpy(), tensors["codes"].numpy())
        head.fit(classifier.support_[0], classes[classifier.support_[1]])
    else:
        factory: Any = HEADS.load(description["name"])
        head = factory(**description["parameters"])
        classifier.head = factory(**description["parameters"])
        if isinstance(head, ImageHead):
            head.restore(tensors, classes, backbone)
        else:
            _restore_state(head, tensors, classes, backbone)
    classifier.head_, classifier.backbone_, classifier.classes_ = head, backbone, classes
    classifier.history_ = []
    return classifier


def _restore_state(head: Head, tensors: Mapping[str, Tensor], classes: NDArray[Any], backbone: Backbone | None) -> None:
    if backbone is None:
        raise ModelFileError("The model names no backbone, which its head needs.")
    head.state_, head.classes_, head.n_features_in_ = dict(tensors), classes, backbone.n_features
    shape = tuple(head._logits(head.state_, torch.zeros(1, backbone.n_features, dtype=torch.float64)).shape)
    if shape != (1, len(classes)):
        raise ModelFileError(f"The head gives {shape[-1]} scores for {len(classes)} classes.")


def _sklearn_classifiers() -> dict[str, Any]:
    from sklearn.utils import all_estimators

    return dict(all_estimators(type_filter="classifier"))


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        reason = "it has no config.json" if folder.is_dir() else "there is no such folder"
        raise ModelFileError(
            f"{folder} is not a model folder: {reason}. `fewshot fit PHOTOS -o {folder}` or classifier.save makes one."
        )
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in _PICKLES)
    if pickles:
        raise ModelFileError(
            f"{folder} holds {', '.join(pickles)}: pickles can run code when read, so such a folder is refused. "
            "Remove them if you trust the rest."
        )
    if file.stat().st_size > _MAX_CONFIG_BYTES:
        raise ModelFileError(f"{file} is larger than a configuration can be.")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelFileError(f"{file} is not valid JSON: {error}") from None
    schema = config.get("schema") if isinstance(config, dict) else None
    if not isinstance(schema, int) or schema > SCHEMA_VERSION:
        raise ModelFileError(
            f"{folder} has schema {schema!r}; this version of fewshot reads up to {SCHEMA_VERSION}. Run: pip install "
            "--upgrade fewshot"
        )
    kinds: dict[str, Any] = {
        "classes": list,
        "class_dtype": str,
        "backbone": (str, type(None)),
        "backbone_fingerprint": (str, type(None)),
        "head": dict,
        "augmentation": str,
        "n_views": int,
        "random_state": int,
        "tensors": dict,
        "fewshot": str,
    }
    for key, kind in kinds.items():
        if not isinstance(config.get(key, ...), kind):
            raise ModelFileError(f"{file}: {key!r} is missing or of the wrong type.")
    checked: dict[str, Any] = config
    return checked


def check_target(path: str | os.PathLike[str]) -> None:
    """Refuse to replace anything but an older model, and to write where nothing can be written.

    Raises:
        ModelFileError: the path is something else than a model folder or an empty one, or cannot be written.
    """
    folder = Path(os.path.realpath(path))
    parent = next((parent for parent in folder.parents if parent.exists()), folder)
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise ModelFileError(f"{path} cannot be written: {parent} is no folder that can be written to.")
    if not folder.exists():
        return
    names = {p.name for p in folder.iterdir()} if folder.is_dir() else None
    if names is None or (names and not (names <= _FILES and _is_model(folder))):
        raise ModelFileError(
            f"{path} exists and is not a model folder, or holds other files as well; choose another name, it is not "
            "overwritten."
        )


def _is_model(folder: Path) -> bool:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and {"schema", "fewshot"} <= set(config)


def _write_folder(path: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    # Built beside its place and moved there: a reader sees the old model or the new one, never half of one.
    fresh = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        fresh.mkdir(parents=True)
        (fresh / "config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        save_file(tensors, fresh / "model.safetensors")
        (fresh / "README.md").write_text(_readme(config), encoding="utf-8")
        old = fresh.with_name(fresh.name + "-old")
        if path.exists():
            path.rename(old)
        try:
            fresh.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise ModelFileError(f"{path} cannot be written: {error}") from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _readme(config: dict[str, Any]) -> str:
    head = config["head"].get("name") or config["head"]["sklearn"]
    classes = "\n".join(f"- {name}" for name in config["classes"])
    own = config["augmentation"] not in POLICIES
    custom = "\n\nIts augmentation was a pipeline of its author's own, which is not kept here." if own else ""
    return f"""# Image classifier

Trained with fewshot {config["fewshot"]}: head `{head}`, backbone `{config["backbone"] or "none"}`, augmentation
`{config["augmentation"]}`.

## Classes

{classes}

## Use

```python
import fewshot

classifier = fewshot.load("THIS_FOLDER")
classifier.predict(["new.jpg"])
classifier.predict_proba(["new.jpg"])
```

or `fewshot predict THIS_FOLDER new.jpg`.

## Limits

It knows only the classes above and gives one of them for any picture. It was trained on few images: test it on
pictures of your own before relying on it. Its probabilities order pictures by confidence; they are not calibrated, and
with one image per class they lie near to even.{custom}
"""
