"""Signals: the first is an exception, the second the end; what a step swallows does not keep the process alive."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from fewshot import interrupts
from fewshot.interrupts import Stopped

PROGRAM = """
import signal, sys, time
from fewshot import interrupts
interrupts._SAY_AFTER, interrupts._LEAVE_AFTER = 0.3, 1.0
begun = lambda: print("begun", flush=True)
with interrupts.orderly():
    interrupts.explain(lambda: "Half is kept.")
    {body}
"""


def start(body):
    program = PROGRAM.format(body=body.replace("\n", "\n    "))
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "begun\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_an_exception_that_says_which_it_was(number):
    with interrupts.orderly():
        with pytest.raises(Stopped) as stopped:
            signal.raise_signal(number)
        assert stopped.value.number == number
        assert interrupts.received() == number
        with pytest.raises(Stopped):
            interrupts.check()
    assert interrupts.received() == 0
    interrupts.check()


def test_stopped_is_a_keyboard_interrupt():
    assert issubclass(Stopped, KeyboardInterrupt)


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in interrupts.SIGNALS]
    with interrupts.orderly():
        assert [signal.getsignal(number) for number in interrupts.SIGNALS] != before
        with interrupts.kept_handlers():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, *before)
    assert [signal.getsignal(number) for number in interrupts.SIGNALS] == before


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts.orderly():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)
            assert interrupts.received() == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_nothing_is_touched():
    seen = []

    def work():
        before = signal.getsignal(signal.SIGTERM)
        with interrupts.orderly(), interrupts.kept_handlers():
            seen.append(signal.getsignal(signal.SIGTERM) == before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]


def test_the_second_signal_ends_at_once_and_says_what_is_kept():
    process = start("try:\n    begun()\n    time.sleep(60)\nfinally:\n    time.sleep(60)")
    process.send_signal(signal.SIGINT)
    time.sleep(0.4)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert time.monotonic() - begin < 5
    assert process.returncode == 130
    assert "Interrupted. Half is kept." in errors


def test_a_repeat_of_the_same_key_press_is_not_a_second_signal():
    process = start(
        "try:\n    begun()\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    time.sleep(0.2)\n    print('in order')"
    )
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert out == "in order\n"


def test_a_step_that_swallows_the_exception_is_not_waited_for_for_ever():
    process = start(
        "while True:\n    try:\n        begun()\n        time.sleep(60)\n    except BaseException:\n        pass"
    )
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 143
    assert "Waiting for the step under way" in errors
    assert "Stopped by SIGTERM. Half is kept." in errors


def test_code_that_never_returns_to_python_is_ended_too():
    # The main thread takes no signals, as if it were inside C code: only the watching thread learns of them.
    process = start("signal.pthread_sigmask(signal.SIG_BLOCK, interrupts.SIGNALS)\nbegun()\ntime.sleep(60)")
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 143


def test_an_explanation_that_fails_does_not_spoil_the_farewell():
    with interrupts.orderly():
        interrupts.explain(lambda: 1 / 0)
        assert interrupts.farewell(signal.SIGTERM) == "Stopped by SIGTERM."
