"""Versions of packages, as part of what results depend on."""

from __future__ import annotations

import functools
import importlib.metadata

EXTRACTING = ("pillow", "timm", "torch", "openvino", "libjpeg")
"""What decodes, resizes and computes features: another version may do it otherwise."""
DRAWING = ("albumentations", "albucore", "cv2")
"""What draws augmented views."""
EVALUATING = ("fewshot", "numpy", "scipy", "scikit-learn")
"""What besides can change a result in a digit that is reported."""


@functools.cache
def package_version(package: str) -> str:
    """Give the version of an installed package, or ``"none"``."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def version_of(name: str) -> str:
    """Give the version of one of the names above, or ``"none"``; two of them are no packages of their own."""
    if name == "libjpeg":
        # Pillow brings it, or uses the system's.
        from PIL import features

        return features.version("jpg") or "none"
    if name == "cv2":
        # Several packages install it, each under a name of its own.
        import cv2

        return str(cv2.__version__)
    return package_version(name)
