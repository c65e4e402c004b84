"""Tuning within a whole network: what norm-tuning, LoRA and full fine-tuning share.

Ananya Kumar et al., "Fine-Tuning can Distort Pretrained Features", 2022, arXiv:2202.10054 (solve the linear probe
first, start from it); Shell Xu Hu et al., "Pushing the Limits of Simple Pipelines for Few-Shot Learning", 2022,
arXiv:2204.07305 (few steps, the learning rate chosen on the support images, with 0 among the candidates).

Each rate, and 0, is tried on half of the images and asked about the other half, and the other way round. A rate that
is clearly better than 0 is then trained on everything; where none is, the answers are those of the linear probe. So
they are where that last training fails, which its loss shows: on images it was trained on, it must be at most what that
of the halves was on images they were not.
"""

from __future__ import annotations

import copy
import functools
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fewshot.backbones.base import Backbone, compute_rows
from fewshot.backbones.runtime import prepare
from fewshot.backbones.timm import TimmNetwork
from fewshot.errors import InvalidInputError
from fewshot.finetune.base import HistoryRow, ImageHead, TrainingSetup
from fewshot.finetune.probe import linear_probe
from fewshot.finetune.rendered import Examples, affordable_views, render_examples
from fewshot.finetune.selection import N_FOLDS, Folds, HeldOut, Verdict, compare, make_folds, spread
from fewshot.finetune.trainer import balanced_batches, train, warm_up_and_decay
from fewshot.heads.base import check_count, check_positive, l2_normalise
from fewshot.images.reader import ImageLike, read_image
from fewshot.threads import workers

Trained: TypeAlias = "list[tuple[list[nn.Parameter], float]]"
"""Groups of parameters that are trained, and the share of the learning rate that each gets."""


class TunedNetwork(nn.Module):
    """A whole network and a linear classifier on its L2-normalised features."""

    def __init__(self, network: nn.Module, classifier: nn.Linear) -> None:
        super().__init__()
        self.network = network
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        """Map the network's input (b, 3, S, S) to (b, n_classes) logits."""
        logits: Tensor = self.classifier(l2_normalise(self.network(x)))
        return logits


