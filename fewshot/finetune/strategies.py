"""Fine-tuning: what is trained of a pretrained network, at which rate, and whether it is worth it at all.

Ananya Kumar et al., "Fine-Tuning can Distort Pretrained Features", 2022, arXiv:2202.10054 (solve the linear probe
first, start from it); Shell Xu Hu et al., "Pushing the Limits of Simple Pipelines for Few-Shot Learning", 2022,
arXiv:2204.07305 (few steps, the learning rate chosen on the support images, with 0 among the candidates).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fewshot.backbones.base import Backbone, compute_rows
from fewshot.errors import InvalidInputError
from fewshot.features import check_n_views, view_renders
from fewshot.finetune.base import HistoryRow, ImageHead, TrainingSetup
from fewshot.finetune.probe import linear_probe
from fewshot.finetune.split import SplitNetwork, Tail
from fewshot.finetune.trainer import balanced_batches, train
from fewshot.heads.base import check_positive, l2_normalise
from fewshot.images.reader import ImageLike, read_image, read_payload
from fewshot.threads import workers

# Stored maps stay below this; with many images each gets fewer views.
_MAPS_BYTES = 1 << 30


class TunedModel(nn.Module):
    """The tail of a network and a linear classifier on its L2-normalised features."""

    def __init__(self, tail: Tail, classifier: nn.Linear) -> None:
        super().__init__()
        self.tail = tail
        self.classifier = classifier

    def forward(self, maps: Tensor) -> Tensor:
        """Map the trunk's output (b, ...) to (b, n_classes) logits."""
        logits: Tensor = self.classifier(l2_normalise(self.tail(maps)))
        return logits


@dataclass(frozen=True)
class _Examples:
    """Stored maps (m, ...), class positions (m,) and the image each belongs to (m,)."""

    maps: Tensor
    codes: NDArray[np.int64]
    images: NDArray[np.int64]

    def pick(self, chosen: NDArray[np.bool_]) -> _Examples:
        return _Examples(self.maps[torch.from_numpy(chosen)], self.codes[chosen], self.images[chosen])


