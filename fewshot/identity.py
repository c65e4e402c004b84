"""What results depend on, as text that is equal exactly where results are: for journals and the names of cells."""

from __future__ import annotations

import functools
import hashlib
import platform
from collections.abc import Mapping
from types import CodeType, FunctionType
from typing import Any

import numpy as np
import torch

from fewshot.backbones.base import Backbone
from fewshot.preparation import Prepared
from fewshot.versions import package_version

# Versions that can change a result in a digit that is reported.
_PACKAGES = ("fewshot", "torch", "timm", "albumentations", "numpy", "scipy", "scikit-learn", "pillow", "openvino")


def machine_identity() -> dict[str, Any]:
    """Versions and kind of device."""
    return {
        "versions": {name: package_version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }


def backbone_identity(backbone: Backbone | None) -> str:
    """What determines a backbone's features to the last bit."""
    if backbone is None:
        return ""
    runtimes = "+".join(network.computed_by for network in backbone.networks)
    return f"{backbone.fingerprint} {runtimes}"


def head_identity(prepared: Prepared) -> str:
    """What determines what a head does with features."""
    head = prepared.head
    parameters = ", ".join(f"{name}={as_text(value)}" for name, value in sorted(head.get_params().items()))
    return f"{type(head).__module__}.{type(head).__qualname__}({parameters})"


def as_text(value: Any) -> str:
    """Write a parameter so that different values are told apart, and equal ones are equal in every process."""
    if isinstance(value, np.ndarray) and value.dtype != object:
        return f"array {value.shape} {value.dtype} {hashlib.blake2b(value.tobytes(), digest_size=8).hexdigest()}"
    if isinstance(value, np.ndarray):
        return f"array {as_text(value.tolist())}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{as_text(key)}: {as_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(as_text, value)) + "]"
    if isinstance(value, (set, frozenset)):
        return "{" + ", ".join(sorted(map(as_text, value))) + "}"
    if isinstance(value, CodeType):
        return digest_of(as_text([value.co_code.hex(), value.co_consts, value.co_names]))
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        parts = [value.__code__, value.__defaults__, value.__kwdefaults__, cells]
        return f"{value.__module__}.{value.__qualname__} {as_text(parts)}"
    if isinstance(value, functools.partial):
        return f"partial {as_text([value.func, value.args, value.keywords])}"
    if isinstance(value, np.random.RandomState):
        return f"RandomState {as_text(value.get_state())}"
    if hasattr(value, "get_params") and not isinstance(value, type):
        return f"{type(value).__qualname__}({as_text(value.get_params())})"
    if " at 0x" in repr(value):
        # The default representation tells an address, which is another in every process; what an object holds is not.
        return f"{type(value).__module__}.{type(value).__qualname__} {as_text(getattr(value, '__dict__', {}))}"
    return repr(value)


def digest_of(text: str) -> str:
    """Digest a text."""
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()
