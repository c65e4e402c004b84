"""Tables of names: heads, backbones, augmentation policies and strategies are all looked up here.

Adding one costs one file and one line in its table; another package adds one through an entry point.
"""

from __future__ import annotations

import ast
import difflib
import importlib
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fewshot.errors import UnknownNameError


def unknown_name(kind: str, name: object, available: Iterable[str], hint: str = "") -> UnknownNameError:
    """Build the error for a name that nobody registered, with the closest ones.

    Args:
        kind: what was looked up, for example ``"head"``.
        name: what was asked for.
        available: the names that exist.
        hint: one more sentence, for kinds that accept more than the listed names.
    """
    names = sorted(available)
    close = difflib.get_close_matches(str(name).lower(), names, n=3, cutoff=0.5)
    guess = f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
    listing = f" Available: {', '.join(names)}." if names else ""
    return UnknownNameError(f"Unknown {kind} {name!r}.{guess}{listing}{' ' + hint if hint else ''}")


class NameTable(Mapping[str, str]):
    """A read-only table from a public name to ``"module:attribute"``, extended by entry points.

    Values are import paths, so that listing names imports nothing heavy.
    """

    def __init__(self, kind: str, built_in: Mapping[str, str], entry_point_group: str | None = None) -> None:
        self.kind = kind
        self._built_in = dict(built_in)
        self._group = entry_point_group

    def _all(self) -> dict[str, str]:
        plugins = entry_points(group=self._group) if self._group else ()
        return {point.name: point.value for point in plugins} | self._built_in

    def __getitem__(self, name: str) -> str:
        table = self._all()
        if name not in table:
            raise unknown_name(self.kind, name, table)
        return table[name]

    def get(self, name: str, default: Any = None, /) -> Any:
        """Look up a name without an error for an unknown one, as any mapping does."""
        table = self._all()
        return table.get(name, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __contains__(self, name: object) -> bool:
        return name in self._all()

    def load(self, name: str) -> object:
        """Import and return what ``name`` stands for.

        Raises:
            UnknownNameError: the name is in neither the table nor an entry point.
        """
        module, _, attribute = self[name].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def describe(self, name: str) -> str:
        """First line of the docstring of what ``name`` stands for, read from its source: nothing is imported."""
        module, _, attribute = self[name].partition(":")
        try:
            spec = find_spec(module)
        # A plugin whose package is gone must not break the list of all others.
        except ImportError:
            return ""
        if spec is None or not (spec.origin or "").endswith(".py"):
            return ""
        assert spec.origin is not None  # noqa: S101 - for the type checker
        tree = ast.parse(Path(spec.origin).read_bytes())
        for node in tree.body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == attribute:
                return (ast.get_docstring(node) or "").partition("\n")[0]
        return ""
