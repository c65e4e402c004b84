"""Tuning a network, or the last stages of one, from a linear probe: what all such heads share.

Ananya Kumar et al., "Fine-Tuning can Distort Pretrained Features", 2022, arXiv:2202.10054 (solve the linear probe
first, start from it); Shell Xu Hu et al., "Pushing the Limits of Simple Pipelines for Few-Shot Learning", 2022,
arXiv:2204.07305 (few steps, the learning rate chosen on the support images, with 0 among the candidates).

Each rate, and 0, is tried on half of the images and asked about the other half, and the other way round. A rate that
is clearly better than 0 is then trained on everything; where none is, the answers are those of the linear probe. So
they are where that last training fails, which its loss shows: on images it was trained on, it must be at most what that
of the halves was on images they were not.
"""

from __future__ import annotations

import functools
import threading
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fewshot.backbones.base import Backbone, Progress
from fewshot.backbones.timm import TimmNetwork
from fewshot.errors import InvalidInputError
from fewshot.finetune.base import HistoryRow, ImageHead, TrainingSetup
from fewshot.finetune.examples import Examples
from fewshot.finetune.probe import linear_probe
from fewshot.finetune.selection import N_FOLDS, HeldOut, Verdict, compare, make_folds, spread
from fewshot.finetune.trainer import balanced_batches, train, warm_up_and_decay
from fewshot.heads.base import check_count, check_positive, l2_normalise
from fewshot.images.reader import ImageLike
from fewshot.threads import workers

Trained: TypeAlias = "list[tuple[list[nn.Parameter], float]]"
"""Groups of parameters that are trained, and the share of the learning rate that each gets."""


class Steps:
    """Counts the optimiser steps of trainings that run side by side.

    Args:
        progress: called with (steps done, steps in all) after each, from the thread that made it; one call at a time.
        total: steps in all, if there is a last training on everything.
    """

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0
        self._lock = threading.Lock()

    def count(self) -> None:
        """Count one."""
        if self._progress is not None:
            with self._lock:
                self._done += 1
                self._progress(self._done, self._total)

    def end(self) -> None:
        """Tell that no more will come, where there is no last training."""
        if self._progress is not None and 0 < self._done < self._total:
            self._progress(self._total, self._total)


class TunedModel(nn.Module):
    """A network, or its last stages, and a linear classifier on its L2-normalised features."""

    def __init__(self, body: nn.Module, classifier: nn.Linear) -> None:
        super().__init__()
        self.body = body
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        """Map what the body takes, (b, ...), to (b, n_classes) logits."""
        logits: Tensor = self.classifier(l2_normalise(self.body(x)))
        return logits