class NetworkTuning(ImageHead):
    """Train parts of a whole network from the linear probe, if the training images show that it helps.

    A subclass has the parameters below, and says what is trained: :meth:`_begin`, :meth:`_changed`, and
    :meth:`_finish` where what was trained has to be put into the network's own weights.

    Attributes:
        learning_rates: Adam's at its highest, the candidates besides 0.
        steps: optimiser steps.
        batch_size: views per step.
        C: inverse penalty of the linear probe it starts from.
        learning_rate_: the rate that won; 0.0 where the linear probe did.
        validation_: log-loss of each candidate on images, or views, that it was not trained on.
        scale_: what logits are multiplied by before they become probabilities.
        n_views_: augmented views per image that were used.
        note_: in one sentence, which rate won.
    """

    needs_backbone: ClassVar[bool] = True
    kept: ClassVar[Mapping[str, type]] = {
        "learning_rate_": float,
        "validation_": dict,
        "scale_": float,
        "n_views_": int,
        "note_": str,
    }
    title: ClassVar[str]
    part: ClassVar[str]
    learning_rates: Sequence[float]
    steps: int
    batch_size: int
    C: float

    @abstractmethod
    def _begin(self, network: nn.Module, seed: int) -> Trained:
        """Prepare a copy of the network for training, in place.

        Args:
            network: in eval mode, all of it frozen.
            seed: of what is drawn at random.

        Returns:
            What is to be trained.
        """

    def _finish(self, trained: nn.Module) -> nn.Module:
        """Turn what was trained into a network of the original form."""
        return trained

    @abstractmethod
    def _changed(self, network: nn.Module) -> list[str]:
        """List the parameters of the original network that training may change.

        Raises:
            InvalidInputError: there are none.
        """

    def _check_parameters(self) -> None:
        """Raise InvalidInputError where a constructor argument is out of range."""
        for rate in self.learning_rates:
            check_positive("learning_rates", rate)
        check_count("steps", self.steps)
        check_count("batch_size", self.batch_size)
        check_positive("C", self.C)

    def check_backbone(self, backbone: Backbone) -> None:
        """Refuse joined backbones, and networks without the layers that are trained."""
        self._bind(backbone)

    def _bind(self, backbone: Backbone | None) -> TimmNetwork:
        network = backbone.networks[0] if backbone is not None and len(backbone.networks) == 1 else None
        if not isinstance(network, TimmNetwork):
            raise InvalidInputError(
                f"{self.title} trains one timm network; backbone {backbone.spec if backbone else None!r} is not one. "
                "Use 'linear-probe' with it, or a single backbone."
            )
        self._names, self._network = self._changed(network.model), network
        return network

    def _train(self, images: Sequence[ImageLike], codes: NDArray[np.int64], setup: TrainingSetup) -> None:
        self._check_parameters()
        network = self._bind(setup.backbone)
        self.n_views_ = affordable_views(network, len(images), setup)
        examples = render_examples(network, images, codes, self.n_views_, setup)
        folds = make_folds(examples.codes, examples.images, np.random.default_rng([setup.seed, 1]))
        # Candidates run side by side.
        with workers(2) as pool:
            held_out, curves = self._try_rates(examples, folds, setup, pool.map)
            verdict = compare(held_out, by_image=folds is not None and folds.by_image)
            model, logits, curve = pool.submit(self._final, examples, verdict, setup).result()
        self.validation_ = verdict.losses
        self.scale_ = verdict.scales[self.learning_rate_] / spread(logits)
        self.note_ = self._note(folds, verdict)
        self._keep(model)
        for row in [*curves, *curve]:
            self._record(row, setup)

    def _final(
        self, examples: Examples, verdict: Verdict, setup: TrainingSetup
    ) -> tuple[TunedNetwork, Tensor, list[HistoryRow]]:
        """Train on everything; where that fails, take the linear probe instead.

        Returns:
            The model, the logits (n_images, n_classes) of the images themselves, and the training curve.
        """
        images = examples.pick(examples.central)
        self.learning_rate_ = verdict.rate
        model, curve = self._tune(examples, verdict.rate, setup, "final")
        logits = self._logits(model, images, verdict.rate)
        # Written so that NaN fails.
        if (
            verdict.rate
            and not _log_loss(logits, images.codes, verdict.scales[verdict.rate]) <= (verdict.losses[verdict.rate])
        ):
            self.learning_rate_ = 0.0
            model, _ = self._tune(examples, 0.0, setup, "final")
            logits = self._logits(model, images, 0.0)
        return model, logits, curve

    def _try_rates(
        self, examples: Examples, folds: Folds | None, setup: TrainingSetup, run: Any
    ) -> tuple[dict[float, HeldOut], list[HistoryRow]]:
        """Hold every fold out once with every rate; nothing where there are no folds."""
        if folds is None:
            return {}, []
        rates = [0.0, *(float(rate) for rate in self.learning_rates)]
        # An image is judged as it will be asked about; where only views are held out, all of them are.
        judged = examples.central | (not folds.by_image)
        jobs = [
            (rate, folds.of == fold, f"rate {rate:g}, fold {fold + 1}") for rate in rates for fold in range(N_FOLDS)
        ]
        trial = functools.partial(self._trial, examples, judged, setup)
        outcomes = list(run(lambda job: trial(*job), jobs))
        by_rate = [[part for part, _ in outcomes[i : i + N_FOLDS]] for i in range(0, len(jobs), N_FOLDS)]
        held_out = {rate: HeldOut.join(parts) for rate, parts in zip(rates, by_rate, strict=True)}
        return held_out, [row for _, curve in outcomes for row in curve]

    def _trial(
        self,
        examples: Examples,
        judged: NDArray[np.bool_],
        setup: TrainingSetup,
        rate: float,
        away: NDArray[np.bool_],
        phase: str,
    ) -> tuple[HeldOut, list[HistoryRow]]:
        """Train without the examples that are ``away`` (m,), and ask about them."""
        model, curve = self._tune(examples.pick(~away), rate, setup, phase)
        asked = examples.pick(away & judged)
        usual = spread(self._logits(model, examples.pick(~away & judged), rate))
        return HeldOut(self._logits(model, asked, rate) / usual, asked.codes, asked.images), curve

    def _tune(
        self, examples: Examples, rate: float, setup: TrainingSetup, phase: str
    ) -> tuple[TunedNetwork, list[HistoryRow]]:
        """Solve the linear probe, then train it together with the network at ``rate``."""
        network = copy.deepcopy(self._network.model).to(memory_format=torch.channels_last)
        model = TunedNetwork(network, linear_probe(examples.features, examples.codes, self.C)).to(self._network.device)
        curve: list[HistoryRow] = []
        if rate > 0:
            groups = [([*model.classifier.parameters()], 1.0), *self._begin(model.network, setup.seed)]
            for parameters, _ in groups:
                for parameter in parameters:
                    parameter.requires_grad_(True)
            optimizer = torch.optim.Adam([{"params": p, "lr": rate * share} for p, share in groups])
            order = balanced_batches(
                examples.codes,
                batch_size=self.batch_size,
                steps=self.steps,
                rng=np.random.default_rng([setup.seed, 0]),
            )
            codes = torch.from_numpy(examples.codes).to(self._network.device)
            train(
                model,
                ((self._network.normalise(examples.pixels[chosen]), codes[chosen]) for chosen in order),
                optimizer,
                scheduler=warm_up_and_decay(optimizer, self.steps),
                on_step=lambda step, loss: curve.append({"phase": phase, "step": step, "loss": loss}),
            )
            model.network = self._finish(model.network)
        return model.requires_grad_(False), curve

    def _logits(self, model: TunedNetwork, examples: Examples, rate: float) -> Tensor:
        """Score examples: (m, n_classes) float64. What is not trained needs no network."""
        with torch.inference_mode():
            if rate == 0:
                device = self._network.device
                logits: Tensor = model.classifier(l2_normalise(examples.features.to(device)))
                return logits.double().cpu()
            step = self._network.batch_size
            parts = [examples.pixels[start : start + step] for start in range(0, len(examples.pixels), step)]
            return torch.cat([model(self._network.normalise(part)).double().cpu() for part in parts])

    def _note(self, folds: Folds | None, verdict: Verdict) -> str:
        if folds is None:
            return "kept the linear probe it starts from: one image of a class without views leaves no evidence"
        evidence = "images" if folds.by_image else "views of the training images"
        if self.learning_rate_:
            return f"trained {self.part} at learning rate {self.learning_rate_:g}, which held-out {evidence} prefer"
        if verdict.rate:
            return f"kept the linear probe it starts from: training on all images at {verdict.rate:g} did not succeed"
        return f"kept the linear probe it starts from: on held-out {evidence} no learning rate is clearly better"

    def _keep(self, model: TunedNetwork) -> None:
        """Take a model as the answer; of its network a copy is made that is faster to run."""
        network = self._network
        example = torch.linspace(-1, 1, 3 * network.image_size**2, device=network.device)
        self.model_ = model
        self._runtime = prepare(model.network, example.view(1, 3, network.image_size, -1))

    def predict_proba_images(self, images: Sequence[ImageLike]) -> NDArray[np.float64]:
        """Estimate (n, n_classes) class probabilities of the central view of each image."""
        network, classifier = self._network, self.model_.classifier

        def compute(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
            with torch.inference_mode():
                if self.learning_rate_ == 0:
                    features = torch.from_numpy(network.forward(pixels)).to(network.device)
                else:
                    features = self._runtime(network.normalise(pixels))
                logits = classifier(l2_normalise(features)).double().cpu()
                return torch.softmax(logits * self.scale_, dim=-1).numpy()

        renders = [lambda s=image: network.preprocess(read_image(s)) for image in images]
        return compute_rows(network, renders, compute, np.empty((0, len(self.classes_))))

    def tensors(self) -> dict[str, Tensor]:
        """Give the network's parameters that training may change, and the classifier's."""
        parameters = dict(self.model_.named_parameters())
        names = [f"network.{name}" for name in self._names] + ["classifier.weight", "classifier.bias"]
        return {name: parameters[name].detach().cpu().contiguous() for name in names}

    def blank_tensors(self, n_classes: int, backbone: Backbone | None) -> dict[str, Tensor]:
        """Give the pretrained network's own parameters, and a classifier's without memory for them."""
        network = self._bind(backbone)
        classifier = nn.Linear(network.n_features, n_classes, device="meta")
        own = dict(network.model.named_parameters())
        blank: dict[str, Tensor] = {f"network.{name}": own[name] for name in self._names}
        return blank | {f"classifier.{name}": tensor for name, tensor in classifier.named_parameters()}

    def restore(self, tensors: Mapping[str, Tensor], classes: NDArray[Any], backbone: Backbone | None) -> None:
        """Take back the parameters that training may have changed, and the classifier's."""
        network = self._bind(backbone)
        self.classes_, self.history_ = classes, []
        own = copy.deepcopy(network.model).to(memory_format=torch.channels_last)
        classifier = nn.Linear(network.n_features, len(classes), device="meta").to_empty(device=network.device)
        model = TunedNetwork(own, classifier)
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name in (*(f"network.{name}" for name in self._names), "classifier.weight", "classifier.bias"):
                parameters[name].copy_(tensors[name])
        self._keep(model.requires_grad_(False))


def _log_loss(logits: Tensor, codes: NDArray[np.int64], scale: float) -> float:
    """Mean log-loss of (n, n_classes) logits at a scale, once divided by their spread."""
    loss = nn.functional.cross_entropy(logits * (scale / spread(logits)), torch.from_numpy(codes))
    return float(loss)
