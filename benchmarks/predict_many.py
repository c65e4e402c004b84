"""`fewshot predict` on ten thousand images, one in twenty of them broken: all answered or listed, and memory flat.

pip install '.[demo]' && python benchmarks/predict_many.py

Images are variations of the demo's photographs. Every row is a process of its own, with an empty feature store. Checked
is that the rows of the CSV are the files, that each broken file has its reason code, and that each good one has the
answer that it gets on its own.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

import fewshot
from fewshot import FewShotClassifier
from fewshot.images.fruits import load_fruits

EVERY = 20
"""One file in so many is broken."""


def _no_pixels(data: bytes) -> bytes:
    """A PNG of 30,000 x 30,000 pixels that has only a header."""
    import struct
    import zlib

    header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def _not_finite(data: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(buffer, "TIFF")
    return buffer.getvalue()


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "EMPTY": lambda data: b"",
    "TRUNCATED": lambda data: data[: len(data) // 2],
    "NOT_AN_IMAGE": lambda data: b"<!doctype html><title>404</title>",
    "UNSUPPORTED_FORMAT": lambda data: b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "TOO_LARGE": _no_pixels,
    "NONFINITE": _not_finite,
}


def make_images(folder: Path, n: int) -> dict[str, str]:
    """Write n distinct files, and tell the reason code that each must get ("" for good ones)."""
    photos = load_fruits()["test"].sources
    expected = {}
    for index in range(n):
        rng = np.random.default_rng(index)
        picture = fewshot.read_image(photos[index % len(photos)])
        top, left = rng.integers(0, 16, 2)
        buffer = io.BytesIO()
        Image.fromarray(picture[top:, left:]).save(buffer, "JPEG", quality=int(rng.integers(70, 95)))
        data, code = buffer.getvalue(), ""
        if index % EVERY == EVERY - 1:
            code = sorted(BROKEN)[index // EVERY % len(BROKEN)]
            data = BROKEN[code](data)
        path = folder / f"{index:06d}.jpg"
        path.write_bytes(data)
        expected[str(path)] = code
    return expected


def predict(model: Path, folder: Path, store: Path) -> tuple[list[dict[str, str]], float, float]:
    """Run the command line; give the CSV's rows, seconds and peak memory in MB."""
    environment = os.environ | {"FEWSHOT_CACHE": str(store)}
    command = [sys.executable, "-m", "fewshot", "predict", str(model), str(folder), "--csv"]
    with tempfile.TemporaryFile("w+", newline="") as table, tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=table, stderr=said, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SystemExit(said.read().decode()[-2000:])
        table.seek(0)
        return list(csv.DictReader(table)), seconds, usage.ru_maxrss / 1024


def main() -> None:
    """Print a row per number of images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[1_000, 10_000])
    arguments = parser.parse_args()
    train = load_fruits()["train"]
    few = [i for name in train.class_names for i in np.flatnonzero(np.array(train.labels) == name)[:2]]
    print("| images | good, all predicted | broken, all listed | as on its own | seconds | images/s | peak, MB |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        classifier = FewShotClassifier(augmentation="none", cache=False).fit(train.subset(few))
        classifier.save(home / "model")
        for n in arguments.images:
            folder = home / f"images-{n}"
            folder.mkdir()
            expected = make_images(folder, n)
            rows, seconds, peak = predict(home / "model", folder, home / f"store-{n}")
            assert [row["image"] for row in rows] == sorted(expected)
            assert {row["image"]: row["error"] for row in rows} == expected
            good = [row for row in rows if not row["error"]]
            sample = good[:: max(1, len(good) // 200)]
            assert [row["label"] for row in sample] == list(classifier.predict([row["image"] for row in sample]))
            codes = ", ".join(f"{code} {count}" for code, count in sorted(Counter(expected.values()).items()) if code)
            print(
                f"| {n:,} | {len(good):,} | {n - len(good):,} ({codes}) | {len(sample)} of {len(sample)} | "
                f"{seconds:.1f} | {n / seconds:.0f} | {peak:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
