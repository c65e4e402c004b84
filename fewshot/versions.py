"""Versions of packages, as part of what results depend on."""

from __future__ import annotations

import functools
import importlib.metadata


@functools.cache
def package_version(package: str) -> str:
    """Give the version of an installed package, or ``"none"``."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"
