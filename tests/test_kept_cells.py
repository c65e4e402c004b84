"""compare(journal=FOLDER): an interruption costs the cell under way, and nothing is mixed."""

import dataclasses
import json

import numpy as np
import pytest

import fewshot
from fewshot.errors import JournalError
from fewshot.journal import COMPARISON_FILE_NAME, Journal
from fewshot.journal_lines import to_line
from fewshot.kept_cells import KeptCells, discard_cells
from fewshot.running import Runner

STRATEGIES = ["prototypical", "knn"]


def without_times(report):
    zero = {"extract_seconds": 0.0, "fit_seconds": 0.0, "predict_seconds": 0.0}
    results = tuple(dataclasses.replace(result, **zero) for result in report.results)
    return dataclasses.replace(report, results=results, pictures=None)


def compare(train, folder=None, **more):
    return fewshot.compare(train, strategies=STRATEGIES, journal=folder, **more)


@pytest.fixture
def interrupted(two_fruits, tmp_path, monkeypatch):
    """Interrupt a comparison of 16 cells after five of them."""
    kept = []
    keep = KeptCells.keep

    def stop_after_five(self, result, split):
        keep(self, result, split)
        kept.append(result)
        if len(kept) == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(KeptCells, "keep", stop_after_five)
        with pytest.raises(KeyboardInterrupt):
            compare(two_fruits[0], tmp_path)
    return tmp_path


def test_the_same_call_goes_on_and_gives_what_an_uninterrupted_one_gives(interrupted, two_fruits, monkeypatch):
    runs, events = [], []
    run = Runner._run_frozen
    monkeypatch.setattr(Runner, "_run_frozen", lambda *arguments: runs.append(1) or run(*arguments))
    again = compare(two_fruits[0], interrupted, on_event=events.append)
    assert len(runs) == 11
    assert [event.subject for event in events if event.kind == "note"] == [
        "Going on with an interrupted run: 5 of 16 cells are finished."
    ]
    assert without_times(again) == without_times(compare(two_fruits[0]))
    # A report that could not be written is made again without computing anything.
    runs.clear()
    assert without_times(compare(two_fruits[0], interrupted)) == without_times(again)
    assert not runs


@pytest.mark.parametrize(
    ("change", "word"),
    [({"random_state": 1}, "seed was 0 and is 1"), ({"repeats": 1}, "splits was"), ({"n_views": 3}, "n_views was")],
)
def test_cells_of_other_settings_are_put_aside_with_a_warning(change, word, interrupted, two_fruits):
    before = (interrupted / COMPARISON_FILE_NAME).read_bytes()
    with pytest.warns(RuntimeWarning, match=f"put aside as .*compare-journal-1.jsonl: .*{word}"):
        compare(two_fruits[0], interrupted, **change)
    assert (interrupted / "compare-journal-1.jsonl").read_bytes() == before


def test_cells_of_other_images_or_labels_are_not_taken_over(interrupted, two_fruits):
    train = two_fruits[0]
    swapped = fewshot.ImageDataset.from_paths(train.sources, train.labels[::-1])
    with pytest.warns(RuntimeWarning, match="training images was"):
        compare(swapped, interrupted)
    with pytest.warns(RuntimeWarning, match=r"compare-journal-2.*training images was"):
        compare(train.subset(range(7)), interrupted)


def test_a_damaged_first_line_is_put_aside_too(interrupted, two_fruits):
    path = interrupted / COMPARISON_FILE_NAME
    path.write_bytes(b"x" + path.read_bytes())
    with pytest.warns(RuntimeWarning, match="put aside .*its first line is damaged"):
        compare(two_fruits[0], interrupted)


def test_a_record_that_is_no_result_is_computed_again(interrupted, two_fruits):
    path = interrupted / COMPARISON_FILE_NAME
    lines = path.read_bytes().splitlines(keepends=True)
    for position, change in ((1, {"proba": 3}), (2, {"test": [0]}), (3, {"strange": 1}), (4, None)):
        record = json.loads(lines[position])
        result = None if change is None else record["result"] | change
        lines[position] = to_line({"cell": record["cell"], "result": result})
    path.write_bytes(b"".join(lines))
    assert without_times(compare(two_fruits[0], interrupted)) == without_times(compare(two_fruits[0]))


def test_two_comparisons_do_not_write_one_journal(two_fruits, tmp_path):
    with (
        Journal(tmp_path, {}, {}, resume=False, name=COMPARISON_FILE_NAME),
        pytest.raises(JournalError, match="Another process writes to"),
    ):
        compare(two_fruits[0], tmp_path)


def test_a_journal_in_use_is_not_discarded(tmp_path):
    with Journal(tmp_path, {}, {}, resume=False, name=COMPARISON_FILE_NAME):
        discard_cells(tmp_path)
        assert (tmp_path / COMPARISON_FILE_NAME).exists()
    discard_cells(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_fails_before_a_cell_is_finished_leaves_nothing(two_fruits, tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("broken")

    monkeypatch.setattr(Runner, "_run_frozen", broken)
    with pytest.raises(RuntimeError, match="broken"):
        compare(two_fruits[0], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_workers_of_several_processes_fill_the_same_journal(two_fruits, tmp_path):
    train = two_fruits[0].subset([0, 1, 4, 5])
    settings = {"strategies": ["simple-cnn"], "repeats": 1}
    one = fewshot.compare(train, **settings)
    two = fewshot.compare(train, journal=tmp_path, n_jobs=2, **settings)
    assert without_times(one) == without_times(two)
    assert np.isfinite(one.proba("simple-cnn")).all()
    assert without_times(fewshot.compare(train, journal=tmp_path, **settings)) == without_times(one)
