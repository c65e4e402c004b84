"""Near-duplicates and frames of videos: how many changed copies are found, how many different pictures are mistaken.

::

    python benchmarks/near_duplicates.py DATA            # recall, false pairs, frames; a few minutes
    python benchmarks/near_duplicates.py --scale 10000   # time and memory of the search among so many pictures

``DATA`` holds data sets, each in a folder of its own: with train and test folders in it, or as ``leaves:`` understands
them (every folder that holds images is a class). The demo's fruits are added. Of each set 100 images are changed in
each way, and looked for among the 100 originals. Pairs are also looked for among all images of a set as it is:
photographs of one shelf taken twice may be among them, so look at them (``--show``) before calling them false.
"""

from __future__ import annotations

import argparse
import io
import random
import resource
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from fewshot.images.dataset import ImageDataset
from fewshot.images.frames import frame_runs
from fewshot.images.near import SIDE, fingerprint, near_pairs
from fewshot.images.reader import read_image
from fewshot.images.sources import load_dataset

N_CHANGED = 100
Change = Callable[[Image.Image, random.Random], Image.Image]


def jpeg(quality: int) -> Change:
    """Save as JPEG."""

    def change(image: Image.Image, _: random.Random) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer).convert("RGB")

    return change


def resized(factor: float) -> Change:
    """Make smaller or larger."""
    return lambda image, _: image.resize(
        (max(1, int(image.width * factor)), max(1, int(image.height * factor))), Image.Resampling.BICUBIC
    )


def cropped(share: float) -> Change:
    """Cut off a share of each side's length, anywhere."""

    def change(image: Image.Image, rng: random.Random) -> Image.Image:
        cut_x, cut_y = image.width * share, image.height * share
        x, y = rng.random() * cut_x, rng.random() * cut_y
        return image.crop((int(x), int(y), int(x + image.width - cut_x), int(y + image.height - cut_y)))

    return change


def gamma(power: float) -> Change:
    """Make lighter or darker, as a screen does."""
    return lambda image, _: image.point([round(255 * (i / 255) ** power) for i in range(256)] * 3)


def watermark(image: Image.Image, _: random.Random) -> Image.Image:
    """A white label of 27 x 7 % in a corner."""
    marked = image.copy()
    draw = ImageDraw.Draw(marked)
    width, height = image.size
    draw.rectangle((int(width * 0.7), int(height * 0.9), int(width * 0.97), int(height * 0.97)), fill=(255, 255, 255))
    draw.text((int(width * 0.72), int(height * 0.91)), "sample", fill=(200, 0, 0))
    return marked


def letterbox(image: Image.Image, _: random.Random) -> Image.Image:
    """Black bars to a square, or to 4:3 where it is one."""
    side = max(image.size)
    size = (side, side) if image.width != image.height else (int(side * 1.33), side)
    canvas = Image.new("RGB", size)
    canvas.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return canvas


CHANGES: dict[str, Change] = {
    "JPEG, quality 30": jpeg(30),
    "JPEG, quality 60": jpeg(60),
    "JPEG, quality 90": jpeg(90),
    "a quarter of the size": resized(0.25),
    "half the size": resized(0.5),
    "twice the size": resized(2),
    "2 % cut off": cropped(0.02),
    "5 % cut off": cropped(0.05),
    "10 % cut off": cropped(0.1),
    "brightness 0.7": lambda image, _: ImageEnhance.Brightness(image).enhance(0.7),
    "brightness 1.3": lambda image, _: ImageEnhance.Brightness(image).enhance(1.3),
    "contrast 0.6": lambda image, _: ImageEnhance.Contrast(image).enhance(0.6),
    "contrast 1.4": lambda image, _: ImageEnhance.Contrast(image).enhance(1.4),
    "gamma 0.7": gamma(0.7),
    "gamma 1.5": gamma(1.5),
    "grey": lambda image, _: image.convert("L").convert("RGB"),
    "label in a corner": watermark,
    "mirror image": lambda image, _: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "blurred": lambda image, _: image.filter(ImageFilter.GaussianBlur(max(image.size) / 150)),
    "black bars": letterbox,
    "turned by 2 degrees": lambda image, _: image.rotate(2, Image.Resampling.BICUBIC, fillcolor=(128, 128, 128)),
}


def load_sets(data: Path) -> dict[str, ImageDataset]:
    """Load the data sets in a folder, and the fruits."""
    folders = sorted(path for path in data.iterdir() if path.is_dir())
    specs = {path.name: str(path) if (path / "train").is_dir() else f"leaves:{path}" for path in folders}
    return {name: load_dataset(spec) for name, spec in (specs | {"fruits": "fruits"}).items()}


def recall(dataset: ImageDataset, pool: ThreadPoolExecutor) -> dict[str, int]:
    """Count, for each change, how many of the changed copies are found to be their originals."""
    chosen = sorted(random.Random(0).sample(range(len(dataset)), min(N_CHANGED, len(dataset))))

    def changed(position: int) -> list[np.ndarray]:
        image = Image.fromarray(read_image(dataset.sources[position]))
        rng = random.Random(position)
        return [fingerprint(np.asarray(change(image, rng))) for change in CHANGES.values()]

    prints = np.array(list(pool.map(changed, chosen)))
    originals = thumbnails(dataset.subset(chosen), pool)
    found = {}
    for number, name in enumerate(CHANGES):
        pairs = near_pairs(np.ascontiguousarray(prints[:, number]), originals)
        found[name] = sum(pair.first == pair.second for pair in pairs)
    return found


