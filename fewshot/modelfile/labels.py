"""Class labels as JSON, and back as exactly the array they were."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot.errors import ModelFileError

_MAX_BYTES = 64 << 20


def describe_labels(classes: NDArray[Any]) -> dict[str, Any]:
    """Give the entries ``classes`` and ``class_dtype``.

    Raises:
        ModelFileError: labels that JSON cannot hold.
    """
    if classes.dtype.kind in "iufbU":
        return {"classes": classes.tolist(), "class_dtype": classes.dtype.str}
    if not all(isinstance(name, str) for name in classes):
        raise ModelFileError(f"labels of type {classes.dtype} cannot be saved; use strings or numbers")
    return {"classes": classes.tolist(), "class_dtype": "str"}


def restore_labels(names: list[bool | int | float | str], dtype: str) -> NDArray[Any]:
    """Make the (n_classes,) labels.

    Args:
        names: as JSON holds them.
        dtype: numpy's name for their type, or ``"str"`` for strings as long as the longest.

    Raises:
        ModelFileError: labels that do not fit the type, or are not sorted and distinct.
    """
    kind = np.dtype(dtype)
    # numpy keeps every string in as many bytes as the longest, so one number could ask for all memory.
    if kind.itemsize * len(names) > _MAX_BYTES:
        raise ModelFileError(f"config.json: {len(names)} classes of type {dtype} need more than {_MAX_BYTES >> 20} MB")
    wanted = {"b": (bool,), "i": (int,), "u": (int,), "f": (float, int), "U": (str,)}[kind.kind]
    if not all(type(name) in wanted for name in names):
        raise ModelFileError(f"config.json: 'classes' are not all of type {dtype}, which 'class_dtype' says")
    if dtype == "str" and max(map(len, names)) * 4 * len(names) > _MAX_BYTES:  # type: ignore[arg-type]
        raise ModelFileError(f"config.json: {len(names)} classes with such long names need too much memory")
    try:
        with np.errstate(over="ignore"):
            classes = np.array(names, dtype=kind)
    except OverflowError:
        raise ModelFileError(f"config.json: 'classes' do not fit into {dtype}") from None
    if classes.tolist() != names:
        raise ModelFileError(f"config.json: 'classes' cannot be kept exactly as {dtype}")
    if not np.all(classes[:-1] < classes[1:]):
        raise ModelFileError("config.json: 'classes' are not sorted, or one stands twice")
    return classes
