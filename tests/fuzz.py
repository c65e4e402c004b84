"""Fuzz what reads files that nobody vouches for: ``python -m tests.fuzz model --minutes 5``.

Targets: ``model`` (the text of config.json), ``safetensors`` (the bytes of model.safetensors), ``journal`` and ``csv``.
Each input must end in a result that works or in a ``FewshotError``: any other exception, more than ``MEMORY`` bytes
or ``SECONDS`` is a find, and its input is written to a file. Digests are made to fit again after an input is changed,
since without that no change would get past them. Coverage guides the search where atheris is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

try:
    # It changes what is imported under it, so only for the command.
    atheris = importlib.import_module("atheris") if __name__ == "__main__" else None
except ImportError:
    atheris = None

MEMORY, SECONDS = 2 << 30, 30

with (
    atheris.instrument_imports(include=["fewshot.modelfile", "fewshot.journal", "fewshot.images"])
    if atheris
    else (contextlib.nullcontext())
):
    import fewshot
    from fewshot import journal
    from fewshot.errors import FewshotError
    from fewshot.modelfile.documents import write_json
    from fewshot.modelfile.weights import weights_digest
    from tests.golden import GOLDEN, features, unpack

INTERESTING: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 255, 2**31, 2**63, -(2**63), 10**19, 1e-300, 1e300, 0.1, -0.0, "", "x", "\x00"),
    *("\udcff", "é" * 100, "<U1000000000", "str", "|b1", "<f8", "local-dir:/etc", "hf-hub:a/b", "tim", "knn", [], {}),
    *([[]], [1], ["a", "b"], [0, 1], {"a": 1}, "F64", "I64", "SVC", "RandomForestClassifier", "MLPClassifier"),
]


class Target(ABC):
    """What is fuzzed: valid inputs to start from, and what an input must lead to."""

    @abstractmethod
    def seeds(self) -> list[bytes]:
        """Give valid inputs."""

    @abstractmethod
    def run(self, data: bytes) -> None:
        """Read an input; anything that this raises is a find."""

    def mutate(self, data: bytes, rng: random.Random) -> bytes:
        """Change an input."""
        return mutate_bytes(data, rng)


class ModelTarget(Target):
    """The text of config.json, beside tensors that fit the one it was made from."""

    kinds = ("linear-probe", "knn", "tim", "gda", "prototypical", "sklearn-knn", "sklearn-logistic", "simple-cnn")

    def __init__(self, folder: Path) -> None:
        self.folders = [
            unpack(GOLDEN / schema / kind, folder / f"{schema}-{kind}")
            for schema in ("schema-1", "schema-2")
            for kind in self.kinds
        ]

    def seeds(self) -> list[bytes]:
        """Give the configuration of each model, its number in front."""
        return [bytes([n]) + (folder / "config.json").read_bytes() for n, folder in enumerate(self.folders)]

    def mutate(self, data: bytes, rng: random.Random) -> bytes:
        """Change an entry of the configuration, or its text."""
        with contextlib.suppress(ValueError):
            if rng.random() < 0.8:
                return data[:1] + json.dumps(mutate_json(json.loads(data[1:]), rng)).encode()
        return data[:1] + mutate_bytes(data[1:], rng)

    def run(self, data: bytes) -> None:
        """Load the model with this configuration, as it is and with a digest that fits."""
        folder, text = self.folders[(data or b"\0")[0] % len(self.folders)], data[1:]
        load(folder, "config.json", text)
        with contextlib.suppress(ValueError, RecursionError):
            document = json.loads(text)
            if isinstance(document, dict) and document.get("schema") != 1:
                load(folder, "config.json", write_json(document))


class TensorsTarget(ModelTarget):
    """The bytes of model.safetensors, beside a configuration whose digests are made to fit."""

    kinds = ("linear-probe", "knn", "tim", "gda", "sklearn-knn")

    def seeds(self) -> list[bytes]:
        """Give the tensors of each model, its number in front."""
        return [bytes([n]) + (folder / "model.safetensors").read_bytes() for n, folder in enumerate(self.folders)]

    def mutate(self, data: bytes, rng: random.Random) -> bytes:
        """Change the header as JSON, or any bytes."""
        with contextlib.suppress(ValueError):
            if rng.random() < 0.6:
                length = int.from_bytes(data[1:9], "little")
                header = json.dumps(mutate_json(json.loads(data[9 : 9 + length]), rng)).encode()
                return data[:1] + len(header).to_bytes(8, "little") + header + data[9 + length :]
        return data[:1] + mutate_bytes(data[1:], rng)

    def run(self, data: bytes) -> None:
        """Load the model with these tensors."""
        folder, weights = self.folders[(data or b"\0")[0] % len(self.folders)], data[1:]
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if config["schema"] > 1:
            config["tensors_digest"] = weights_digest(weights)
        # What the header names, the configuration names, or the search would end there.
        with contextlib.suppress(Exception):
            header = json.loads(weights[8 : 8 + int.from_bytes(weights[:8], "little")])
            named = {n: {"dtype": e["dtype"], "shape": e["shape"]} for n, e in header.items() if n != "__metadata__"}
            config["tensors"] = named if config["schema"] > 1 else {n: e["shape"] for n, e in named.items()}
        text = (folder / "config.json").read_bytes()
        (folder / "config.json").write_bytes(
            write_json(config) if config["schema"] > 1 else json.dumps(config).encode()
        )
        try:
            load(folder, "model.safetensors", weights)
        finally:
            (folder / "config.json").write_bytes(text)


def load(folder: Path, name: str, data: bytes) -> None:
    """Load a model with one file replaced; if it loads, it gives probabilities."""
    original = (folder / name).read_bytes()
    (folder / name).write_bytes(data)
    try:
        classifier = fewshot.load(folder)
    except FewshotError:
        return
    finally:
        (folder / name).write_bytes(original)
    if hasattr(classifier.head_, "predict_proba"):
        proba = classifier.head_.predict_proba(features())
        assert proba.shape == (3, len(classifier.classes_)), "not a probability for every class"
        assert np.isfinite(proba).all(), "probabilities are not finite"
    repr(classifier)


class JournalTarget(Target):
    """A journal's file, its lines' digests made to fit."""

    settings = {"a": 1, "b": {"c": [1, 2], "d": None}}  # noqa: RUF012

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def seeds(self) -> list[bytes]:
        """Give a journal with three cells."""
        with journal.Journal(self.folder / "seed", self.settings, {"who": "x"}, resume=False) as written:
            for cell in ("x/1", "x/2", "y/1"):
                written.append({"cell": cell, "seconds": 0.5, "values": [1, 2.5]})
        return [written.path.read_bytes()]

    def mutate(self, data: bytes, rng: random.Random) -> bytes:
        """Change a line as JSON, or any bytes."""
        lines = data.split(b"\n")
        number = rng.randrange(len(lines))
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            if rng.random() < 0.7:
                record = json.loads(lines[number])
                record.pop("digest", None)
                lines[number] = journal._line(mutate_json(record, rng)).rstrip(b"\n")
                return b"\n".join(lines)
        return mutate_bytes(data, rng)

    def run(self, data: bytes) -> None:
        """Read the journal, and go on with it."""
        path = self.folder / "run" / journal.FILE_NAME
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        with contextlib.suppress(FewshotError):
            _, records = journal.read_journal(path)
            journal.canonical(records)
        with (
            contextlib.suppress(FewshotError),
            journal.Journal(path.parent, self.settings, {"who": "x"}, resume=True) as opened,
        ):
            opened.append({"cell": "new", "seconds": 1.0})
            assert "new" in journal.read_journal(path)[1]


class CsvTarget(Target):
    """A table of pictures and labels."""

    def __init__(self, folder: Path) -> None:
        from PIL import Image

        self.path = folder / "table.csv"
        for number in range(4):
            Image.new("RGB", (8, 8), (60 * number, 0, 0)).save(folder / f"{number}.png")

    def seeds(self) -> list[bytes]:
        """Give tables as several programs write them."""
        rows = [["image", "label"], *([f"{n}.png", "ab"[n % 2]] for n in range(4))]
        tables = ["\n".join(mark.join(row) for row in rows) for mark in ",;\t"]
        quoted = "\r\n".join(",".join(f'"{cell}"' for cell in row) for row in rows)
        return [*(table.encode() for table in tables), quoted.encode("utf-8-sig"), quoted.encode("utf-16")]

    def run(self, data: bytes) -> None:
        """Read the table."""
        self.path.write_bytes(data)
        with contextlib.suppress(FewshotError):
            dataset = fewshot.ImageDataset.from_csv(self.path)
            assert len(dataset.sources) == len(dataset.labels) > 0


TARGETS: dict[str, type[Any]] = {
    "model": ModelTarget,
    "safetensors": TensorsTarget,
    "journal": JournalTarget,
    "csv": CsvTarget,
}
_TOKENS = [
    b"\0",
    b"\xff\xfe",
    b'"',
    b"{",
    b"[[",
    b"NaN",
    b"1e999",
    b"9" * 50,
    b",",
    b"\r\n",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
]


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip, cut, double, insert or overwrite a few bytes."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at, length = rng.randrange(len(found) + 1), rng.choice((1, 1, 4, 30))
        kind = rng.randrange(5)
        if kind == 0 and at < len(found):
            found[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del found[at : at + length]
        elif kind == 2:
            found[at:at] = found[at : at + length]
        elif kind == 3:
            found[at:at] = rng.choice(_TOKENS)
        else:
            found[at : at + length] = rng.randbytes(length)
    return bytes(found)


def mutate_json(value: Any, rng: random.Random) -> Any:
    """Change one place of a document: replace, remove, double or rename it, or change it a little."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        if rng.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if rng.random() < 0.1:
            return value | {str(rng.choice(INTERESTING)): value[key]}
        return value | {key: mutate_json(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        if rng.random() < 0.2:
            return value[:at] + value[at + 1 :] if rng.random() < 0.5 else value + [value[at]] * rng.choice((1, 50))
        return [*value[:at], mutate_json(value[at], rng), *value[at + 1 :]]
    if isinstance(value, (int, float)) and not isinstance(value, bool) and rng.random() < 0.5:
        return rng.choice((value + 1, value - 1, -value, value * 1000, value / 3))
    if isinstance(value, str) and rng.random() < 0.3:
        return mutate_bytes(value.encode("utf-8", "replace"), rng).decode("utf-8", "replace")
    return rng.choice(INTERESTING)


@contextlib.contextmanager
def limits() -> Iterator[None]:
    """Turn too much memory and too much time into exceptions."""

    def late(*_: object) -> None:
        raise AssertionError(f"not done after {SECONDS} s")

    used = int(re.search(r"VmData:\s+(\d+)", Path("/proc/self/status").read_text())[1]) << 10  # type: ignore[index]
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY, before[1]))
    signal.signal(signal.SIGALRM, late)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def run_one(target: Target, data: bytes) -> None:
    """Run one input under the time limit."""
    signal.alarm(SECONDS)
    try:
        target.run(data)
    finally:
        signal.alarm(0)


