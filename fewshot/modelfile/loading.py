"""Reading a model folder."""

from __future__ import annotations

import os
from pathlib import Path

from fewshot.backbones.base import Backbone
from fewshot.classifier import FewShotClassifier
from fewshot.errors import ModelFileError
from fewshot.modelfile.documents import parse_json
from fewshot.modelfile.folder import ModelFolder, NoModelError
from fewshot.modelfile.replacing import present
from fewshot.modelfile.restoring import restore
from fewshot.modelfile.schema import read_config
from fewshot.modelfile.weights import FILE_NAME

_ATTEMPTS = 5


def load(path: str | os.PathLike[str], *, backbone: str | Backbone | None = None) -> FewShotClassifier:
    """Read a classifier back from the folder that :meth:`FewShotClassifier.save` wrote.

    It predicts as before. An augmentation of one's own is not saved, so fitting it again would train without one.

    The folder is not trusted: nothing in it is run, and nothing is allocated before it is checked. Nothing on the disk
    is changed. A scikit-learn classifier is trained again on its training features, which takes as long as it took.

    Args:
        path: the folder.
        backbone: the backbone to use, in place of the one that the folder names. It has to have the same weights and
            preprocessing. Needed where the folder names a place (``hf-hub:``, ``local-dir:``): a file from elsewhere
            must not decide what is fetched or read.

    Raises:
        ModelFileError: no such folder, a file missing, damaged or of a newer version; weights of the backbone other
            than the model was trained with; or anything else in the folder, such as a pickle.
        UnknownNameError: a head or backbone nobody registered.
        WeightsNotFoundError: the backbone's weights are not here.
    """
    for attempt in range(_ATTEMPTS):
        place = present(Path(path))
        with _opened(path, place) as folder:
            try:
                return _load(folder, backbone)
            except ModelFileError as error:
                # Saved again while it was read: what was opened is the old model, perhaps half removed by now.
                if attempt + 1 < _ATTEMPTS and (folder.replaced or present(Path(path)) != place):
                    continue
                raise _cannot_load(path, error) from error.__cause__
    raise AssertionError("the last attempt returns or raises")  # unreachable


def _opened(path: str | os.PathLike[str], place: Path) -> ModelFolder:
    try:
        return ModelFolder(place)
    except ModelFileError as error:
        raise _cannot_load(path, error) from None


def _cannot_load(path: str | os.PathLike[str], error: ModelFileError) -> ModelFileError:
    what = "is not a model folder" if isinstance(error, NoModelError) else "cannot be loaded"
    return ModelFileError(f"{os.fspath(path)} {what}: {error}")


def _load(folder: ModelFolder, backbone: str | Backbone | None) -> FewShotClassifier:
    config_bytes = folder.read("config.json")
    folder.refuse_others()
    config = read_config(parse_json(config_bytes, "config.json"))
    with folder.open(FILE_NAME) as file:
        size = os.fstat(file.fileno()).st_size
        return restore(config, file, size, backbone, trusted=False)
