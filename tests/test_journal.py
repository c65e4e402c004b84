"""The journal: nothing finished is lost, nothing torn or foreign is taken over."""

import json
import multiprocessing
import os

import pytest

from fewshot.errors import JournalError, OutputError
from fewshot.journal import Journal, canonical, cut_torn_line, read_journal

SETTINGS = {"seed": 0, "shots": (1, 5), "nested": {"a": 1.5}}


def record(name, **more):
    return {"cell": name, "accuracy": [0.5, 1.0], "seconds": {"fit": 0.1}} | more


@pytest.fixture
def run(tmp_path):
    """Make a folder with a journal of three cells."""
    with Journal(tmp_path, SETTINGS, {"title": "é"}, resume=False) as journal:
        for name in "abc":
            journal.append(record(name))
    return tmp_path


def test_what_was_appended_is_read_back(run):
    header, records = read_journal(run / "journal.jsonl")
    assert header["settings"] == {"seed": 0, "shots": [1, 5], "nested": {"a": 1.5}}
    assert header["about"] == {"title": "é"}
    assert list(records) == ["a", "b", "c"]
    assert records["b"]["accuracy"] == [0.5, 1.0]


def test_every_line_is_json(run):
    lines = (run / "journal.jsonl").read_text().splitlines()
    assert [json.loads(line).get("cell") for line in lines] == [None, "a", "b", "c"]


def test_a_run_goes_on_where_it_stopped(run):
    with Journal(run, SETTINGS, {}, resume=True) as journal:
        assert list(journal.records) == ["a", "b", "c"]
        journal.append(record("d"))
    assert list(read_journal(run / "journal.jsonl")[1]) == ["a", "b", "c", "d"]


def test_a_torn_last_line_is_cut_off_wherever_it_was_torn(run):
    path = run / "journal.jsonl"
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with Journal(run, SETTINGS, {"title": "é"}, resume=True) as journal:
            intact = max(0, sum(end <= size for end in ends) - 1)
            assert list(journal.records) == ["a", "b", "c"][:intact]
            for name in "abc"[intact:]:
                journal.append(record(name))
        assert path.read_bytes() == whole


def test_a_long_torn_line_is_cut_off(tmp_path):
    path = tmp_path / "long"
    path.write_bytes(b"first\n" + b"x" * 200_000)
    cut_torn_line(path)
    assert path.read_bytes() == b"first\n"
    path.write_bytes(b"x" * 200_000)
    cut_torn_line(path)
    assert path.read_bytes() == b""


def test_a_damaged_line_is_passed_over_with_a_warning(run):
    path = run / "journal.jsonl"
    data = bytearray(path.read_bytes())
    data[data.index(b'"b"') + 20] ^= 1
    path.write_bytes(data)
    with pytest.warns(RuntimeWarning, match="1 lines .* damaged"):
        _, records = read_journal(path)
    assert list(records) == ["a", "c"]


def test_an_existing_run_is_not_written_over(run):
    before = (run / "journal.jsonl").read_bytes()
    with pytest.raises(JournalError, match=r"holds a run already.*--resume"):
        Journal(run, SETTINGS, {}, resume=False)
    assert (run / "journal.jsonl").read_bytes() == before


def test_other_settings_are_refused_with_what_differs(run):
    with pytest.raises(
        JournalError, match=r"nested\.a was 1\.5 and is 2; new was null and is true; seed was 0 and is 1\. Use the same"
    ):
        Journal(run, {"seed": 1, "shots": [1, 5], "nested": {"a": 2}, "new": True}, {}, resume=True)


def test_another_version_is_refused(run):
    path = run / "journal.jsonl"
    path.write_text('{"journal":99,"settings":{}}\n')
    with pytest.raises(JournalError, match="another folder, or the version"):
        Journal(run, SETTINGS, {}, resume=True)
    with pytest.raises(JournalError, match="No journal at"):
        read_journal(run / "elsewhere.jsonl")


def test_two_writers_at_once_are_refused(run):
    with Journal(run, SETTINGS, {}, resume=True):
        context = multiprocessing.get_context("spawn")
        results = context.Queue()
        other = context.Process(target=_open_elsewhere, args=(run, results))
        other.start()
        assert "Another process" in results.get(timeout=60)
        other.join()
    with Journal(run, SETTINGS, {}, resume=True) as journal:
        assert len(journal.records) == 3


def _open_elsewhere(folder, results):
    try:
        Journal(folder, SETTINGS, {}, resume=True)
        results.put("opened")
    except JournalError as error:
        results.put(str(error))


def test_a_write_that_fails_leaves_what_was_there(run, monkeypatch):
    path = run / "journal.jsonl"
    with Journal(run, SETTINGS, {}, resume=True) as journal:
        before = path.read_bytes()
        write = os.write

        def full(handle, data):
            write(handle, bytes(data[:10]))
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(OutputError, match=r"disk is full \([\d.]+ MB are free in .*--resume"):
                journal.append(record("d"))
        assert path.read_bytes() == before
        assert "d" not in journal.records
        journal.append(record("d"))
    assert list(read_journal(path)[1]) == ["a", "b", "c", "d"]


def test_a_folder_that_cannot_be_made_is_an_error_of_ours(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Choose another place"):
        Journal(tmp_path / "file" / "run", SETTINGS, {}, resume=False)


def test_equal_runs_have_equal_canonical_text_whatever_the_order_and_the_times():
    first = {name: record(name) for name in "ab"}
    second = {name: record(name, seconds={"fit": 9.0}) for name in "ba"}
    assert canonical(first) == canonical(second)
    assert canonical(first) != canonical(first | {"a": record("a", accuracy=[0.5, 0.9])})
