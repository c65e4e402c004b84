"""Section `transductive`: heads that label queries jointly, with queries balanced and not."""

from __future__ import annotations

from collections.abc import Iterator

from accuracy_common import AUTO, YARDSTICK, Setting, heads_of
from accuracy_tables import accuracies, verdict

from fewshot.strategies import Strategy

SHOTS = (1, 5)
# The usual concentration; see fewshot.episodes.Protocol.
IMBALANCE = 2.0


def section(setting: Setting) -> Iterator[str]:
    """Print a table per kind of queries and number of shots."""
    yield "## Labelling queries jointly\n"
    yield (
        "Transductive heads see all queries of an episode at once; representation `auto`. Imbalanced: the classes' "
        f"shares of the queries are drawn from a Dirichlet distribution of concentration {IMBALANCE:g}.\n"
    )
    names = heads_of("transductive")
    strategies = [AUTO, YARDSTICK, *(Strategy(name, name, None, representation="auto") for name in names)]
    for kind, imbalance in (("balanced", None), ("imbalanced", IMBALANCE)):
        report = setting.run(strategies, SHOTS, imbalance=imbalance)
        for k_shot in SHOTS:
            yield f"**{kind} queries, {k_shot} training image{'s' if k_shot > 1 else ''} per class**\n"
            yield from accuracies(report, k_shot, ["yardstick", "auto", *names], ["auto", "yardstick"])
        for name in names:
            yield verdict(report, name, "auto", SHOTS)
        yield ""
