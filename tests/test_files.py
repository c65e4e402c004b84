"""Files are written whole or not at all."""

import errno

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

    with pytest.raises(OutputError, match=r"disk is full \([\d.]+ MB are free"):
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
