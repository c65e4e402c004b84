"""What keeping the frozen part's maps saves: a training step of the last stages, on stored maps and on pictures.

python benchmarks/stored_maps.py
"""

from __future__ import annotations

import copy
import functools
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from fewshot import load_backbone
from fewshot.backbones.timm import TimmNetwork
from fewshot.finetune.split import SplitNetwork
from fewshot.threads import single_thread

ROUNDS, BATCH, N_CLASSES = 5, 16, 5


def make_step(modules: list[nn.Module], features: Callable[[], Tensor]) -> Callable[[], None]:
    """Make a training step: features, cross-entropy, gradients of ``modules``, Adam."""
    optimizer = torch.optim.Adam([p for module in modules for p in module.parameters()], lr=1e-4)
    labels = torch.arange(BATCH) % N_CLASSES

    def step() -> None:
        loss = nn.functional.cross_entropy(modules[-1](features()), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def main() -> None:
    """Time one step of each kind in turn, with one thread, and print medians and ratios."""
    network = load_backbone("efficientnet_lite0").networks[0]
    assert isinstance(network, TimmNetwork)
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (BATCH, network.image_size, network.image_size, 3), dtype=np.uint8)
    whole = copy.deepcopy(network.model).requires_grad_(True).to(memory_format=torch.channels_last)
    classifier = nn.Linear(network.n_features, N_CLASSES)
    steps = {}
    for n_stages, name in ((1, "last stage"), (2, "last two stages")):
        split = SplitNetwork(network, n_stages)
        tail, stored = split.new_tail(), torch.from_numpy(split.trunk(pictures))
        steps[f"{name}, on stored maps"] = make_step([tail, classifier], functools.partial(tail, stored))
        steps[f"{name}, the frozen part run again"] = make_step(
            [tail, classifier], lambda tail=tail, split=split: tail(torch.from_numpy(split.trunk(pictures)))
        )
    steps |= {
        "the whole network, channels last": make_step(
            [whole, classifier],
            lambda: whole(network.normalise(pictures).contiguous(memory_format=torch.channels_last)),
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    with single_thread():
        for _ in range(ROUNDS):
            for name, step in steps.items():
                start = time.perf_counter()
                step()
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    reference = next(iter(medians.values()))
    print("| step of 16 pictures, one thread | ms | ratio |\n|---|---|---|")
    for name, median in medians.items():
        print(f"| {name} | {median * 1e3:.0f} | {median / reference:.1f} |")


if __name__ == "__main__":
    main()
