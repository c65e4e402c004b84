"""What a view costs: milliseconds per augmented view of each policy, beside decoding and the network.

python benchmarks/views.py
"""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from fewshot import list_augmentations, load_backbone, read_image
from fewshot.augment import load_policy
from fewshot.images.fruits import load_fruits
from fewshot.threads import single_thread

ROUNDS, VIEWS = 7, 60


def milliseconds(work: Callable[[int], object], count: int) -> float:
    """Time ``count`` calls; return milliseconds per call."""
    start = time.perf_counter()
    for index in range(count):
        work(index)
    return (time.perf_counter() - start) / count * 1e3


def main() -> None:
    """Measure everything in turn, several rounds, with one thread, and print medians."""
    photo = load_fruits()["train"].sources[0]
    image = read_image(photo)
    buffer = io.BytesIO()
    Image.fromarray(image).resize((4000, 3000)).save(buffer, "JPEG", quality=90)
    large = read_image(buffer.getvalue())
    network = load_backbone("efficientnet_lite0").networks[0]
    batch = np.stack([network.preprocess(image)] * network.batch_size)
    works: dict[str, tuple[Callable[[int], object], int]] = {
        "decode a 348 x 348 JPEG": (lambda _: read_image(photo), VIEWS),
        "efficientnet_lite0, per image": (lambda _: network.forward(batch), 8),
    }
    for name in list_augmentations():
        policy = load_policy(name)
        if policy.has_views:
            for size, pixels in (("348 x 348", image), ("4000 x 3000", large)):
                works[f"policy `{name}`, view at 224 px of {size}"] = (
                    lambda i, p=policy, x=pixels: p.view(x, index=i, seed=0, size=224),
                    VIEWS,
                )
    times: dict[str, list[float]] = {name: [] for name in works}
    with single_thread():
        for _ in range(ROUNDS):
            for name, (work, count) in works.items():
                times[name].append(milliseconds(work, count))
    print("| what | median ms |\n|---|---|")
    for name, values in times.items():
        per = network.batch_size if "per image" in name else 1
        print(f"| {name} | {statistics.median(values) / per:.2f} |")


if __name__ == "__main__":
    main()
