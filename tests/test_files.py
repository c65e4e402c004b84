"""Files are written whole or not at all."""

import errno
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from fewshot.errors import OutputError
from fewshot.files import replace_file, write_file


def test_text_and_bytes_are_written_and_replaced(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    write_file(path, "é\udcff")
    assert path.read_bytes() == "é\\udcff".encode()
    write_file(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_what_fails_in_the_middle_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_file(path, "old")

    def fills_the_disk(temporary):
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutputError, match=r"disk is full \([\d.]+ [kMG]?B are free"):
        replace_file(path, fills_the_disk)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.txt"
    link.symlink_to(tmp_path / "real" / "a.txt")
    write_file(link, "text")
    assert link.is_symlink()
    assert (tmp_path / "real" / "a.txt").read_text() == "text"


def test_a_file_where_a_folder_should_be_is_named(tmp_path):
    (tmp_path / "a").write_text("x")
    with pytest.raises(OutputError, match="cannot be written"):
        write_file(tmp_path / "a" / "b.txt", "x")


def test_a_file_keeps_its_permissions_and_a_new_one_gets_the_usual_ones(tmp_path):
    old, new, usual = tmp_path / "old", tmp_path / "new", tmp_path / "usual"
    old.write_text("x")
    old.chmod(0o600)
    usual.write_text("x")
    write_file(old, "y")
    write_file(new, "y")
    assert old.stat().st_mode & 0o777 == 0o600
    assert new.stat().st_mode == usual.stat().st_mode


def test_what_is_no_file_is_written_to_and_not_replaced(tmp_path):
    fifo = tmp_path / "pipe.txt"
    os.mkfifo(fifo)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(fifo.read_bytes)
        write_file(fifo, "through")
        assert read.result(timeout=10) == b"through"
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    write_file("/dev/null", "nowhere")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(OutputError, match=r"/dev/full \(1 B\) cannot be written: the disk is full"):
        write_file("/dev/full", "x")


def test_a_name_of_255_bytes_is_written_whatever_it_ends_in(tmp_path):
    for name in ("a" * 250 + ".json", "b." + "c" * 253):
        write_file(tmp_path / name, "x")
        assert (tmp_path / name).read_text() == "x"


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path):
    with pytest.raises(OutputError, match=r"cannot be written: Is a directory"):
        write_file(tmp_path, "x")


def test_an_interrupt_in_the_middle_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def interrupted(temporary):
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_file(path, interrupted)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_full_disk_is_said_with_size_and_room_and_costs_nothing(small_disk):
    path = small_disk(300_000) / "report.html"
    write_file(path, "old")
    with pytest.raises(
        OutputError, match=r"report\.html \(900\.0 kB\) cannot be written: the disk is full \(\d+\.\d kB"
    ):
        write_file(path, "x" * 900_000)
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["report.html"]


def test_a_limit_on_the_size_of_files_is_like_a_full_disk(tmp_path):
    program = (
        "import resource, sys\nfrom fewshot.files import write_file\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\nwrite_file(sys.argv[1], 'x' * 5000)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "a")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "OutputError" in done.stderr
    assert "(5.0 kB) cannot be written: the disk is full" in done.stderr
    assert os.listdir(tmp_path) == []