class Tuning(ImageHead):
    """Train parts of a network from the linear probe, if the training images show that it helps.

    A subclass has the parameters below, and says what is trained on what: :meth:`_connect`, :meth:`_gather`,
    :meth:`_new_body`, :meth:`_tensor` and :meth:`_begin`, and :meth:`_finish` where what was trained has to be put into
    the network's own weights.

    Attributes:
        learning_rates: Adam's at its highest, the candidates besides 0.
        steps: optimiser steps.
        batch_size: views per step.
        C: inverse penalty of the linear probe it starts from.
        learning_rate_: the rate that won; 0.0 where the linear probe did.
        validation_: log-loss of each candidate on images that it was not trained on; empty where a class has one.
        scale_: what logits are multiplied by before they become probabilities.
        n_views_: augmented views per image that were used.
        note_: in one sentence, which rate won.
    """

    needs_backbone: ClassVar[bool] = True
    usual_policy: ClassVar[str] = "heavy"
    kept: ClassVar[Mapping[str, type]] = {
        "learning_rate_": float,
        "validation_": dict,
        "scale_": float,
        "n_views_": int,
        "note_": str,
    }
    title: ClassVar[str]
    part: ClassVar[str]
    start: ClassVar[str] = "the linear probe it starts from"
    instead: ClassVar[str] = "linear-probe"
    learning_rates: Sequence[float]
    steps: int
    batch_size: int
    C: float

    @abstractmethod
    def _connect(self, network: TimmNetwork) -> None:
        """Take a network as the one that is tuned.

        Raises:
            InvalidInputError: it has nothing that could be trained.
        """

    @abstractmethod
    def _gather(self, images: Sequence[ImageLike], codes: NDArray[np.int64], setup: TrainingSetup) -> Examples:
        """Store views of images with (n,) class positions, and enter their number as ``n_views_``."""

    @abstractmethod
    def _new_body(self) -> nn.Module:
        """Copy what features come from, in eval mode: statistics of a handful of images are noise."""

    @abstractmethod
    def _tensor(self, inputs: NDArray[Any]) -> Tensor:
        """Turn stored inputs into what the body takes, on its device."""

    @abstractmethod
    def _begin(self, body: nn.Module, seed: int) -> Trained:
        """Prepare a copy of the body for training, in place.

        Args:
            body: in eval mode.
            seed: of what is drawn at random.

        Returns:
            What is to be trained.
        """

    def _finish(self, trained: nn.Module) -> nn.Module:
        """Turn what was trained into a body of the original form."""
        return trained

    def _keep(self, model: TunedModel) -> None:
        """Take a model as the answer."""
        self.model_ = model

    def _check_parameters(self) -> None:
        """Raise InvalidInputError where a constructor argument is out of range."""
        for rate in self.learning_rates:
            check_positive("learning_rates", rate)
        check_count("steps", self.steps)
        check_count("batch_size", self.batch_size)
        check_positive("C", self.C)

    def check_backbone(self, backbone: Backbone) -> None:
        """Refuse joined backbones, and networks without what is trained."""
        self._bind(backbone)

    def _bind(self, backbone: Backbone | None) -> TimmNetwork:
        network = backbone.networks[0] if backbone is not None and len(backbone.networks) == 1 else None
        if not isinstance(network, TimmNetwork):
            raise InvalidInputError(
                f"{self.title} trains one timm network; backbone {backbone.spec if backbone else None!r} is not one. "
                f"Use {self.instead!r} with it, or a single backbone."
            )
        self._network = network
        self._connect(network)
        return network

    def _train(self, images: Sequence[ImageLike], codes: NDArray[np.int64], setup: TrainingSetup) -> None:
        self._check_parameters()
        self._bind(setup.backbone)
        examples = self._gather(images, codes, setup)
        folds = make_folds(examples.codes, examples.images, np.random.default_rng([setup.seed, 1]))
        steps = self._new_steps(setup)
        # Candidates run side by side.
        with workers(2) as pool:
            rates = [0.0, *(float(rate) for rate in self.learning_rates)] if folds is not None else []
            held_out, curves = self._try_rates(rates, examples, folds, setup, steps, pool.map)
            verdict = compare(held_out)
            model, logits, curve = pool.submit(self._final, examples, verdict, setup, steps).result()
        steps.end()
        self.validation_ = verdict.losses
        self.scale_ = verdict.scales[self.learning_rate_] / spread(logits)
        self.note_ = self._note(folds, verdict)
        self._keep(model)
        for row in [*curves, *held_out_rows(verdict.losses, self.steps), *curve]:
            self._record(row, setup)

    def _new_steps(self, setup: TrainingSetup) -> Steps:
        return Steps(setup.progress, self.steps * (N_FOLDS * len(self.learning_rates) + 1))

    def _final(
        self, examples: Examples, verdict: Verdict, setup: TrainingSetup, steps: Steps
    ) -> tuple[TunedModel, Tensor, list[HistoryRow]]:
        """Train on everything; where that fails, take the linear probe instead.

        Returns:
            The model, the logits (n_images, n_classes) of the images themselves, and the training curve.
        """
        images = examples.pick(examples.central)
        self.learning_rate_ = verdict.rate
        model, curve = self._tune(examples, verdict.rate, setup, steps, "final")
        logits = self._logits(model, images, verdict.rate)
        # Written so that NaN fails.
        if (
            verdict.rate
            and not _log_loss(logits, images.codes, verdict.scales[verdict.rate]) <= (verdict.losses[verdict.rate])
        ):
            self.learning_rate_ = 0.0
            model, _ = self._tune(examples, 0.0, setup, steps, "final")
            logits = self._logits(model, images, 0.0)
        return model, logits, curve

    def _try_rates(
        self,
        rates: Sequence[float],
        examples: Examples,
        folds: NDArray[np.int64] | None,
        setup: TrainingSetup,
        steps: Steps,
        run: Any,
    ) -> tuple[dict[float, HeldOut], list[HistoryRow]]:
        """Hold every fold out once with every rate; nothing where there are none."""
        jobs = [(rate, folds == fold, f"{rate:g}, half {fold + 1}") for rate in rates for fold in range(N_FOLDS)]
        trial = functools.partial(self._trial, examples, setup, steps)
        outcomes = list(run(lambda job: trial(*job), jobs))
        by_rate = [[part for part, _ in outcomes[i : i + N_FOLDS]] for i in range(0, len(jobs), N_FOLDS)]
        held_out = {rate: HeldOut.join(parts) for rate, parts in zip(rates, by_rate, strict=True)}
        return held_out, [row for _, curve in outcomes for row in curve]

    def _trial(
        self,
        examples: Examples,
        setup: TrainingSetup,
        steps: Steps,
        rate: float,
        away: NDArray[np.bool_],
        phase: str,
    ) -> tuple[HeldOut, list[HistoryRow]]:
        """Train without the examples that are ``away`` (m,), and ask about the images among them as they are."""
        model, curve = self._tune(examples.pick(~away), rate, setup, steps, phase)
        asked = examples.pick(away & examples.central)
        usual = spread(self._logits(model, examples.pick(~away & examples.central), rate))
        return HeldOut(self._logits(model, asked, rate) / usual, asked.codes, asked.images), curve

    def _tune(
        self, examples: Examples, rate: float, setup: TrainingSetup, steps: Steps, phase: str
    ) -> tuple[TunedModel, list[HistoryRow]]:
        """Solve the linear probe, then train it together with the body at ``rate``."""
        probe = linear_probe(examples.features, examples.codes, self.C)
        model = TunedModel(self._new_body(), probe).to(self._network.device).requires_grad_(False)
        curve: list[HistoryRow] = []
        if rate > 0:
            groups = [([*model.classifier.parameters()], 1.0), *self._begin(model.body, setup.seed)]
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

            def on_step(step: int, loss: float) -> None:
                curve.append({"phase": phase, "step": step, "loss": loss})
                steps.count()

            train(
                model,
                ((self._tensor(examples.inputs[chosen]), codes[chosen]) for chosen in order),
                optimizer,
                scheduler=warm_up_and_decay(optimizer, self.steps),
                on_step=on_step,
            )
            model.body = self._finish(model.body)
        return model.requires_grad_(False), curve

    def _logits(self, model: TunedModel, examples: Examples, rate: float) -> Tensor:
        """Score examples: (m, n_classes) float64. What is not trained needs no network."""
        with torch.inference_mode():
            if rate == 0:
                device = self._network.device
                logits: Tensor = model.classifier(l2_normalise(examples.features.to(device)))
                return logits.double().cpu()
            step = self._network.batch_size
            parts = [examples.inputs[start : start + step] for start in range(0, len(examples.inputs), step)]
            return torch.cat([model(self._tensor(part)).double().cpu() for part in parts])

    def _note(self, folds: NDArray[np.int64] | None, verdict: Verdict) -> str:
        if folds is None:
            return f"kept {self.start}: one image of a class leaves no evidence that training helps"
        if self.learning_rate_:
            return f"trained {self.part} at learning rate {self.learning_rate_:g}, which held-out images prefer"
        if verdict.rate:
            return f"kept {self.start}: training on all images at {verdict.rate:g} did not succeed"
        return f"kept {self.start}: on held-out images no learning rate is clearly better"


def held_out_rows(losses: Mapping[float, float], steps: int) -> list[HistoryRow]:
    """Rows of the training curve for the log-loss on the images of both halves, held out, at each rate but 0."""
    return [
        {"phase": f"{rate:g}, both", "step": steps, "validation_loss": loss} for rate, loss in losses.items() if rate
    ]


def _log_loss(logits: Tensor, codes: NDArray[np.int64], scale: float) -> float:
    """Mean log-loss of (n, n_classes) logits at a scale, once divided by their spread."""
    loss = nn.functional.cross_entropy(logits * (scale / spread(logits)), torch.from_numpy(codes))
    return float(loss)