def thumbnails(dataset: ImageDataset, pool: ThreadPoolExecutor) -> np.ndarray:
    """Read all images, and keep (n, SIDE, SIDE) thumbnails."""
    return np.array(list(pool.map(lambda source: fingerprint(read_image(source)), dataset.sources)))


def panned(pixels: np.ndarray, n_frames: int, step: float, rng: np.random.Generator) -> np.ndarray:
    """Move a camera over a photograph by ``step`` of the frame's width a frame, with noise and something that moves."""
    height, width = (int(0.6 * side) for side in pixels.shape[:2])
    room = np.array([pixels.shape[1] - width, pixels.shape[0] - height])
    place, angle = rng.random(2) * room, rng.random() * 2 * np.pi
    velocity = np.array([np.cos(angle), np.sin(angle)]) * step * width
    thing = rng.integers(0, 256, (max(2, height // 6), max(2, width // 6), 3))
    frames = []
    for number in range(n_frames):
        place = place + velocity
        velocity = np.where((place < 0) | (place > room), -velocity, velocity)
        x, y = np.clip(place, 0, room).astype(int)
        frame = pixels[y : y + height, x : x + width].astype(float)
        left = int(number * 0.04 * width) % (width - thing.shape[1])
        frame[height // 3 : height // 3 + thing.shape[0], left : left + thing.shape[1]] = thing
        frame = frame * (1 + 0.03 * rng.normal()) + 4 * rng.normal(size=frame.shape)
        frames.append(fingerprint(np.clip(frame, 0, 255).astype(np.uint8)))
    return np.array(frames)


def frames_found(dataset: ImageDataset, prints: np.ndarray, step: float) -> float:
    """Share of 20 frames among 40 photographs of a class that are found, over 20 videos."""
    labels, found = np.array(dataset.labels), 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        chosen = int(rng.integers(len(dataset)))
        frames = panned(read_image(dataset.sources[chosen]), 20, step, rng)
        others = [i for i in np.flatnonzero(labels == labels[chosen]) if i != chosen][:40]
        names = [f"video_{i:04}.jpg" for i in range(20)] + [f"photo_{37 * i}.jpg" for i in range(len(others))]
        runs = frame_runs(names, ["class"] * len(names), np.concatenate([frames, prints[others]]))
        found += sum(len(run.members) for run in runs if run.members[0] < 20)
    return found / 400


def measure(data: Path, show: bool) -> None:
    """Print pairs, runs and frames found for each set, and the table of changes."""
    sets, rows = load_sets(data), {}
    with ThreadPoolExecutor(2) as pool:
        for name, dataset in sets.items():
            prints = thumbnails(dataset, pool)
            start = time.perf_counter()
            pairs = near_pairs(prints)
            seconds = time.perf_counter() - start
            other = sum(dataset.labels[pair.first] != dataset.labels[pair.second] for pair in pairs)
            runs = {
                kind: len(frame_runs(names, dataset.labels, prints))
                for kind, names in (
                    ("own names", dataset.names),
                    ("numbered in order", [f"image_{i:05}.jpg" for i in range(len(dataset))]),
                )
            }
            total = len(dataset) * (len(dataset) - 1) // 2
            print(
                f"{name}: {len(dataset)} images, {len(pairs)} pairs of {total}, {other} of two classes, {seconds:.1f} s"
            )
            print(f"  runs taken for videos: {runs}")
            steps = {step: f"{100 * frames_found(dataset, prints, step):.0f} %" for step in (0.01, 0.03, 0.06, 0.1)}
            print(f"  frames found, by the camera's step per frame: {steps}")
            for pair in pairs if show else ():
                print(f"  {pair.similarity:.3f} {dataset.names[pair.first]} {dataset.names[pair.second]}")
            rows[name] = recall(dataset, pool)
    print(f"\n| change | {' | '.join(rows)} |\n|---|{'---:|' * len(rows)}")
    for change in CHANGES:
        print(f"| {change} | {' | '.join(str(found[change]) for found in rows.values())} |")


def scale(n_images: int) -> None:
    """Search among smooth random pictures, of which every hundredth is a brighter copy of another."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (n_images, 6, 6), dtype=np.uint8)
    prints = np.empty((n_images, SIDE, SIDE), dtype=np.uint8)
    for position, picture in enumerate(small):
        prints[position] = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    copies = np.arange(0, n_images - 1, 100)
    prints[copies + 1] = np.clip(prints[copies] * 0.8 + 30, 0, 255).astype(np.uint8)
    start = time.perf_counter()
    pairs = near_pairs(prints)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{n_images} images: {time.perf_counter() - start:.1f} s, {len(pairs)} pairs (of {len(copies)}), "
        f"thumbnails {prints.nbytes / 1e6:.0f} MB, peak {peak:.0f} MiB"
    )


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--scale", type=int)
    parser.add_argument("--show", action="store_true", help="list the pairs that are found")
    options = parser.parse_args()
    if options.scale:
        scale(options.scale)
    if options.data:
        measure(options.data, options.show)


if __name__ == "__main__":
    main()
