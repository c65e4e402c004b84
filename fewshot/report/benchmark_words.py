"""Sentences and number formats of a benchmark, the same in HTML, Markdown and the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fewshot.report.benchmark_findings import Findings, bounded
from fewshot.report.markdown import listed, points, show_difference, show_seconds
from fewshot.report.model import percent
from fewshot.significance import PairedTest
from fewshot.stats import Interval

_NAMED = 4
"""Strategies that a sentence names before it counts the others."""

COST = (
    "Cost is the mean over data sets of: the time to compute the features of the whole data set divided by the number "
    "of episodes, plus the mean training time of an episode. Features stored by an earlier run cost next to nothing, "
    "and prediction is not included."
)


def headline(findings: Findings) -> list[str]:
    """Say in plain sentences which strategy is best at each number of shots, and how sure that is."""
    shots, bests = findings.shots, [findings.best(k) for k in findings.shots]
    apart = [*_jointly(findings), *left_out(findings)]
    if not any(bests):
        where = "all episodes of all data sets" if any(map(findings.thin, shots)) else "all data sets"
        return [f"No strategy was run on {where}, so none can be called best overall.", *apart]
    if len(shots) == 1:
        return [*_found(findings, shots[0]), *apart]
    first, rest = bests[0], [*(" ".join(_found(findings, k)) for k in shots), *apart]
    alone = all(len(findings.order(k)) < 2 for k in shots)
    if first and alone and set(bests) <= {first, None}:
        figures = [f"{percent(findings.overall[first, k].value)} % with {k}" for k in shots if findings.best(k)]
        over = _over(findings, shots[0]) if all(findings.sets(k) == findings.sets(shots[0]) for k in shots) else ""
        return [f"{first}{over}: {listed(figures)} training images per class.", *rest]
    if first and set(bests) == {first}:
        what = "has the highest accuracy" if any(findings.near.values()) else "is the most accurate"
        return [f"{first} {what} with {listed(shots)} training images per class.", *rest]
    always = findings.among_best()
    if always is not None:
        return [f"{always} is the best or not told apart from the best with {listed(shots)} images per class.", *rest]
    at = {best: [k for k in shots if findings.best(k) == best] for best in bests if best}
    named = ", ".join(f"{best} with {listed(ks)}" for best, ks in at.items())
    return [f"Which strategy is best depends on the training images per class: {named}.", *rest]


def _jointly(findings: Findings) -> list[str]:
    """Where the best see all queries at once, say so, and which is best of those that do not."""
    bests = {k: best for k in findings.shots if (best := findings.best(k))}
    joint = [name for name, info in findings.infos.items() if info.setting == "transductive" and name in bests.values()]
    if not joint:
        return []
    alone: dict[str, list[str]] = {}
    for k, best in bests.items():
        others = [name for name in findings.order(k) if findings.infos[name].setting != "transductive"]
        if best in joint and others:
            accuracy = f"{percent(findings.overall[others[0], k].value)} %"
            alone.setdefault(others[0], []).append(f"{accuracy} with {k}" if len(findings.shots) > 1 else accuracy)
    is_, see = ("is", "it sees") if len(joint) == 1 else ("are", "they see")
    sentence = f"{listed(joint)} {is_} transductive: {see} all queries of an episode at once."
    if alone:
        named = "; ".join(f"{name}, {listed(figures)}" for name, figures in alone.items())
        sentence += f" Best of those that see one query at a time: {named}."
    return [sentence]


def left_out(findings: Findings) -> list[str]:
    """Name the strategies that were run on too few episodes to be ordered among the others."""
    groups: dict[str, list[str]] = {}
    for k in findings.shots:
        for name in findings.thin(k):
            usual = _from_to(*findings.episodes(k))
            found = groups.setdefault(f"{_from_to(*findings.episodes(k, name))} of the {usual} episodes", [])
            found += [] if name in found else [name]
    if not groups:
        return []
    named = "; ".join(f"{listed(names)} ran on {some}" for some, names in groups.items())
    # One strategy may be in two groups, with other numbers of episodes at other numbers of shots.
    takes = "takes" if len({name for names in groups.values() for name in names}) == 1 else "take"
    return [f"{named} and {takes} no part in this; see the paired differences."]


def _from_to(least: int, most: int) -> str:
    return f"{least}" if least == most else f"{least} to {most}"


def _found(findings: Findings, k_shot: str) -> list[str]:
    best = findings.best(k_shot)
    if best is None:
        where = "all episodes of all data sets" if findings.thin(k_shot) else "all data sets"
        return [f"With {per_class(k_shot)}, no strategy was run on {where}."]
    interval, several = findings.overall[best, k_shot], len(findings.order(k_shot)) > 1
    ends = f" (95 % interval {percent(interval.low)} to {percent(interval.high)})" if bounded(interval) else ""
    accuracy, near = f"{percent(interval.value)} %{ends}", findings.near[k_shot]
    if not several:
        return [f"With {per_class(k_shot)}, {best} answers {accuracy} of queries rightly{_over(findings, k_shot)}."]
    what = "has the highest accuracy" if near else "is the most accurate"
    sentence = f"With {per_class(k_shot)}, {best} {what}: {accuracy}{_over(findings, k_shot)}"
    sentences = [f"{sentence}{_against(findings, best, k_shot)}."]
    if near:
        more = [f"{len(near) - _NAMED + 1} others"] if len(near) > _NAMED else []
        shown = near[: _NAMED - 1] if more else near
        sentences.append(f"These episodes do not separate it from {listed([*shown, *more])}.")
    return sentences


def _against(findings: Findings, best: str, k_shot: str) -> str:
    """Compare the best with the reference; the reference itself with the next."""
    if best != findings.report.reference:
        lead = findings.leads.get((best, k_shot))
        return "" if lead is None else f", {_apart(lead[0].difference, 'above', findings.report.reference)}"
    others = findings.order(k_shot)[1:]
    if not others:
        return ""
    return f", {_apart(findings.report.compare(best, others[0], k_shot).difference, 'above', others[0])}"


def _apart(difference: Interval, way: str, other: str) -> str:
    known = math.isfinite(difference.low) and math.isfinite(difference.high)
    ends = f" ({points(difference.low)} to {points(difference.high)})" if known else ""
    size = points(abs(difference.value))
    if size == "0.0":
        return f"level with {other}{ends}"
    return f"{size} points{ends} {way if difference.value > 0 else 'below'} {other}"


def _over(findings: Findings, k_shot: str) -> str:
    sets, n = findings.sets(k_shot), len(findings.datasets)
    if len(sets) == 1:
        return f" on {sets[0]}"
    return f" on average over {len(sets)} {f'of {n} ' if len(sets) < n else ''}data sets"


def sets_note(findings: Findings, k_shot: str) -> str:
    """Say which data sets have a number of shots, where that is not all of them."""
    sets, n = findings.sets(k_shot), len(findings.datasets)
    if len(sets) == n:
        return ""
    were = "were" if len(sets) > 1 else "was"
    which = f"means and ranks are over these {len(sets)}" if len(sets) > 1 else "there is no mean over several"
    return f"Of the {n} data sets, only {listed(sets)} {were} measured with {per_class(k_shot)}; {which}."


def mean_title(findings: Findings, shots: Sequence[str]) -> str:
    """Name the mean over data sets, and at which numbers of shots it is over fewer of them."""
    partial = [k for k in shots if len(findings.sets(k)) < len(findings.datasets)]
    whole = "Mean of data sets" if partial == list(shots) else f"Mean of {count(len(findings.datasets), 'data set')}"
    at: dict[tuple[str, ...], list[str]] = {}
    for k in partial:
        at.setdefault(findings.sets(k), []).append(k)
    return "; ".join([whole, *(f"with {listed(ks)}: {listed(sets)} only" for sets, ks in at.items())])


def best_note(findings: Findings) -> str:
    """Say what is marked in tables."""
    some = any(not findings.full_on(row) for row in findings.rows.values())
    return "Bold is the highest of a column" + (", of those with the full number of episodes." if some else ".")


def population(findings: Findings) -> str:
    """Say what the intervals speak of, and what they do not."""
    sentences = [findings.report.population]
    if findings.several_sets:
        sentences.append("Means over data sets speak of these data sets; other data sets vary much more.")
    if len(findings.infos) > 2:
        sentences.append("The best of several was picked on these very episodes, which flatters it a little.")
    return " ".join(sentences)


def facts(findings: Findings) -> str:
    """Count what was measured."""
    report = findings.report
    counts = sorted({row.n_episodes for row in findings.rows.values()}) or [0]
    episodes = count(counts[0], "episode") if len(counts) == 1 else f"{counts[0]} to {counts[-1]} episodes"
    return ", ".join(
        [
            count(len(report.datasets), "data set"),
            count(len(report.strategies), "strategy", "strategies"),
            f"{listed(findings.shots)} training {'image' if findings.shots == ('1',) else 'images'} per class",
            f"{episodes} each",
            f"seed {report.seed}",
        ]
    )


def caption(findings: Findings, k_shot: str) -> str:
    """Say what the figures of a table are means over."""
    rows, usual = findings.of(k_shot), findings.usual_episodes(k_shot)
    means = f"means over {usual} episodes" if usual > 1 else "of one episode, which has no interval"
    other = "; over another number where one is given" if len({row.n_episodes for row in rows}) > 1 else ""
    said = [f"Accuracy in % ± half of its 95 % interval, {means}{other}.", sets_note(findings, k_shot)]
    return " ".join(part for part in [*said, settings(findings, k_shot)] if part)


def settings(findings: Findings, k_shot: str) -> str:
    """Say which strategies see one query at a time, and which all at once."""
    joint = [info.name for info in findings.ran(k_shot) if info.setting == "transductive"]
    if not joint:
        return "All are inductive: each query is answered on its own."
    if len(joint) == len(findings.ran(k_shot)):
        return "All are transductive: the queries of an episode are answered jointly."
    return f"Transductive, answering the queries of an episode jointly: {listed(joint)}. The others are inductive."


def differences_note(findings: Findings) -> str:
    """Say how differences are to be read."""
    note = (
        f"Accuracy minus that of {findings.report.reference} on the same episodes, in points with its 95 % interval; "
        "p-values are corrected (Holm) for the number of strategies they were taken of."
    )
    return note + (" Wins, ties and losses count data sets at p < 0.05." if findings.several_sets else "")


def show_share(share: float) -> str:
    """Show a score with three digits, and nothing where it is unknown."""
    return f"{share:.3f}" if math.isfinite(share) else "–"


def ranks_note(findings: Findings, k_shot: str) -> str:
    """Give the test of ranks."""
    ranks = findings.ranks[k_shot]
    sets = findings.sets(k_shot)
    over = f"Ranks over {listed(sets)}. " if len(sets) < len(findings.datasets) else ""
    if any(name in ranks.names for name in findings.thin(k_shot)):
        shared = [len(findings.report.shared_episodes(one, ranks.names, k_shot)) for one in sets]
        over += f"By means over the {_from_to(min(shared), max(shared))} episodes of a data set that all ranked share. "
    return (
        f"{over}Friedman's test that all are equal: p {equation(ranks.p_value)}. "
        f"Critical difference (Nemenyi, 5 %): {ranks.critical_difference:.2f}."
    )


def ranks_words(findings: Findings) -> str:
    """Say how ranks are to be read."""
    counts = {ranks.n_sets for ranks in findings.ranks.values()}
    n = _from_to(min(counts), max(counts)) if counts else "0"
    return (
        f"Mean ranks over {n} data sets, 1 is best. Strategies whose mean ranks differ by less than the critical "
        f"difference are not told apart by {n} data sets, however many episodes there are."
    )


def per_class(k_shot: str) -> str:
    """Write a number of shots in words."""
    return f"{k_shot} training {'image' if k_shot == '1' else 'images'} per class"


def count(n: int, one: str, many: str = "") -> str:
    """Write a number with its noun."""
    return f"{n} {one if n == 1 else many or one + 's'}"


def show_mean(interval: Interval | None, *, n: int | None = None) -> str:
    """Show an accuracy in percent as ``63.6 ± 0.4``, with the number of episodes where that is unusual."""
    if interval is None:
        return "–"
    aside = "" if n is None else f" (n = {n})"
    if not bounded(interval):
        return f"{percent(interval.value)}{aside}"
    # Cut at 0 or 1 an interval is lopsided; the longer side promises less.
    half = max(interval.high - interval.value, interval.value - interval.low)
    digits = 2 if 0 < half < 0.0005 else 1
    return f"{percent(interval.value, digits)} ± {percent(half, digits)}{aside}"


def show_across(interval: Interval | None) -> str:
    """Show what is to be expected on other data sets as ``50.1 to 80.2``."""
    if interval is None or not bounded(interval):
        return "–"
    return f"{percent(interval.low)} to {percent(interval.high)}"


def show_p(p: float | None) -> str:
    """Show a p-value, with its first digits where it is small."""
    if p is None or not math.isfinite(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.0995 else f"{p:.2f}"


def equation(p: float) -> str:
    """Show a p-value behind the letter p."""
    shown = show_p(p)
    return shown if shown.startswith("<") else f"= {shown}"


def show_counts(counts: Sequence[int]) -> str:
    """Show wins, ties and losses."""
    return " / ".join(map(str, counts))


def show_time(seconds: float) -> str:
    """Show seconds; what is shorter than a clock's tick is said to be so."""
    return "< 0.001" if 0 < seconds < 0.0005 else show_seconds(seconds)


def show_test(test: PairedTest | None) -> str:
    """Show a difference in points with its interval."""
    return "–" if test is None else show_difference(test.difference)
