"""Events: what long computations tell whoever waits. Nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from fewshot.finetune.base import HistoryRow


@dataclass(frozen=True)
class Event:
    """Something to tell whoever waits.

    Attributes:
        kind: ``"progress"`` (``done`` of ``total``), ``"history"`` (a line of a training curve in ``row``),
            ``"finished"`` (a strategy is done), or ``"note"`` (a sentence for people).
        subject: what is being computed, the strategy, or the sentence.
        done: units done.
        total: units in all; 0 where that is not known.
        row: the line of the training curve.
        strategy: whose training it is that ``"progress"`` tells of; empty for anything else.
    """

    kind: str
    subject: str
    done: int = 0
    total: int = 0
    row: HistoryRow | None = None
    strategy: str = ""


OnEvent: TypeAlias = "Callable[[Event], None]"
