"""SIGKILL at random moments while a model is saved: ``python -m tests.kill_saving --times 100``.

A forked child, with everything imported and trained beforehand, saves a model over another one. It is killed at a
random moment of that. The folder must then hold exactly the old or the new model, and the next save must leave
nothing else beside it. ``--first`` has no old model; ``--renames`` is for systems that cannot exchange two folders.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

import fewshot
from fewshot.errors import ModelFileError
from fewshot.modelfile import replacing, saving


def trained(seed: int, n_images: int = 2) -> fewshot.FewShotClassifier:
    """Train a small classifier; another seed gives another one."""
    rng = np.random.default_rng(seed)
    pictures = [rng.integers(0, 256, (48, 48, 3), dtype=np.uint8) for _ in range(2 * n_images)]
    classifier = fewshot.FewShotClassifier(head="knn", augmentation="none", random_state=seed, cache=False)
    return classifier.fit(pictures, ["apple", "orange"] * n_images)


def digest(folder: Path) -> str:
    """Digest all that a folder holds: names and contents."""
    found = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        found.update(f"{file.name} {file.stat().st_size} ".encode() + file.read_bytes())
    return found.hexdigest()


def kill_while_saving(classifier: fewshot.FewShotClassifier, path: Path, within: float, *, writing: bool) -> bool:
    """Fork, save in the child, kill it after ``within`` seconds; say whether it was killed before it had finished.

    Args:
        classifier: what is saved.
        path: where.
        within: seconds to wait.
        writing: count them from when the first file is about to be written; otherwise from the beginning.
    """
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        write = saving.replace_folder
        saving.replace_folder = lambda *given: (os.write(told, b"w"), write(*given))
        os.write(told, b"b")
        try:
            classifier.save(path)
        finally:
            os._exit(0)
    os.close(told)
    os.read(ready, 1)
    if writing:
        os.read(ready, 1)
    os.close(ready)
    time.sleep(within)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def seconds_of(action: Callable[[], object]) -> float:
    """Time an action."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def run(folder: Path, times: int, *, seed: int = 0, first: bool = False) -> Counter[str]:
    """Kill ``times`` saves; count what was found afterwards.

    Raises:
        AssertionError: anything but the old model, the new one, or, where there was none, nothing.
    """
    path, rng = folder / "model", random.Random(seed)
    models = [trained(1), trained(2, n_images=12)]
    digests = []
    for model in models:
        whole = seconds_of(lambda model=model: model.save(path))
        files = {file.name: file.read_bytes() for file in path.iterdir()}
        part = seconds_of(lambda files=files: replacing.replace_folder(path, files))
        digests.append(digest(path))
    outcomes: Counter[str] = Counter()
    for turn in range(times):
        new = turn % 2
        models[1 - new].save(path)
        assert [p.name for p in folder.iterdir()] == ["model"], f"left over: {[p.name for p in folder.iterdir()]}"
        if first:
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
        writing = rng.random() < 0.7
        within = rng.uniform(0, 1.5 * (part if writing else whole))
        killed = kill_while_saving(models[new], path, within, writing=writing)
        left = len(list(folder.iterdir())) - path.exists()
        outcome = _found(path, digests, new, turn)
        assert first or outcome != "none", f"neither model after {turn + 1} kills"
        outcomes[outcome] += 1
        outcomes["killed while saving"] += killed
        outcomes["with leftovers"] += left > 0
    models[0].save(path)
    assert [p.name for p in folder.iterdir()] == ["model"]
    return outcomes


def _found(path: Path, digests: list[str], new: int, turn: int) -> str:
    try:
        fewshot.load(path)
    except ModelFileError as error:
        if "no such folder" not in str(error):
            raise
        return "none"
    found = digest(path)
    assert found in digests, f"a mixture after {turn + 1} kills"
    return "new" if found == digests[new] else "old"


def main() -> None:
    """Run from the command line."""
    import torch

    # A forked child has none of the threads that its parent computes with.
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(prog="python -m tests.kill_saving", description=__doc__.partition("\n")[0])
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", action="store_true", help="there is no old model")
    parser.add_argument("--renames", action="store_true", help="as on a system that cannot exchange two folders")
    given = parser.parse_args()
    if given.renames:
        replacing.exchange = lambda first, second: False
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        outcomes = run(Path(folder), given.times, seed=given.seed, first=given.first)
    print(f"{given.times} kills in {time.perf_counter() - began:.0f} s: {dict(outcomes)}; nothing else was found")


if __name__ == "__main__":
    sys.exit(main())
