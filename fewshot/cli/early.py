"""What can be found wrong with a command before torch is imported, which takes seconds."""

from __future__ import annotations

from fewshot.names import unknown_name

ENGINES = ("local", "joblib", "ray")
"""As in :mod:`fewshot.engines`, which is too heavy to be imported for their names."""


def check_strategies(text: str | None) -> None:
    """Refuse names that are no strategies, as ``compare`` and ``bench`` take them.

    Raises:
        UnknownNameError: with the closest names.
        InvalidInputError: a name given twice.
    """
    from fewshot.strategies import make_strategies

    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    # These stand for several, which may hold any other.
    if names and not {"all", "default"} & set(names):
        make_strategies(names)


def check_engine(name: str) -> None:
    """Refuse a name that is no engine.

    Raises:
        UnknownNameError: with the closest names.
    """
    if name not in ENGINES:
        raise unknown_name("engine", name, ENGINES)
