"""The part of the sweep that touches hostile files: reads one after the other, and says what became of each.

It is a process of its own, with a limit of memory. Requests and answers are lines of JSON, on descriptors that no
library prints to by accident.
"""

import argparse
import contextlib
import importlib
import io
import json
import os
import resource
import sys
import time
import warnings
from pathlib import Path
from types import TracebackType

import numpy as np
from PIL import Image

from fewshot.errors import ImageError
from fewshot.images.findings import Finding
from fewshot.images.reader import FORMATS, MAX_PIXELS, examine, read_payload


def read(path: str) -> object:
    """Read a picture as the package does."""
    return examine(read_payload(path), max_pixels=MAX_PIXELS)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--memory", type=int, required=True, help="MiB that a file may take")
    parser.add_argument("--reader", default="tests.sweep_worker:read")
    options = parser.parse_args()
    module, _, name = options.reader.partition(":")
    reader = getattr(importlib.import_module(module), name)
    # Libraries may print to 1 and 2: the first is thrown away, the second kept to be counted.
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    noise = os.memfd_create("noise")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(noise, 2)
    warnings.simplefilter("ignore")
    _warm_up()
    limit = _status("VmSize") + options.memory * 1024
    resource.setrlimit(resource.RLIMIT_AS, (limit * 1024, limit * 1024))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        answers.write(json.dumps(_outcome(reader, json.loads(line), noise)) + "\n")
        answers.flush()


def _outcome(reader, path, noise):
    _reset_peak()
    os.ftruncate(noise, 0)
    os.lseek(noise, 0, os.SEEK_SET)
    before, start = _status("VmRSS"), time.perf_counter()
    try:
        kind, detail = "decoded", _check(reader(path))
    except ImageError as error:
        kind, detail = _judge(error)
    except BaseException as error:
        kind, detail = "exception", f"{type(error).__name__}: {error} at {_place(error.__traceback__)}"
    seconds, peak = time.perf_counter() - start, _status("VmHWM") - before
    if kind == "decoded" and not detail:
        detail = _format(path)
    elif kind == "decoded":
        kind = "wrong result"
    return {
        "kind": kind,
        "detail": detail,
        "seconds": round(seconds, 3),
        "mib": max(0, peak) // 1024,
        "noise": os.pread(noise, 500, 0).decode("utf-8", "replace"),
    }


def _judge(error: ImageError) -> tuple[str, str]:
    if isinstance(error.__cause__, MemoryError):
        return "out of memory", str(error)
    if not (error.code.isupper() and error.source and error.message and error.code in str(error)):
        return "bad error", repr(error)
    return "refused", error.code


def _check(result: object) -> str:
    """Say what is wrong with a result; nothing, if it is as promised."""
    if not (isinstance(result, tuple) and len(result) == 2):
        return f"gave a {type(result).__name__}, not pixels and findings"
    pixels, findings = result
    if not (isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.flags.c_contiguous):
        return f"gave {getattr(pixels, 'dtype', type(pixels).__name__)}, not contiguous uint8"
    if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        return f"gave the shape {pixels.shape}"
    if pixels.shape[0] * pixels.shape[1] > MAX_PIXELS:
        return f"gave {pixels.shape}, more than {MAX_PIXELS} pixels"
    if not (isinstance(findings, tuple) and all(isinstance(finding, Finding) for finding in findings)):
        return f"gave findings {findings!r}"
    return ""


def _format(path: str) -> str:
    with contextlib.suppress(Exception), Image.open(path, formats=FORMATS) as image:
        return f"{image.format} {image.mode}"
    return "another way"


def _place(trace: TracebackType | None) -> str:
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "?"


def _warm_up() -> None:
    """Load the decoders, so that their code does not count as a picture's memory."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    Image.init()
    examine(read_payload(buffer.getvalue()))


def _status(field: str) -> int:
    """Read a number of KiB from this process's status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    return 0


def _reset_peak() -> None:
    # Where it may not be written, the peak is that of the process.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    main()
