"""From a journal's header and records to a report: the same whether a run has just ended or ended long ago."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fewshot.episodes import EpisodeSampler, Protocol
from fewshot.errors import FewshotError, JournalError
from fewshot.images.reader import ImageLike, read_image
from fewshot.journal import FILE_NAME, Record, read_journal
from fewshot.metrics import METRICS
from fewshot.report.benchmark import BenchmarkReport, DatasetInfo, EpisodeExample, Series
from fewshot.report.model import ImageInfo, Report, StrategyInfo
from fewshot.report.pictures import thumbnail

FindImages = Callable[[str], "Mapping[str, ImageLike]"]
"""From the name of a data set to its images by name, as far as they can be found."""

N_WORST, N_SLOWEST, MAX_MISSED = 3, 3, 12


def load_run(folder: str | os.PathLike[str]) -> BenchmarkReport:
    """Build the report of a run from its journal, as far as it has come.

    Args:
        folder: that ``benchmark(..., out=folder)`` or ``fewshot bench --out`` wrote.

    Raises:
        JournalError: there is no journal, or one of another version.
    """
    header, records = read_journal(os.path.join(folder, FILE_NAME))
    return build_report(header, records, _from_disk(header))


def write_reports(report: BenchmarkReport | Report, folder: str | os.PathLike[str]) -> None:
    """Write ``report.json``, ``report.md`` and ``report.html`` into a folder.

    Raises:
        OutputError: they cannot be written.
    """
    # The one that holds everything first, the largest last: the disk may be nearly full.
    report.to_json(os.path.join(folder, "report.json"))
    report.to_markdown(os.path.join(folder, "report.md"))
    report.to_html(os.path.join(folder, "report.html"))


def build_report(header: Mapping[str, Any], records: Mapping[str, Record], find: FindImages) -> BenchmarkReport:
    """Put a report together.

    Args:
        header: of the journal: its ``settings`` and ``about``.
        records: finished cells.
        find: where the images shown are read from.

    Raises:
        JournalError: not one cell is finished, or the journal holds something else than this version writes.
    """
    try:
        return _build(header, records, find)
    # A digest vouches for the text alone, not for who wrote it.
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, FewshotError):
            raise
        raise JournalError(
            f"The journal holds something else than this version of fewshot writes ({type(error).__name__}: {error}). "
            "Read it with the version that wrote it, or begin again in another folder."
        ) from error


def _build(header: Mapping[str, Any], records: Mapping[str, Record], find: FindImages) -> BenchmarkReport:
    about, settings = header["about"], header["settings"]
    if not records:
        raise JournalError("Not one cell of this run is finished, so there is nothing to report. Go on with --resume.")
    series = _series(records)
    notes = list(about["notes"])
    missing = about["n_cells"] - len(records)
    if missing:
        notes.insert(0, f"The run is not complete: {missing} of {about['n_cells']} cells are missing.")
    ran = {one.strategy for one in series}
    strategies = tuple(StrategyInfo(**row) for row in about["strategies"] if row["name"] in ran)
    # Until the reference has run, differences to it cannot be taken.
    reference = about["reference"] if about["reference"] in ran else strategies[0].name
    report = BenchmarkReport(
        title=about["title"],
        protocol=about["protocol"],
        datasets=tuple(DatasetInfo(**row) for row in about["datasets"]),
        strategies=strategies,
        shots=tuple(about["shots"]),
        series=tuple(series),
        reference=reference,
        notes=tuple(notes),
        environment=about["environment"],
        seed=settings["seed"],
        data=about.get("data"),
    )
    return report.with_examples(_examples(report, header, records, find))


def _series(records: Mapping[str, Record]) -> list[Series]:
    groups: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in records.values():
        groups[record["dataset"], record["strategy"], record["k_shot"]].append(record)
    series = []
    for (dataset, strategy, k_shot), parts in sorted(groups.items()):
        parts.sort(key=lambda part: part["episodes"][0])
        counts = np.array([len(part["episodes"]) for part in parts])
        columns = {name: tuple(v for part in parts for v in part[name]) for name in ("episodes", *METRICS)}

        def mean(key: str, parts: list[Record] = parts, counts: Any = counts) -> float:
            return float(np.average([part["seconds"][key] for part in parts], weights=counts))

        bins = np.sum([part["calibration"] for part in parts], axis=0)
        series.append(
            Series(
                dataset=dataset,
                strategy=strategy,
                k_shot=k_shot,
                **columns,
                seconds=tuple(v for part in parts for v in part["seconds"]["episodes"]),
                calibration=tuple(tuple(row) for row in bins.tolist()),
                # A resumed run finds the features stored: what they cost is what they cost the first time.
                extract_seconds=max(part["seconds"]["extract"] for part in parts),
                fit_seconds=mean("fit"),
                predict_seconds=mean("predict"),
                timed_alone=int(counts.max()) == 1,
            )
        )
    return series


def _examples(
    report: BenchmarkReport, header: Mapping[str, Any], records: Mapping[str, Record], find: FindImages
) -> tuple[EpisodeExample, ...]:
    """Choose the worst episodes of the strategy that is best on average, and the slowest of all."""
    means = defaultdict(list)
    for one in report.series:
        means[one.strategy].append(float(np.mean(one.accuracy)))
    # Only strategies that were run on all episodes can be compared by their mean.
    counts = {name: sum(len(one.episodes) for one in report.series if one.strategy == name) for name in means}
    best = max((float(np.mean(v)), name) for name, v in means.items() if counts[name] == max(counts.values()))[1]
    worst = sorted(
        (record for record in records.values() if record["strategy"] == best),
        key=lambda record: (record["worst"]["accuracy"], record["cell"]),
    )[:N_WORST]
    shower = _Shower(header, find)
    examples = []
    for record in worst:
        seconds = record["seconds"]["episodes"][record["episodes"].index(record["worst"]["episode"])]
        examples.append(shower.show("worst", record, record["worst"], seconds))
    alone = [record for record in records.values() if len(record["episodes"]) == 1]
    alone.sort(key=lambda record: (-record["seconds"]["episodes"][0], record["cell"]))
    examples += [shower.show("slowest", r, r["worst"], r["seconds"]["episodes"][0]) for r in alone[:N_SLOWEST]]
    return tuple(examples)


class _Shower:
    """Draws episodes again and looks their images up."""

    def __init__(self, header: Mapping[str, Any], find: FindImages) -> None:
        self._settings = header["settings"]
        self._images = header["about"]["images"]
        self._find = find
        self._found: dict[str, Mapping[str, ImageLike]] = {}

    def show(self, kind: str, record: Record, worst: Mapping[str, Any], seconds: float) -> EpisodeExample:
        """Describe an episode with its images."""
        dataset = record["dataset"]
        images = self._images[dataset]
        names, labels = images["names"], images["labels"]
        is_query = None if images["is_query"] is None else np.array(images["is_query"], dtype=bool)
        protocol = protocol_from(self._settings["datasets"][dataset]["protocols"][record["k_shot"]])
        sampler = EpisodeSampler(labels, protocol, seed=self._settings["seed"], is_query=is_query)
        episode = next(iter(sampler.draw([worst["episode"]])))
        support = [ImageInfo(names[i], labels[i]) for i in episode.support]
        missed = worst["missed"][:MAX_MISSED]
        asked = [ImageInfo(names[i], labels[i]) for i, _ in missed]
        return EpisodeExample(
            kind=kind,
            dataset=dataset,
            strategy=record["strategy"],
            k_shot=record["k_shot"],
            index=worst["episode"],
            accuracy=worst["accuracy"],
            seconds=seconds,
            support=tuple(support),
            missed=tuple(asked),
            answers=tuple(str(sampler.class_names[code]) for _, code in missed),
            n_missed=len(worst["missed"]),
            support_pictures=self._pictures(dataset, support),
            missed_pictures=self._pictures(dataset, asked),
        )

    def _pictures(self, dataset: str, images: Sequence[ImageInfo]) -> dict[int, bytes]:
        if dataset not in self._found:
            self._found[dataset] = self._find(dataset)
        pictures = {}
        for position, image in enumerate(images):
            source = self._found[dataset].get(image.name)
            if source is not None:
                # An image that has gone meanwhile must not cost the report.
                try:
                    pictures[position] = thumbnail(read_image(source), side=96)
                except FewshotError:
                    continue
        return pictures


def protocol_from(data: Mapping[str, Any]) -> Protocol:
    """Take a protocol back from a journal, where pairs are lists."""
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
    return Protocol(**values)


def _from_disk(header: Mapping[str, Any]) -> FindImages:
    """Look for a run's images where they were."""

    def find(dataset: str) -> Mapping[str, ImageLike]:
        names = header["about"]["images"][dataset]["names"]
        if any(os.path.exists(name) for name in names[:1]):
            return {name: name for name in names}
        from fewshot.images.sources import load_dataset

        source = next(row["source"] for row in header["about"]["datasets"] if row["name"] == dataset)
        if source.startswith("torchvision:"):
            return {}  # it might be downloaded, and a report is no reason for that
        try:
            found = load_dataset(source)
        # A data set that is elsewhere, or was in memory only: the report goes without pictures.
        except (FewshotError, OSError):
            return {}
        return dict(zip(found.names, found.sources, strict=True))

    return find
