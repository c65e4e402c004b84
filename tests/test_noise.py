"""What libraries print to file descriptor 2 while bars are shown."""

import ctypes
import os
import pty
import select
import subprocess
import sys
import textwrap
import threading
import warnings

import pytest

from fewshot.noise import kept_off_terminal, summary


def run_on_terminal(script):
    """Run a script whose standard error is a terminal; give what came to the terminal."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=follower,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(follower)
    shown = b""
    while select.select([leader], [], [], 30)[0]:
        try:
            block = os.read(leader, 1 << 16)
        except OSError:  # what Linux says when the other side is closed
            break
        if not block:
            break
        shown += block
    os.close(leader)
    assert process.wait(timeout=30) in (0, 1, -6)
    return shown.decode("utf-8", "replace").replace("\r\n", "\n")


LIBRARY = """
    import ctypes
    libc = ctypes.CDLL(None)
    def library(text):
        libc.write(2, text, len(text))
"""


def test_a_library_does_not_tear_a_bar_and_is_heard_afterwards():
    shown = run_on_terminal(
        LIBRARY
        + """
    from fewshot.events import Event
    from fewshot.console import Watcher
    with Watcher() as watcher:
        for done in range(1, 6):
            watcher(Event(kind="progress", subject="reading", done=done, total=6))
            library(b"tiff: Bad code word at line %d\\n" % done)
            watcher._progress.refresh()
    """
    )
    *bars, after = shown.partition("Libraries said meanwhile:")
    assert "reading" in bars[0]
    assert "5/6" in bars[0]
    assert "Bad code word" not in bars[0]
    assert after.strip() == "tiff: Bad code word at line 1 (and 4 alike)"


def test_python_warnings_and_errors_are_not_kept_back():
    shown = run_on_terminal(
        """
    import warnings
    from fewshot.events import Event
    from fewshot.console import Watcher
    with Watcher() as watcher:
        watcher(Event(kind="progress", subject="reading", done=1, total=3))
        warnings.warn("be careful")
        raise ValueError("it broke")
    """
    )
    assert "UserWarning: be careful" in shown
    assert "ValueError: it broke" in shown
    assert "Libraries said" not in shown


def test_what_is_drawn_on_the_real_stream_comes_at_once():
    shown = run_on_terminal(
        LIBRARY
        + """
    from fewshot.noise import kept_off_terminal
    with kept_off_terminal() as real:
        library(b"noise\\n")
        print("bar", file=real)
    """
    )
    assert shown == "bar\nLibraries said meanwhile:\n  noise\n"


def test_a_crash_is_seen_at_once():
    shown = run_on_terminal(
        """
    import faulthandler, os
    faulthandler.enable()
    from fewshot.noise import kept_off_terminal
    with kept_off_terminal():
        os.abort()
    """
    )
    assert "Fatal Python error: Aborted" in shown


def test_nested_and_threaded_use_puts_the_descriptor_back(capfd, monkeypatch):
    monkeypatch.setattr(sys, "stderr", sys.__stderr__)
    before = os.fstat(2)
    inside = threading.Barrier(4)

    def work():
        with kept_off_terminal(), kept_off_terminal():
            inside.wait(timeout=10)
            os.write(2, b"from a thread\n")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = os.fstat(2)
    assert (after.st_dev, after.st_ino) == (before.st_dev, before.st_ino)
    assert capfd.readouterr().err == "Libraries said meanwhile:\n  from a thread (and 3 alike)\n"


def test_an_error_inside_puts_the_descriptor_back(capfd, monkeypatch):
    monkeypatch.setattr(sys, "stderr", sys.__stderr__)
    libc = ctypes.CDLL(None)

    def fail():
        with kept_off_terminal():
            libc.write(2, b"noise\n", 6)
            raise KeyError("x")

    with pytest.raises(KeyError):
        fail()
    os.write(2, b"direct\n")
    assert capfd.readouterr().err == "Libraries said meanwhile:\n  noise\ndirect\n"


def test_nothing_is_shown_where_nothing_was_said(capfd, monkeypatch):
    monkeypatch.setattr(sys, "stderr", sys.__stderr__)
    with kept_off_terminal():
        warnings.catch_warnings()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("stream", ["None", "io.StringIO()"])
def test_a_missing_or_replaced_stream_is_left_alone(stream):
    script = f"""
    import io, os, sys
    sys.stderr = {stream}
    from fewshot.noise import kept_off_terminal
    with kept_off_terminal() as real:
        os.write(2, b"direct")
        os.write(2, b"" if real is None else b" changed")
    """
    assert run_on_terminal(script) == "direct"


def test_a_closed_descriptor_is_left_alone():
    script = (
        "import os\nos.close(2)\nfrom fewshot.noise import kept_off_terminal\n"
        "with kept_off_terminal() as real: print(real)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert done.stdout == "None\n"


def test_a_summary_is_short_and_safe_to_show():
    noise = b"".join(b"kind %c at %d\n" % (65 + i % 9, i) for i in range(900))
    said = summary(noise).splitlines()
    assert said[1] == "  kind A at 0 (and 99 alike)"
    assert said[-1] == "  and 4 other messages"
    assert len(said) == 7
    assert "\\x1b]0;owned\\x07" in summary(b"tag \x1b]0;owned\x07\n")
    assert max(map(len, summary(b"x" * 10_000).splitlines())) < 250
    assert summary(b"\n \n") == ""


def test_a_workers_traceback_is_shown_as_it_is():
    trace = b'noise\nTraceback (most recent call last):\n  File "a.py", line 1\n  File "a.py", line 2\nValueError: x\n'
    assert summary(trace).splitlines() == trace.decode().splitlines()
