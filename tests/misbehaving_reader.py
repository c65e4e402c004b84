"""A reader that does, to a file, what the file says: the sweep must notice each of them."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from fewshot.errors import ImageError

GOOD = np.zeros((4, 6, 3), np.uint8)


def read(path):
    order = Path(path).read_text()
    if order in _RESULTS:
        return _RESULTS[order]
    return _DEEDS[order](path)


def _refuse(path):
    raise ImageError("CORRUPT", path, "the pixels do not decode")


def _refuse_badly(path):
    raise ImageError("", path, "")


def _raise(path):
    raise KeyError(path)


def _run_out(path):
    try:
        bytearray(1 << 40)
    except MemoryError as error:
        raise ImageError("TOO_LARGE", path, "decoding ran out of memory") from error


def _take(path):
    return bytearray(1 << 40)


def _hang(path):
    time.sleep(600)


def _spin(path):
    while True:
        pass


def _wait_for_a_child(path):
    subprocess.run([sys.executable, "-c", "while True: pass"])


def _crash(path):
    ctypes.string_at(0)


def _print(path):
    ctypes.CDLL(None).write(2, b"from C\n", 7)
    ctypes.CDLL(None).write(1, b"from C\n", 7)
    return GOOD, ()


_RESULTS = {
    "good": (GOOD, ()),
    "no pair": GOOD,
    "no array": ([1, 2], ()),
    "floats": (GOOD.astype(float), ()),
    "two dimensions": (GOOD[:, :, 0].copy(), ()),
    "transposed": (GOOD.transpose(1, 0, 2), ()),
    "no findings": (GOOD, ("finding",)),
    # Never touched, so that it takes no memory.
    "too large": (np.empty((1 << 14, 1 << 13, 3), np.uint8), ()),
}
_DEEDS = {
    "refuse": _refuse,
    "refuse badly": _refuse_badly,
    "raise": _raise,
    "run out": _run_out,
    "take": _take,
    "hang": _hang,
    "spin": _spin,
    "wait for a child": _wait_for_a_child,
    "crash": _crash,
    "kill": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda _: os._exit(3),
    "print": _print,
}
