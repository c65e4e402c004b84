"""The journal: nothing finished is lost, nothing torn or foreign is taken over."""

import hashlib
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import warnings

import pytest

from fewshot.errors import JournalError, OutputError
from fewshot.journal import (
    Journal,
    UnusableJournalError,
    canonical,
    count_records,
    cut_torn_line,
    read_journal,
)
from fewshot.journal_lines import to_line
from tests import kill_journal

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
            with pytest.raises(OutputError, match=r"disk is full \([\d.]+ [kMG]?B are free in .*--resume"):
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


def _damages(whole):
    """Ways to damage a journal of a header and three records, by name."""
    lines = whole.splitlines(keepends=True)
    rng = random.Random(0)
    for i in range(60):
        data = bytearray(whole)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        yield f"flip {i}", bytes(data)
    yield "NULs", whole[:40] + b"\0" * 200 + whole[240:]
    yield "NUL line", lines[0] + b"\0" * 500 + b"\n" + b"".join(lines[1:])
    yield "CRLF", whole.replace(b"\n", b"\r\n")
    yield "two writers", lines[0] + lines[1][:30] + lines[2] + lines[1][30:] + lines[3]
    yield "no header", b"".join(lines[1:])
    yield "half a header", lines[0][:25] + b"\n" + b"".join(lines[1:])
    yield "empty lines", lines[0] + b"\n\n" + b"".join(lines[1:])
    yield "a giant line", lines[0] + b"[" * 3_000_000 + b"\n" + b"".join(lines[1:])
    yield "no UTF-8", lines[0] + b"\xff\xfe\x80\n" + b"".join(lines[1:])
    yield "twice", whole + whole
    yield "something else", b"PK\x03\x04" + bytes(range(256)) * 20
    for name, value in {
        "a list as a cell": {"cell": ["a"]},
        "a number as a cell": {"cell": 7},
        "no cell": {"values": [1]},
        "text as about": {"about": "x"},
    }.items():
        yield name, lines[0] + to_line(value) + b"".join(lines[1:])
    yield "deep", lines[0] + _signed("[" * 100_000 + "]" * 100_000) + b"".join(lines[1:])
    yield "a digest and no JSON", lines[0] + _signed('{"cell": }') + b"".join(lines[1:])
    yield "settings of another type", to_line({"journal": 1, "settings": [], "about": {}}) + b"".join(lines[1:])
    yield "no about", to_line({"journal": 1, "settings": {}}) + b"".join(lines[1:])
    yield "a version that is no number", to_line({"journal": [1], "settings": {}, "about": {}})


def _signed(text):
    """A line whose digest fits, whatever it says."""
    digest = hashlib.blake2b(f"{text[:-1]}}}".encode(), digest_size=6).hexdigest()
    return f'{text[:-1]},"digest":"{digest}"}}\n'.encode()


def test_no_damage_is_taken_for_data_or_ends_in_another_error(run):
    path = run / "journal.jsonl"
    whole = path.read_bytes()
    intact = read_journal(path)[1]
    for name, data in _damages(whole):
        path.write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                _, records = read_journal(path)
            except JournalError:
                records = {}
            assert records.items() <= intact.items(), name
            try:
                with Journal(run, SETTINGS, {"title": "é"}, resume=True) as journal:
                    assert journal.records.items() <= intact.items(), name
                    for cell in "abc":
                        if cell not in journal.records:
                            journal.append(record(cell))
                assert canonical(read_journal(path)[1]) == canonical(intact), name
            except JournalError:
                continue


def test_a_damaged_first_line_is_said_to_be_that(run):
    path = run / "journal.jsonl"
    path.write_bytes(path.read_bytes().replace(b"seed", b"sEed", 1))
    with pytest.raises(UnusableJournalError, match=r"first line of .* is damaged"):
        read_journal(path)


def test_what_is_no_file_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "journal.jsonl")
    for read in (lambda: read_journal(tmp_path / "journal.jsonl"), lambda: Journal(tmp_path, {}, {}, resume=True)):
        with pytest.raises(JournalError, match="is no file"):
            read()


def test_a_journal_that_vanishes_is_written_again_with_all_that_is_finished(run):
    path = run / "journal.jsonl"
    with Journal(run, SETTINGS, {"title": "é"}, resume=True) as journal:
        shutil.rmtree(run)
        with pytest.warns(RuntimeWarning, match="has been removed and is written again"):
            journal.append(record("d"))
        journal.append(record("e"))
    assert list(read_journal(path)[1]) == ["a", "b", "c", "d", "e"]


def test_a_file_that_takes_the_journals_place_is_left_alone(run):
    path = run / "journal.jsonl"
    with Journal(run, SETTINGS, {"title": "é"}, resume=True) as journal:
        path.unlink()
        path.write_text("mine")
        with pytest.raises(JournalError, match="Another file has taken the place"):
            journal.append(record("d"))
    assert path.read_text() == "mine"


def test_the_lock_of_a_process_that_was_killed_is_no_hindrance(run):
    (run / "journal.jsonl.lock").write_text("left over")
    with Journal(run, SETTINGS, {"title": "é"}, resume=True) as journal:
        assert len(journal.records) == 3


def test_a_read_only_folder_can_be_reported_and_not_written(small_disk, run):
    disk = small_disk(100_000)
    shutil.copy(run / "journal.jsonl", disk)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert len(read_journal(disk / "journal.jsonl")[1]) == 3
    with pytest.raises(OutputError, match=r"cannot be written: Read-only file system\. Choose another place"):
        Journal(disk, SETTINGS, {}, resume=True)


def test_a_full_disk_keeps_what_is_finished_and_says_how_to_go_on(small_disk):
    disk = small_disk(64 << 10)
    with Journal(disk, SETTINGS, {}, resume=False) as journal:

        def fill():
            for index in range(200):
                journal.append(record(f"cell {index}", values=[0.5] * 400))

        with pytest.raises(OutputError, match=r"disk is full \([\d.]+ k?B are free .*go on with --resume"):
            fill()
        kept = len(journal.records)
        assert kept
    (disk / "journal.jsonl").rename(disk / "moved")
    larger = small_disk(4 << 20)
    shutil.copy(disk / "moved", larger / "journal.jsonl")
    with Journal(larger, SETTINGS, {}, resume=True) as journal:
        assert len(journal.records) == kept
        journal.append(record("another"))


def test_an_interrupt_while_a_line_is_written_leaves_no_half_of_it(run, monkeypatch):
    path = run / "journal.jsonl"
    before = path.read_bytes()
    with Journal(run, SETTINGS, {"title": "é"}, resume=True) as journal:

        def interrupted(handle):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", interrupted)
            with pytest.raises(KeyboardInterrupt):
                journal.append(record("d"))
    assert path.read_bytes() == before


def test_records_are_counted_without_being_read(run):
    assert count_records(run / "journal.jsonl") == 3
    assert count_records(run / "elsewhere") == 0


def test_a_journal_that_is_killed_loses_nothing_that_was_kept():
    kills, _, _ = kill_journal.run(8, seed=1)
    assert kills == 8
