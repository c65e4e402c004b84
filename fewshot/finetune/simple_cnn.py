"""SimpleCNN trained from scratch: the baseline, as usually written and given a fair chance.

The network and the first recipe are what answers to "How can I train a PyTorch model with 2 images?" usually show.
The second keeps the network and changes what is around it, because a baseline that is not tuned is a straw man.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from fewshot.backbones.base import Backbone, compute_rows
from fewshot.finetune.base import ImageHead, TrainingSetup
from fewshot.finetune.trainer import Batch, balanced_batches, train, warm_up_and_decay
from fewshot.images.reader import ImageLike, read_image
from fewshot.threads import single_thread

IMAGE_SIZE = 256
"""Side of SimpleCNN's input in pixels."""

_VIEWS_BYTES = 1 << 30
"""Rendered views stay below this; with many images each gets fewer, but always one."""

_INITIALISING = threading.Lock()


class SimpleCNN(nn.Module):
    """Two 3x3 convolutions, each with 2x2 max-pooling and ReLU, and one linear layer on 32 x 64 x 64.

    Args:
        n_classes: width of the output.
        seed: of the initial weights, which are drawn as torch does by default.
    """

    def __init__(self, n_classes: int, seed: int) -> None:
        super().__init__()
        # A fork keeps the caller's random numbers as they were; the lock keeps other threads out of it.
        with _INITIALISING, torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
            self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
            self.pool = nn.MaxPool2d(2)
            self.fc = nn.Linear(32 * 64 * 64, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, 3, 256, 256) pixels to (b, n_classes) logits."""
        x = torch.relu(self.pool(self.conv1(x)))
        x = torch.relu(self.pool(self.conv2(x)))
        logits: Tensor = self.fc(x.flatten(1))
        return logits


@dataclass
class _Batches:
    """Images that are predicted together."""

    spec: str = "SimpleCNN"
    batch_size: int = 4

    def halve_batches(self) -> None:
        self.batch_size //= 2


class _SimpleCNNBase(ImageHead):
    """What both recipes share: the network, its input, prediction and saving."""

    needs_backbone: ClassVar[bool] = False
    model_: SimpleCNN

    def _new_model(self, setup: TrainingSetup) -> SimpleCNN:
        # Channels last changes nothing but the order in memory, and halves the time of a step.
        model = SimpleCNN(len(self.classes_), setup.seed)
        return model.to(memory_format=torch.channels_last)

    def _scale(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Turn (b, 256, 256, 3) uint8 into the network's input (b, 3, 256, 256)."""
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255

    def predict_proba_images(self, images: Sequence[ImageLike]) -> NDArray[np.float64]:
        """Estimate (n, n_classes) class probabilities."""
        model = self.model_.eval()

        def compute(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
            with torch.inference_mode():
                return torch.softmax(model(self._scale(pixels)).double(), dim=-1).numpy()

        renders = [lambda s=source: squash(read_image(s)) for source in images]
        return compute_rows(_Batches(), renders, compute, np.empty((0, len(self.classes_))))

    def tensors(self) -> dict[str, Tensor]:
        """Give the network's weights."""
        return dict(self.model_.state_dict())

    def blank_tensors(self, n_classes: int, backbone: Backbone | None) -> dict[str, Tensor]:
        """Give the network's weights without memory for them."""
        with torch.device("meta"):
            return dict(SimpleCNN(n_classes, seed=0).state_dict())

    def restore(self, tensors: Mapping[str, Tensor], classes: NDArray[Any], backbone: Backbone | None) -> None:
        """Take back the network's weights."""
        self.classes_ = classes
        self.history_ = []
        self.model_ = SimpleCNN(len(classes), seed=0)
        self.model_.load_state_dict(dict(tensors))


class SimpleCNNHead(_SimpleCNNBase):
    """The baseline exactly as usually written.

    Images squashed to 256 x 256 and scaled to 0..1, Adam at 1e-3, cross-entropy, batches of two, shuffled, five
    epochs, no augmentation (whatever the setup says).

    Args:
        epochs: passes over the images.
        batch_size: images per step.
        learning_rate: Adam's.
    """

    def __init__(self, *, epochs: int = 5, batch_size: int = 2, learning_rate: float = 1e-3) -> None:
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate

    def _train(self, images: Sequence[ImageLike], codes: NDArray[np.int64], setup: TrainingSetup) -> None:
        pixels = np.stack([squash(read_image(image)) for image in images])
        labels = torch.from_numpy(codes)
        self.model_ = self._new_model(setup).train()
        optimizer = torch.optim.Adam(self.model_.parameters(), lr=self.learning_rate)
        rng = np.random.default_rng([setup.seed, 0])
        with single_thread():
            for epoch in range(1, self.epochs + 1):
                losses: list[float] = []
                train(
                    self.model_,
                    self._epoch(pixels, labels, rng),
                    optimizer,
                    on_step=lambda _, loss, kept=losses: kept.append(loss),  # type: ignore[misc]
                )
                self._record({"phase": "train", "epoch": epoch, "loss": float(np.mean(losses))}, setup)

    def _epoch(self, pixels: NDArray[np.uint8], labels: Tensor, rng: np.random.Generator) -> Iterator[Batch]:
        order = rng.permutation(len(pixels))
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            yield self._scale(pixels[chosen]), labels[chosen]


class TunedSimpleCNNHead(_SimpleCNNBase):
    """The same network given a fair chance: augmented views, enough steps, a schedule, weight decay.

    AdamW with a warm-up and cosine decay, batches balanced over classes, inputs centred, a little label smoothing.
    Each pass sees another view of an image as far as memory allows, and at least as many as the setup says: beside a
    training step a view costs little.
    The values were chosen on training images of two data sets (``benchmarks/README.md``).

    Args:
        passes: times that each image is seen, in one view or another.
        min_steps: optimiser steps at least, however few images there are.
        batch_size: views per step.
        learning_rate: AdamW's, at its highest.
        weight_decay: AdamW's.
        label_smoothing: share of the target spread over all classes.

    Attributes:
        note_: in words, how many views of each image it saw.
    """

    chooses_views: ClassVar[bool] = True
    kept: ClassVar[Mapping[str, type]] = {"note_": str}

    def __init__(
        self,
        *,
        passes: int = 40,
        min_steps: int = 100,
        batch_size: int = 4,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.5,
        label_smoothing: float = 0.1,
    ) -> None:
        self.passes = passes
        self.min_steps = min_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.label_smoothing = label_smoothing

    def _scale(self, pixels: NDArray[np.uint8]) -> Tensor:
        return super()._scale(pixels) * 2 - 1

    def _train(self, images: Sequence[ImageLike], codes: NDArray[np.int64], setup: TrainingSetup) -> None:
        pixels, labels = self._views(images, codes, setup)
        steps = max(self.min_steps, self.passes * len(images) // self.batch_size)
        self.model_ = self._new_model(setup).train()
        optimizer = torch.optim.AdamW(self.model_.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
        scheduler = warm_up_and_decay(optimizer, steps)
        order = balanced_batches(
            labels, batch_size=self.batch_size, steps=steps, rng=np.random.default_rng([setup.seed, 0])
        )
        with single_thread():
            train(
                self.model_,
                ((self._scale(pixels[chosen]), torch.from_numpy(labels[chosen])) for chosen in order),
                optimizer,
                scheduler=scheduler,
                label_smoothing=self.label_smoothing,
                on_step=lambda step, loss: self._record({"phase": "train", "step": step, "loss": loss}, setup),
            )

    def _views(
        self, images: Sequence[ImageLike], codes: NDArray[np.int64], setup: TrainingSetup
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Render every image and its views once: (m, 256, 256, 3) pixels and (m,) class positions."""
        affordable = _VIEWS_BYTES // (3 * IMAGE_SIZE**2 * len(images)) - 1
        views = max(1, min(max(setup.n_views, self.passes), affordable)) if setup.policy.has_views else 0
        self.note_ = f"saw {views} augmented views of each image"
        pixels = np.empty((len(images), 1 + views, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
        for rows, image in zip(pixels, images, strict=True):
            picture = read_image(image)
            rows[0] = squash(picture)
            for index in range(1, views + 1):
                rows[index] = setup.policy.view(picture, index=index, seed=setup.seed, size=IMAGE_SIZE)
        return pixels.reshape(-1, *pixels.shape[2:]), np.repeat(codes, 1 + views)


def squash(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Resize (H, W, 3) to (256, 256, 3) without keeping the aspect ratio."""
    return np.asarray(Image.fromarray(image).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR))
