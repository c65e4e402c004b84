"""Real command lines in processes of their own, for tests that interrupt them or take their disk away."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent


def start(*arguments, **options):
    """Start ``fewshot`` with arguments, in a process group of its own."""
    command = [sys.executable, "-m", "fewshot", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **options.pop("env", {})}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(command, env=environment, start_new_session=True, text=True, **pipes)


def finish(process, timeout=120):
    """Wait for a process; give (exit code, standard output, standard error)."""
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def run(*arguments, **options):
    """Run ``fewshot`` to its end; give (exit code, standard output, standard error)."""
    return finish(start(*arguments, **options))


def wait_until(condition, process, timeout=120):
    """Wait until a condition holds while a process runs."""
    end = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.01)


def lines(path):
    """Number of whole lines of a file that need not be there yet."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def make_pictures(folder, classes=2, per_class=6, side=48, seed=0):
    """Write small pictures, coloured by their class, one folder per class."""
    rng = np.random.default_rng(seed)
    for label in range(classes):
        colour = rng.integers(0, 256, (4, 4, 3))
        (folder / f"c{label}").mkdir(parents=True)
        for i in range(per_class):
            coarse = np.clip(colour + rng.integers(-70, 71, (4, 4, 3)), 0, 255).astype(np.uint8)
            picture = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
            picture.save(folder / f"c{label}" / f"{i}.png")
    return folder
