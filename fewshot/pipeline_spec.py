"""An albumentations pipeline as text: equal texts make equal views, so that stored features can be trusted.

Of transforms that are not albumentations' own, the methods and attributes of the class are part of the text. Functions
and globals that these use are not seen: after editing such a helper, rename the class or use ``cache=False``.
"""

from __future__ import annotations

import hashlib
import json
import sys
from types import CodeType
from typing import Any

import numpy as np

from fewshot.errors import InvalidInputError

_NOT_BEHAVIOUR = frozenset(("__module__", "__doc__", "__firstlineno__", "__static_attributes__"))


def pipeline_spec(pipeline: Any) -> str:
    """Describe a pipeline as text.

    Raises:
        InvalidInputError: it holds a Lambda, or an argument that text cannot tell from another.
    """
    import albumentations

    try:
        described = pipeline.to_dict(on_not_implemented_error="raise")
        described.pop("__version__", None)
        text = json.dumps(described, sort_keys=True, default=_as_text)
        if '"__class_fullname__": "Lambda"' in text:
            raise ValueError("it holds a Lambda, whose name does not say what it does")
        code = [f"{kind.__module__}.{kind.__qualname__} {_code_of(kind)}" for kind in _foreign_transforms(pipeline)]
    except (NotImplementedError, ValueError, TypeError) as error:
        raise InvalidInputError(
            f"This augmentation cannot be described as text ({error}), so its views cannot be stored or saved; use "
            "albumentations' own transforms, or a named class instead of a Lambda."
        ) from None
    return " ".join([f"albumentations {albumentations.__version__} {text}", *code])


def _foreign_transforms(pipeline: Any) -> list[type]:
    """List the classes in a pipeline that are not albumentations' own: a version does not tell what they do."""
    import albumentations as A

    found: list[type] = []
    waiting = [pipeline]
    while waiting:
        transform = waiting.pop()
        parts = getattr(transform, "transforms", None) or []
        # ColorJitter keeps functions under that name.
        waiting += [part for part in parts if isinstance(part, (A.BasicTransform, A.BaseCompose))]
        found += [kind for kind in type(transform).__mro__ if not _is_installed(kind)]
    return list(dict.fromkeys(found))


def _is_installed(kind: type) -> bool:
    """Whether a class is what albumentations, or Python itself, has under its name."""
    ours = kind.__module__.partition(".")[0] in ("albumentations", "abc", "typing", "builtins")
    return ours and getattr(sys.modules.get(kind.__module__), kind.__qualname__, None) is kind


def _code_of(kind: type) -> str:
    """Digest a class's methods, so that the views of an edited transform are not taken for those of the old one."""
    digest = hashlib.blake2b(digest_size=16)

    def add(name: str, code: CodeType) -> None:
        digest.update(f"{name} {code.co_names} {code.co_varnames}".encode() + code.co_code)
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                add(constant.co_name, constant)
            else:
                # A set of strings has another order in every process.
                ordered = sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant
                digest.update(repr(ordered).encode())

    for name, value in sorted(vars(kind).items()):
        function = getattr(value, "__func__", value)
        if isinstance(getattr(function, "__code__", None), CodeType):
            add(name, function.__code__)
            cells = [cell.cell_contents for cell in function.__closure__ or ()]
            data = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).items(), *cells]
        else:
            data = [] if name in _NOT_BEHAVIOUR else [value]
        for item in data:
            # What has no text of its own (a class, a function) is left to its own code.
            if isinstance(item, np.ndarray):
                digest.update(item.tobytes())
            elif " at 0x" not in repr(item):
                ordered = sorted(map(repr, item)) if isinstance(item, (set, frozenset)) else item
                digest.update(f"{name} {ordered!r}".encode())
    return digest.hexdigest()


def _as_text(value: Any) -> Any:
    """Describe an argument of a transform so that two that differ never read the same."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        digest = hashlib.blake2b(np.ascontiguousarray(value).tobytes(), digest_size=16).hexdigest()
        return f"array {value.shape} {value.dtype} {digest}"
    if callable(value) or " object at 0x" in repr(value):
        raise TypeError(f"its argument {value!r} is code or a nameless object")
    return repr(value)
