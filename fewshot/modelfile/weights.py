"""``model.safetensors``: its header is read and compared with what is expected before a single tensor is."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, BinaryIO, TypeAlias

import numpy as np
import safetensors.torch
import torch
from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from fewshot.errors import ModelFileError
from fewshot.heads.base import Shape
from fewshot.modelfile.documents import parse_json
from fewshot.modelfile.schema import Table, TensorEntry
from fewshot.modelfile.values import AT_MOST_TENSORS, Dtype, Name
from fewshot.modelfile.values import Shape as Sizes

FILE_NAME = "model.safetensors"
MAX_BYTES = 1 << 30
_MAX_HEADER_BYTES = 4 << 20
_BYTES: dict[str, int] = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1}
_BYTES |= {"U8": 1, "BOOL": 1}
_NAMES: dict[torch.dtype, Dtype] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Expected:
    """Type and shape that a tensor must have; names in the shape stand for sizes that are free."""

    dtype: str
    shape: Shape

    @staticmethod
    def like(tensor: Tensor) -> Expected:
        """What would hold another tensor's values."""
        return Expected(_NAMES[tensor.dtype], tuple(tensor.shape))


class _HeaderEntry(Table):
    dtype: Dtype
    shape: Sizes
    data_offsets: Annotated[Sizes, Field(min_length=2, max_length=2)]


_Header: TypeAlias = Annotated[dict[Name, _HeaderEntry], AT_MOST_TENSORS]
_HEADER: TypeAdapter[Any] = TypeAdapter(_Header)


def read_header(file: BinaryIO, size: int) -> dict[str, TensorEntry]:
    """Read what tensors a file of ``size`` bytes holds; what they add up to is exactly the file.

    Raises:
        ModelFileError: damaged, or too large.
    """
    if size > MAX_BYTES:
        raise ModelFileError(f"{FILE_NAME} has {size / 1e9:.1f} GB; at most {MAX_BYTES >> 30} GiB are loaded")
    length = int.from_bytes(file.read(8), "little")
    if size < 10 or length > min(size - 8, _MAX_HEADER_BYTES):
        raise ModelFileError(f"{FILE_NAME} cannot be read: it is cut off, or not in the format of safetensors")
    header = parse_json(file.read(length), f"the header of {FILE_NAME}")
    if isinstance(header, dict):
        header.pop("__metadata__", None)
    try:
        entries: dict[str, _HeaderEntry] = _HEADER.validate_python(header)
    except (ValidationError, UnicodeEncodeError):
        raise ModelFileError(f"{FILE_NAME} cannot be read: its header is damaged") from None
    end = 0
    for entry in sorted(entries.values(), key=lambda entry: entry.data_offsets):
        begin, stop = entry.data_offsets
        if begin != end or stop - begin != _BYTES[entry.dtype] * math.prod(entry.shape):
            raise ModelFileError(f"{FILE_NAME} cannot be read: its header does not fit its tensors")
        end = stop
    if end != size - 8 - length:
        raise ModelFileError(f"{FILE_NAME} cannot be read: it has {size} bytes, its tensors need {8 + length + end}")
    return {name: TensorEntry(dtype=entry.dtype, shape=entry.shape) for name, entry in entries.items()}


def check_named(found: Mapping[str, TensorEntry], named: Mapping[str, TensorEntry]) -> None:
    """Refuse a file that holds other tensors than its ``config.json`` names.

    Raises:
        ModelFileError: with the first difference.
    """
    for name in sorted(found.keys() | named.keys()):
        ours, theirs = found.get(name), named.get(name)
        if not ours or not theirs or ours.shape != theirs.shape or theirs.dtype not in (None, ours.dtype):
            raise ModelFileError(f"{FILE_NAME} does not hold the tensors that config.json names: {name[:60]!r} differs")


def check_expected(found: Mapping[str, TensorEntry], expected: Mapping[str, Expected]) -> None:
    """Refuse tensors other than a head needs for its classes and features.

    Raises:
        ModelFileError: with the first tensor that is missing, too many, or of another type or shape.
    """
    free: dict[str, int] = {}
    for name in sorted(found.keys() | expected.keys()):
        ours, needed = found.get(name), expected.get(name)
        if ours is None or needed is None:
            raise ModelFileError(f"tensor {name[:60]!r} is {'missing' if ours is None else 'not one of its head'}")
        same = len(ours.shape) == len(needed.shape) and ours.dtype == needed.dtype
        for size, wanted in zip(ours.shape, needed.shape, strict=False):
            same &= size == (free.setdefault(wanted, max(1, size)) if isinstance(wanted, str) else wanted)
        if not same:
            wanted_shape = [free.get(size, size) if isinstance(size, str) else size for size in needed.shape]
            raise ModelFileError(
                f"tensor {name!r} is {ours.dtype} {ours.shape}; its head needs {needed.dtype} {wanted_shape} for the "
                "classes and features that config.json names"
            )


def tensors_from(data: bytes, digest: str | None) -> dict[str, Tensor]:
    """Turn a file's bytes into tensors.

    Raises:
        ModelFileError: the digest differs, or a value is not finite.
    """
    if digest is not None and weights_digest(data) != digest:
        raise ModelFileError(f"{FILE_NAME} was damaged after it was saved: its digest does not fit")
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(data)
    except SafetensorError as error:
        raise ModelFileError(f"{FILE_NAME} cannot be read: {error}") from None
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelFileError(f"tensor {name!r} holds values that are not finite")
    return tensors


def tensors_to(tensors: Mapping[str, Tensor]) -> bytes:
    """Write tensors in the format of safetensors."""
    # Views and orders in memory of their own are no part of what is learned.
    data: bytes = safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    return data


def weights_digest(data: bytes) -> str:
    """Digest a file's bytes: values, types, shapes and names of all its tensors."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def as_tensors(arrays: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, Tensor]:
    """Turn arrays into tensors."""
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
