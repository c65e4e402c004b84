"""JPEG files to features: this package against the script that people write, and its memory.

python benchmarks/extract_vs_plain.py FOLDER [--images 384] [--size 500x375] [--rounds 3]
python benchmarks/extract_vs_plain.py FOLDER --memory 1000 10000

The plain script is a ``DataLoader`` (batches of 32, two workers) over PIL and timm's own transform, and the timm model
in eval mode without gradients, with PyTorch's default threads. Every contestant is a process of its own that has
loaded and run its network once; they take turns of a hundred images, so that whatever else the machine does hits all
of them, and the ratios are medians over turns. The cosine is of the whole pipeline's features with the plain script's,
the smallest over all images.

Memory: images that differ (the folder's, each with a rectangle of its own painted in) are extracted by a fresh
process for each number, with a feature store.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from fewshot import ImageDataset

TURN = 96  # three batches of the plain script
CONTESTANTS = {
    "plain script": "plain",
    "fewshot, PyTorch": "pytorch",
    "fewshot, OpenVINO": "openvino",
}


def plain() -> Any:
    """Make a function that extracts as the usual script does."""
    import timm
    import torch
    from torch.utils.data import DataLoader, Dataset

    from fewshot.backbones.packaged import restore_classifier

    # The same weights, and from here on nothing of this package.
    model = restore_classifier("efficientnet_lite0")
    model.reset_classifier(0)
    model.eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)

    class Files(Dataset):
        def __init__(self, chosen: list[str]) -> None:
            self.chosen = chosen

        def __len__(self) -> int:
            return len(self.chosen)

        def __getitem__(self, index: int) -> torch.Tensor:
            return transform(Image.open(self.chosen[index]).convert("RGB"))

    def extract(chosen: list[str]) -> np.ndarray:
        # "fork" is what a script gets on Linux; this process was spawned, and its children would be as well.
        loader = DataLoader(Files(chosen), batch_size=32, num_workers=2, multiprocessing_context="fork")
        with torch.no_grad():
            return torch.cat([model(batch) for batch in loader]).numpy()

    return extract


def ours(runtime: str) -> Any:
    """Make a function that extracts by this package, without a store."""
    from fewshot import load_backbone
    from fewshot.features import extract_views

    backbone = load_backbone(runtime=runtime)
    return lambda chosen: extract_views(backbone, chosen)[:, 0]


def contestant(kind: str, files: list[str], connection: Connection) -> None:
    """Extract whenever asked; answer with the seconds it took, and at the end with the features."""
    extract = plain() if kind == "plain" else ours(kind)
    extract(files[:32])
    connection.send("ready")
    features = {}
    while (position := connection.recv()) is not None:
        start = time.perf_counter()
        features[position] = extract(files[position : position + TURN])
        connection.send(time.perf_counter() - start)
    connection.send(np.concatenate([features[position] for position in sorted(features)]))


def compare(files: list[str], rounds: int) -> None:
    """Print images per second of every contestant."""
    context = multiprocessing.get_context("spawn")
    connections, seconds = {}, {name: [] for name in CONTESTANTS}
    for name, kind in CONTESTANTS.items():
        connections[name], theirs = context.Pipe()
        # Not a daemon: the plain script's loader has processes of its own.
        context.Process(target=contestant, args=(kind, files, theirs)).start()
        theirs.close()  # so that a contestant that fails ends the wait for it
        connections[name].recv()
    turns = [position for _ in range(rounds) for position in range(0, len(files), TURN)]
    for position in turns:
        for name, connection in connections.items():
            connection.send(position)
            seconds[name].append(connection.recv())
    features = {}
    for name, connection in connections.items():
        connection.send(None)
        features[name] = connection.recv()
    reference = features["plain script"]
    print(f"{len(files)} JPEG files, the first {Image.open(files[0]).size}; medians of {len(turns)} turns\n")
    print("| | images per second | times the plain script | smallest cosine |\n|---|---|---|---|")
    for name, found in features.items():
        ratio = statistics.median(p / s for p, s in zip(seconds["plain script"], seconds[name], strict=True))
        cosine = (found * reference).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(reference, axis=1)
        speed = statistics.median(
            len(files[position : position + TURN]) / s for position, s in zip(turns, seconds[name], strict=True)
        )
        print(f"| {name} | {speed:.1f} | {ratio:.2f} | {cosine.min():.6f} |", flush=True)


def write_variants(files: list[str], count: int, folder: Path) -> list[str]:
    """Save ``count`` images that all differ."""
    rng, written = np.random.default_rng(0), []
    for index in range(count):
        with Image.open(files[index % len(files)]) as photo:
            image = photo.convert("RGB")
        left, top = rng.integers(0, image.width - 8), rng.integers(0, image.height - 8)
        ImageDraw.Draw(image).rectangle((left, top, left + 8, top + 8), fill=tuple(rng.integers(0, 256, 3).tolist()))
        path = folder / f"{index}.jpg"
        image.save(path, quality=90)
        written.append(str(path))
    return written


def peak(files: list[str], runtime: str, store: Path, connection: Connection) -> None:
    """Extract with a store, and answer with seconds and the most memory this process ever held, in MB."""
    from fewshot import load_backbone
    from fewshot.features import extract_views
    from fewshot.store import FeatureStore

    backbone = load_backbone(runtime=runtime)
    start = time.perf_counter()
    extract_views(backbone, files, store=FeatureStore(store))
    seconds = time.perf_counter() - start
    connection.send((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def memory(files: list[str], counts: list[int], runtimes: list[str]) -> None:
    """Print the peak memory of extracting each number of images."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        variants = write_variants(files, max(counts), Path(folder))
        print("| runtime | images | peak memory, MB | images per second |\n|---|---|---|---|")
        for runtime in runtimes:
            for count in counts:
                ours, theirs = context.Pipe()
                store = Path(folder) / f"{runtime}-{count}.sqlite"
                context.Process(target=peak, args=(variants[:count], runtime, store, theirs)).start()
                theirs.close()
                seconds, megabytes = ours.recv()
                print(f"| {runtime} | {count:,} | {megabytes:.0f} | {count / seconds:.1f} |", flush=True)


def main() -> None:
    """Print one of the two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--images", type=int, default=384)
    parser.add_argument("--size", help="save the images at WIDTHxHEIGHT first")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=int, nargs="+", metavar="COUNT")
    parser.add_argument("--runtimes", nargs="+", default=["openvino", "pytorch"])
    arguments = parser.parse_args()
    sources = [str(source) for source in ImageDataset.from_folder(arguments.folder).sources]
    files = [source for source in sources if source.lower().endswith((".jpg", ".jpeg"))]
    if arguments.memory:
        memory(files, arguments.memory, arguments.runtimes)
        return
    # Spread over the classes, in a fixed order.
    files = [files[i] for i in np.random.default_rng(0).permutation(len(files))[: arguments.images]]
    with tempfile.TemporaryDirectory() as folder:
        if arguments.size:
            size = tuple(int(side) for side in arguments.size.split("x"))
            originals, files = files, []
            for index, path in enumerate(originals):
                files.append(f"{folder}/{index}.jpg")
                Image.open(path).convert("RGB").resize(size, Image.Resampling.BICUBIC).save(files[-1], quality=90)
        compare(files, arguments.rounds)


if __name__ == "__main__":
    main()
