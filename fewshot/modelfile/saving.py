"""Writing a model folder, all of it or nothing."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

from torch import Tensor

import fewshot
from fewshot.classifier import FewShotClassifier
from fewshot.errors import ModelFileError
from fewshot.files import cannot_write, show_size
from fewshot.finetune.base import ImageHead
from fewshot.fitting import training_policy
from fewshot.heads.base import Head
from fewshot.modelfile.documents import parse_json, write_json
from fewshot.modelfile.folder import FILES, ModelFolder
from fewshot.modelfile.heads import describe_own
from fewshot.modelfile.known import describe_known
from fewshot.modelfile.labels import describe_labels
from fewshot.modelfile.readme import write_readme
from fewshot.modelfile.replacing import STAGED, recover, replace_folder
from fewshot.modelfile.restoring import restore
from fewshot.modelfile.schema import SCHEMA_VERSION, read_config
from fewshot.modelfile.sklearn_heads import describe_sklearn
from fewshot.modelfile.weights import FILE_NAME, read_header, tensors_to, weights_digest


def save(classifier: FewShotClassifier, path: str | os.PathLike[str]) -> None:
    """Write a fitted classifier to a folder, all of it or nothing; an older model there is replaced.

    A head of this package is saved as its tensors. A scikit-learn classifier has no form that is safe to load, so its
    training features are saved and it is trained again on loading.

    Raises:
        NotFittedError: ``fit`` was not called.
        ModelFileError: the model could not be loaded again, the folder holds something else, or cannot be written.
    """
    from sklearn.utils.validation import check_is_fitted

    check_is_fitted(classifier)
    check_target(path)
    try:
        files = _files(classifier)
    # Whatever it is that fails now would fail at loading.
    except Exception as error:
        reason = str(error) if isinstance(error, ModelFileError) else f"{type(error).__name__}: {error}"
        raise ModelFileError(
            f"The model cannot be saved, because it could not be loaded again: {reason.rstrip('.')}."
        ) from error
    try:
        replace_folder(Path(os.path.realpath(path)), files)
    except OSError as error:
        needed = sum(map(len, files.values()))
        raise ModelFileError(f"{cannot_write(path, error)} The model needs {show_size(needed)}.") from None


def check_target(path: str | os.PathLike[str]) -> None:
    """Refuse to replace anything but an older model, and to write where nothing can be written.

    Raises:
        ModelFileError: the path is something else than a model folder or an empty one, or cannot be written.
    """
    folder = Path(os.path.realpath(path))
    recover(folder)
    if os.path.lexists(folder) and not folder.is_dir():
        raise _occupied(path)
    # What lies around an existing folder need not be open: its files can be replaced where they are.
    place = next((place for place in (folder, *folder.parents) if place.exists()), folder)
    if not place.is_dir() or not os.access(place, os.R_OK | os.W_OK | os.X_OK):
        raise ModelFileError(f"{path} cannot be written: {place} is no folder that can be written to.")
    if place == folder and not _replaceable(folder):
        raise _occupied(path)


def _occupied(path: str | os.PathLike[str]) -> ModelFileError:
    return ModelFileError(
        f"{path} exists and is not a model folder, or holds other files as well; choose another name, it is not "
        "overwritten."
    )


def _replaceable(folder: Path) -> bool:
    """Whether a folder is empty, a model, or what is left of saving one there."""
    names = {entry.name for entry in folder.iterdir()}
    if os.path.ismount(folder):
        names.discard("lost+found")
    staged = {name for name in names if name.startswith(STAGED)}
    return not names or (names - staged <= FILES and (bool(staged) or _is_model(folder)))


def _is_model(folder: Path) -> bool:
    try:
        with ModelFolder(folder) as opened:
            config = parse_json(opened.read("config.json"), "config.json")
    except ModelFileError:
        return False
    return isinstance(config, dict) and {"schema", "fewshot"} <= set(config)


def _files(classifier: FewShotClassifier) -> dict[str, bytes]:
    """Make the files of a model folder, and load them once to see that they can be."""
    head, tensors = _describe_head(classifier)
    known = None
    if classifier.known_ is not None:
        known, kept = describe_known(classifier.known_)
        tensors = tensors | kept
    weights = tensors_to(tensors)
    backbone = classifier.backbone_
    representation, space = classifier.representation_, classifier.space_
    config: dict[str, Any] = {
        "schema": SCHEMA_VERSION,
        "fewshot": fewshot.__version__,
        **describe_labels(classifier.classes_),
        "backbone": backbone.spec if backbone else None,
        "backbone_fingerprint": backbone.fingerprint if backbone else None,
        "representation": {
            "name": representation.name,
            "fingerprint": representation.fingerprint,
            "shares": dict(space.shares),
        }
        if representation and space
        else None,
        "known": known,
        "n_features": space.width if space else None,
        "head": head,
        "augmentation": training_policy(classifier.augmentation, representation, head=classifier.head_).name,
        "n_views": int(classifier.n_views),
        "random_state": classifier.seed_,
        "tensors": {name: entry.model_dump() for name, entry in read_header(io.BytesIO(weights), len(weights)).items()},
        "tensors_digest": weights_digest(weights),
    }
    text = write_json(config)
    restore(read_config(parse_json(text, "config.json")), io.BytesIO(weights), len(weights), None, trusted=True)
    readme = write_readme(config).encode("utf-8", "backslashreplace")
    return {"config.json": text, FILE_NAME: weights, "README.md": readme}


def _describe_head(classifier: FewShotClassifier) -> tuple[dict[str, Any], dict[str, Tensor]]:
    head = classifier.head_
    if isinstance(head, Head):
        return describe_own(head), dict(head.state_)
    if isinstance(head, ImageHead):
        return describe_own(head), head.tensors()
    assert classifier.support_ is not None  # noqa: S101 - for the type checker: fit keeps it for such heads
    return describe_sklearn(head, classifier.support_)
