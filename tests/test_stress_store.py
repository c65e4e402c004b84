"""Short versions of what `python -m tests.stress_store` does at length."""

import sys

import pytest

from tests import stress_store

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills, forks and mounts")


def test_flipped_bytes_never_give_a_wrong_vector_and_heal(tmp_path):
    result, ok = stress_store.stress_flips(tmp_path, 24, n_vectors=100, seed=1)
    assert ok, result
    assert result["flips_noticed"] > 8
    assert result["flips_in_file"]
    assert result["flips_in_wal"]


def test_clearing_harms_nobody(tmp_path):
    result, ok = stress_store.stress_processes(tmp_path, 2, 1.5, None, True)
    assert ok, result


def test_the_command_says_what_it_needs(capsys):
    with pytest.raises(SystemExit) as stop:
        stress_store.main([])
    assert stop.value.code == 2
    assert "nothing to do" in capsys.readouterr().err
