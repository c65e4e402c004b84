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

PATIENCE = 120
"""Seconds; for machines on which much else runs, since a process that does not end would stay for an hour."""

PROGRAM = """
import signal, sys, threading, time
from fewshot import interrupts
interrupts._SAY_AFTER, interrupts._LEAVE_AFTER, interrupts._ECHO = {settings}
begun = lambda *more: print("begun", *more, flush=True)
# Handlers run at the next step of the main thread: one that is to take no signal must be past its last.
begun_and_asleep = lambda *more: threading.Timer(1, begun, more).start()
with interrupts.orderly():
    interrupts.explain(lambda: "Half is kept.")
    {body}
"""


def start(body, *, say_after=0.0, leave_after=3600.0, echo=0.0):
    """Start a program; nobody waits for the hour after which a swallowed signal would end it."""
    program = PROGRAM.format(body=body.replace("\n", "\n    "), settings=(say_after, leave_after, echo))
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    first, *process.told = process.stdout.readline().split()
    assert first == "begun"
    return process


def send(process, number):
    """Send a signal, and wait until the watching thread says that it has seen it."""
    process.send_signal(number)
    assert process.stderr.readline().startswith("Waiting for the step under way")


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_ends_the_process_and_says_what_is_kept(number):
    process = start("try:\n    begun()\n    time.sleep(3600)\nfinally:\n    time.sleep(3600)")
    send(process, signal.SIGINT)
    process.send_signal(number)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "Interrupted. Half is kept." in errors


def test_a_repeat_of_the_same_key_press_is_not_a_second_signal():
    body = "try:\n    begun()\n    time.sleep(3600)\nexcept KeyboardInterrupt:\n    input()\n    print('in order')"
    process = start(body, echo=3600.0)
    send(process, signal.SIGINT)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate("\n", timeout=PATIENCE)
    assert (out, errors) == ("in order\n", "")
    assert process.returncode == 0


def test_a_step_that_swallows_the_exception_is_not_waited_for_for_ever():
    process = start(
        "while True:\n    try:\n        begun()\n        time.sleep(3600)\n    except BaseException:\n        pass",
        leave_after=0.5,
    )
    send(process, signal.SIGTERM)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 143
    assert "Stopped by SIGTERM. Half is kept." in errors


def test_code_that_never_returns_to_python_is_ended_too():
    # The main thread takes no signals, as if it were inside C code: only the watching thread learns of them.
    process = start(
        "signal.pthread_sigmask(signal.SIG_BLOCK, interrupts.SIGNALS)\nbegun_and_asleep()\ntime.sleep(3600)"
    )
    send(process, signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 143


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc to see whether a process runs")
@pytest.mark.parametrize("task", ["os.getpid", "signal.pause"], ids=["idle", "at work"])
def test_worker_processes_end_with_the_process(task):
    process = start(
        f"""import joblib, os
pool = joblib.Parallel(2, return_as="generator")
answers = pool(joblib.delayed({task})() for _ in range(2))
if "{task}" == "os.getpid":
    list(answers)
from joblib.externals.loky import reusable_executor
while len(reusable_executor._executor._processes) < 2:
    time.sleep(0.01)
signal.pthread_sigmask(signal.SIG_BLOCK, interrupts.SIGNALS)
begun_and_asleep(*reusable_executor._executor._processes)
time.sleep(3600)"""
    )
    workers = process.told
    assert len(workers) == 2
    send(process, signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 143
    end = time.monotonic() + PATIENCE
    while any(is_running(number) for number in workers):
        assert time.monotonic() < end, "left alone, they would stay for five minutes"
        time.sleep(0.01)


def is_running(number):
    try:
        with open(f"/proc/{number}/stat") as stat:
            # Behind the name, which is in brackets: what has ended but has no parent to ask is a zombie.
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_an_explanation_that_fails_does_not_spoil_the_farewell():
    with interrupts.orderly():
        interrupts.explain(lambda: 1 / 0)
        assert interrupts.farewell(signal.SIGTERM) == "Stopped by SIGTERM."
