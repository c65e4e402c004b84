"""What results depend on, as text that is equal exactly where results are: for journals and the names of cells."""

from __future__ import annotations

import functools
import hashlib
import platform
import secrets
from collections.abc import Mapping
from copyreg import dispatch_table
from types import BuiltinFunctionType, CodeType, EllipsisType, FunctionType, MethodType, ModuleType, NoneType
from typing import Any

import numpy as np
import torch

from fewshot.backbones.base import Backbone
from fewshot.preparation import Prepared
from fewshot.representation.base import Representation
from fewshot.versions import DRAWING, EVALUATING, EXTRACTING, version_of

_LONGEST = 1000
# Their text tells all of them, and is the same in every process.
_PLAIN = (NoneType, bool, int, float, complex, str, bytes, EllipsisType)


def machine_identity() -> dict[str, Any]:
    """Versions and kind of device."""
    versions = {name: version_of(name) for name in (*EVALUATING, *EXTRACTING, *DRAWING)}
    return {
        "versions": versions | {"python": platform.python_version()},
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }


def backbone_identity(backbone: Backbone | None) -> str:
    """What determines a backbone's features to the last bit."""
    if backbone is None:
        return ""
    runtimes = "+".join(network.computed_by for network in backbone.networks)
    return f"{backbone.fingerprint} {runtimes}"


def representation_identity(representation: Representation | None) -> list[str]:
    """What determines a representation's parts besides the backbone; nothing for features as they are."""
    if representation is None or representation.name == "plain":
        return []
    runtimes = "+".join(network.computed_by for network in representation.networks)
    return [f"{representation.name} {representation.fingerprint} {runtimes}"]


def head_identity(prepared: Prepared) -> str:
    """What determines what a head does with features."""
    head = prepared.head
    parameters = ", ".join(f"{name}={as_text(value)}" for name, value in sorted(head.get_params().items()))
    return f"{type(head).__module__}.{type(head).__qualname__}({parameters})"


def as_text(value: Any) -> str:
    """Write a parameter so that different values are told apart, and equal ones are equal in every process.

    What cannot be told apart, such as a lock or an open file, is never equal to anything.
    """
    try:
        return _text(value, ())
    except RecursionError:
        return _unlike_all(value)


def digest_of(text: str) -> str:
    """Digest a text."""
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


def _text(value: Any, above: tuple[int, ...]) -> str:
    """Write a value that is a part of those with the ids ``above``, the outermost first."""
    if type(value) in _PLAIN:
        plain = repr(value)
        return plain if len(plain) <= _LONGEST else f"{plain[:40]}... {digest_of(plain)}"
    if id(value) in above:
        return f"<the one {above[::-1].index(id(value))} above>"
    above = (*above, id(value))
    if type(value) is np.ndarray and not value.dtype.hasobject:
        # Its own text leaves out the middle.
        return f"array {value.shape} {value.dtype} {hashlib.blake2b(value.tobytes(), digest_size=8).hexdigest()}"
    if isinstance(value, ModuleType):
        return f"module {value.__name__}"
    if isinstance(value, type):
        return f"class {value.__module__}.{value.__qualname__}"
    if type(value) in (list, tuple):
        return "[" + ", ".join(_text(item, above) for item in value) + "]"
    if type(value) in (set, frozenset):
        return "{" + ", ".join(sorted(_text(item, above) for item in value)) + "}"
    if type(value) is dict:
        return "{" + ", ".join(f"{_text(key, above)}: {_text(item, above)}" for key, item in value.items()) + "}"
    return f"{type(value).__module__}.{type(value).__qualname__} {_text(_parts(value), above)}"


def _parts(value: Any) -> Any:
    """Give what an object consists of, as plain containers of it."""
    if isinstance(value, CodeType):
        return [value.co_code.hex(), value.co_consts, value.co_names, value.co_flags]
    if isinstance(value, FunctionType):
        return _parts_of_function(value)
    if isinstance(value, MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, BuiltinFunctionType):
        return [value.__qualname__, value.__self__]
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if hasattr(value, "get_params"):
        return value.get_params()
    if type(value) is np.ndarray:
        return [value.shape, value.dtype, value.tolist()]
    if type(value) is torch.Tensor and value.layout is torch.strided:
        numbers = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        return [str(value.dtype), tuple(value.shape), numbers]
    return _parts_of_state(value)


def _parts_of_function(function: FunctionType) -> list[Any]:
    cells = []
    for cell in function.__closure__ or ():
        try:
            cells.append([cell.cell_contents])
        except ValueError:  # nothing is in it yet
            cells.append([])
    parts = [f"{function.__module__}.{function.__qualname__}", function.__code__, function.__defaults__]
    return [*parts, function.__kwdefaults__, cells, *_globals_of(function)]


def _globals_of(function: FunctionType) -> list[Mapping[str, Any]]:
    """Give what a function of a script or a notebook takes from there; a module's own is told by its version."""
    if function.__module__ != "__main__":
        return []
    names: set[str] = set()
    codes = [function.__code__]
    for code in codes:
        names.update(code.co_names)
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return [{name: function.__globals__[name] for name in sorted(names & function.__globals__.keys())}]


def _parts_of_state(value: Any) -> Any:
    """Give what an object would be made again from, as ``copy`` and ``pickle`` do it."""
    reduce = dispatch_table.get(type(value))
    try:
        reduced = reduce(value) if reduce else value.__reduce_ex__(4)
    # Any class may refuse in a way of its own.
    except Exception:
        return _unlike_all(value)
    if isinstance(reduced, str):
        # A name in its module, such as that of a function whose answers are kept.
        return [getattr(value, "__module__", None), reduced, getattr(value, "__wrapped__", None)]
    # Behind the first three come the items of a list and of a dictionary, as iterators.
    return [*reduced[:3], *(list(items) for items in reduced[3:5] if items is not None)]


def _unlike_all(value: Any) -> str:
    return f"{type(value).__qualname__} {secrets.token_hex(8)}"