class FineTune(ImageHead):
    """Train the last stage from the linear probe, at a learning rate that the training images choose.

    The frozen part runs once per view and its maps are kept. Every rate of ``learning_rates`` and the un-tuned model
    (rate 0) are tried on three quarters of the evidence and compared on the rest by log-loss, each at its best
    temperature: held-out images where every class has two, held-out views of the one image otherwise. A rate replaces
    the un-tuned model only if it is better by more than one standard error; it is then trained on everything.

    Args:
        learning_rates: Adam's, the candidates besides 0.
        steps: optimiser steps.
        batch_size: views per step.
        C: inverse penalty of the linear probe it starts from.

    Attributes:
        learning_rate_: the rate that won; 0.0 where the un-tuned model did.
        validation_: log-loss of each candidate on the held-out evidence.
        n_views_: augmented views per image that were used.
        note_: in one sentence, which rate won.
    """

    needs_backbone: ClassVar[bool] = True
    kept: ClassVar[Mapping[str, type]] = {"learning_rate_": float, "validation_": dict, "n_views_": int, "note_": str}

    def __init__(
        self,
        *,
        learning_rates: Sequence[float] = (1e-4, 3e-4),
        steps: int = 50,
        batch_size: int = 16,
        C: float = 1.0,
    ) -> None:
        self.learning_rates = learning_rates
        self.steps = steps
        self.batch_size = batch_size
        self.C = C

    def check_backbone(self, backbone: Backbone) -> None:
        """Refuse joined backbones, and networks whose last stage is not known."""
        self._bind(backbone)

    def _train(self, images: Sequence[ImageLike], codes: NDArray[np.int64], setup: TrainingSetup) -> None:
        for rate in self.learning_rates:
            check_positive("learning_rates", rate)
        self._bind(setup.backbone)
        examples = self._run_trunk(images, codes, setup)
        held_out = _held_out(examples, np.random.default_rng([setup.seed, 1]))
        rates = [0.0, *(float(rate) for rate in self.learning_rates)]
        outcomes: list[tuple[NDArray[np.float64], list[HistoryRow]]] = []
        self.learning_rate_, self.validation_ = 0.0, {}
        # Candidates run side by side.
        with workers(2) as pool:
            if held_out.any():
                part, rest = examples.pick(~held_out), examples.pick(held_out)
                outcomes = list(pool.map(lambda rate: self._candidate(part, rest, rate, setup), rates))
                self.learning_rate_ = _choose(rates, [losses for losses, _ in outcomes])
                means = [float(losses.mean()) for losses, _ in outcomes]
                self.validation_ = dict(zip(rates, means, strict=True))
            self.model_, curve = pool.submit(self._tune, examples, self.learning_rate_, setup, "final").result()
        evidence = "images" if np.bincount(codes).min() >= 2 else "views of the training images"
        if self.learning_rate_:
            self.note_ = (
                f"trained the last stage at learning rate {self.learning_rate_:g}, which held-out {evidence} prefer"
            )
        elif outcomes:
            self.note_ = (
                f"kept the linear probe it starts from: on held-out {evidence} no learning rate is clearly better"
            )
        else:
            self.note_ = "kept the linear probe it starts from: one image of a class without views leaves no evidence"
        for row in [row for _, rows in outcomes for row in rows] + curve:
            self._record(row, setup)

    def _bind(self, backbone: Backbone | None) -> None:
        if backbone is None or len(backbone.networks) != 1:
            raise InvalidInputError(
                f"fine-tune trains one network; backbone {backbone.spec if backbone else None!r} is not one. "
                "Use 'linear-probe' with joined backbones."
            )
        self._split = SplitNetwork(backbone.networks[0])
        self._device = self._split.network.device

    def _run_trunk(self, images: Sequence[ImageLike], codes: NDArray[np.int64], setup: TrainingSetup) -> _Examples:
        network = self._split.network
        blank = np.zeros((1, network.image_size, network.image_size, 3), dtype=np.uint8)
        affordable = _MAPS_BYTES // (self._split.trunk(blank).nbytes * len(images)) - 1
        self.n_views_ = min(check_n_views(setup.n_views), max(1, affordable)) if setup.policy.has_views else 0
        renders = [
            render
            for image in images
            for render in view_renders(network, read_payload(image), setup.policy, self.n_views_, setup.seed)
        ]
        maps = compute_rows(network, renders, self._split.trunk, np.empty(0, dtype=np.float32))
        per_image = 1 + self.n_views_
        return _Examples(
            torch.from_numpy(maps), np.repeat(codes, per_image), np.repeat(np.arange(len(images)), per_image)
        )

    def _candidate(
        self, part: _Examples, rest: _Examples, rate: float, setup: TrainingSetup
    ) -> tuple[NDArray[np.float64], list[HistoryRow]]:
        """Train on one part of the evidence; return the log-loss of each held-out image on the other."""
        model, curve = self._tune(part, rate, setup, f"rate {rate:g}")
        with torch.inference_mode():
            logits = torch.cat([model(chunk.to(self._device)).cpu() for chunk in torch.split(rest.maps, 32)]).double()
        losses = _losses_at_best_temperature(logits, torch.from_numpy(rest.codes)).numpy()
        per_image = np.bincount(rest.images, losses) / np.maximum(np.bincount(rest.images), 1)
        losses = per_image[np.unique(rest.images)]
        curve.append({"phase": f"rate {rate:g}", "step": len(curve), "validation_loss": float(losses.mean())})
        return losses, curve

    def _tune(
        self, examples: _Examples, rate: float, setup: TrainingSetup, phase: str
    ) -> tuple[TunedModel, list[HistoryRow]]:
        """Solve the linear probe, then train tail and classifier together at ``rate``."""
        tail = self._split.new_tail()
        with torch.inference_mode():
            features = torch.cat([tail(chunk.to(self._device)).cpu() for chunk in torch.split(examples.maps, 32)])
        model = TunedModel(tail, linear_probe(features, examples.codes, self.C)).to(self._device)
        curve: list[HistoryRow] = []
        if rate > 0:
            order = balanced_batches(
                examples.codes,
                batch_size=self.batch_size,
                steps=self.steps,
                rng=np.random.default_rng([setup.seed, 0]),
            )
            optimizer = torch.optim.Adam(model.parameters(), lr=rate)
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.steps)
            train(
                model,
                (
                    (examples.maps[chosen].to(self._device), torch.from_numpy(examples.codes[chosen]).to(self._device))
                    for chosen in order
                ),
                optimizer,
                scheduler=scheduler,
                on_step=lambda step, loss: curve.append({"phase": phase, "step": step, "loss": loss}),
            )
        return model.requires_grad_(False), curve

    def predict_proba_images(self, images: Sequence[ImageLike]) -> NDArray[np.float64]:
        """Estimate (n, n_classes) class probabilities of the central view of each image."""
        network = self._split.network

        def compute(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
            with torch.inference_mode():
                maps = torch.from_numpy(self._split.trunk(pixels)).to(self._device)
                return torch.softmax(self.model_(maps).cpu().double(), dim=-1).numpy()

        renders = [lambda s=image: network.preprocess(read_image(s)) for image in images]
        return compute_rows(network, renders, compute, np.empty((0, len(self.classes_))))

    def tensors(self) -> dict[str, Tensor]:
        """Give the weights of the tail and of the classifier."""
        return {name: tensor.cpu().contiguous() for name, tensor in self.model_.state_dict().items()}

    def blank_tensors(self, n_classes: int, backbone: Backbone | None) -> dict[str, Tensor]:
        """Give the tail's own weights, and those of a classifier without memory for them."""
        self._bind(backbone)
        classifier = nn.Linear(self._split.network.n_features, n_classes, device="meta")
        return dict(TunedModel(self._split.new_tail(), classifier).state_dict())

    def restore(self, tensors: Mapping[str, Tensor], classes: NDArray[Any], backbone: Backbone | None) -> None:
        """Take back the weights of the tail and of the classifier."""
        self._bind(backbone)
        self.classes_ = classes
        self.history_ = []
        self.model_ = TunedModel(self._split.new_tail(), nn.Linear(self._split.network.n_features, len(classes)))
        self.model_.load_state_dict(dict(tensors))
        self.model_.to(self._device).requires_grad_(False)


def _held_out(examples: _Examples, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Choose a quarter of the evidence, class by class: of the images, or of the views where a class has one image.

    None is chosen where a class has one image and no views.
    """
    images_of = {code: np.unique(examples.images[examples.codes == code]) for code in np.unique(examples.codes)}
    by_image = all(len(images) >= 2 for images in images_of.values())
    units = examples.images if by_image else np.arange(len(examples.images))
    held_out = np.zeros(len(units), dtype=np.bool_)
    for code in images_of:
        members = np.unique(units[examples.codes == code])
        if len(members) < 2:
            return np.zeros(len(units), dtype=np.bool_)
        chosen = rng.permutation(members)[: max(1, len(members) // 4)]
        held_out |= np.isin(units, chosen)
    return held_out


def _losses_at_best_temperature(logits: Tensor, codes: Tensor) -> Tensor:
    """Log-loss (m,) of each example at the temperature that suits all best.

    Without this, training would win by making logits larger, which improves nobody's predictions.
    """
    scales = torch.logspace(-3, 4, 281, dtype=logits.dtype)
    losses = nn.functional.cross_entropy(
        (logits * scales[:, None, None]).flatten(0, 1), codes.repeat(len(scales)), reduction="none"
    ).view(len(scales), -1)
    best: Tensor = losses[losses.mean(dim=1).argmin()]
    return best


def _choose(rates: list[float], losses: list[NDArray[np.float64]]) -> float:
    """Pick the rate with the lowest loss, and keep 0 unless that beats it by more than one standard error."""
    best = int(np.argmin([loss.mean() for loss in losses]))
    gain = losses[0] - losses[best]
    error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else 0.0
    return rates[best] if gain.mean() > error else 0.0