def fuzz_plainly(target: Target, seconds: float, seed: int, finds: Path) -> tuple[int, set[str]]:
    """Change valid inputs at random; give the number of runs and the places where other errors came from."""
    rng, runs, seen = random.Random(seed), 0, set()
    seeds = target.seeds()
    for data in seeds:
        run_one(target, data)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        data = rng.choice(seeds)
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            data = target.mutate(data, rng)
        runs += 1
        try:
            run_one(target, data)
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"
            if place not in seen:
                seen.add(place)
                finds.mkdir(parents=True, exist_ok=True)
                (finds / f"{type(target).__name__}-{len(seen)}").write_bytes(data)
                print(f"{place}: {str(error)[:200]}", flush=True)
    return runs, seen


def fuzz_guided(target: Target, seconds: float, seed: int, finds: Path, corpus: Path) -> None:
    """Let coverage guide the search; ends the process, at the first find or when the time is over."""
    corpus.mkdir()
    for number, data in enumerate(target.seeds()):
        (corpus / str(number)).write_bytes(data)
    finds.mkdir(parents=True, exist_ok=True)

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        changed = target.mutate(data, rng) if rng.random() < 0.7 else atheris.Mutate(data, max_size)
        return changed[:max_size]

    options = [
        f"-max_total_time={seconds:.0f}",
        f"-seed={seed + 1}",
        "-max_len=200000",
        "-rss_limit_mb=6000",
        "-timeout=60",
    ]
    argv = [sys.argv[0], *options, f"-artifact_prefix={finds}/", "-print_final_stats=1", str(corpus)]
    atheris.Setup(argv, lambda data: run_one(target, data), custom_mutator=mutate)
    atheris.Fuzz()


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plain", action="store_true", help="without atheris")
    parser.add_argument("--finds", type=Path, default=Path(tempfile.gettempdir(), "fewshot-finds"))
    given = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        target = TARGETS[given.target](folder)
        if atheris and not given.plain:
            with limits():
                fuzz_guided(target, 60 * given.minutes, given.seed, given.finds, folder / "corpus")
            return
        with limits():
            runs, found = fuzz_plainly(target, 60 * given.minutes, given.seed, given.finds)
        print(f"{given.target}: {runs} runs in {given.minutes:g} minutes, {len(found)} finds {sorted(found)}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
