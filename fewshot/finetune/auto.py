"""Frozen features or trained stages, as the training images say: head ``auto``, and fine-tuning where it helps.

Where the network's features already tell the classes apart, training the network can only make them worse; where they
do not, as with pictures unlike photographs, it can be worth more than anything else. Half of the images therefore judge
both, each learned from the other half (but for the shares of the representation's parts, which all images settle): head
``auto`` on the representation that it has by itself, the trained network, and the mean of their log-probabilities,
which is better than either where each sees what the other does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fewshot.backbones.base import Backbone
from fewshot.backbones.timm import TimmNetwork
from fewshot.errors import InvalidInputError
from fewshot.features import check_varied
from fewshot.finetune.base import HistoryRow, TrainingSetup
from fewshot.finetune.fine_tune import FineTune
from fewshot.finetune.probe import unset_linear
from fewshot.finetune.selection import N_FOLDS, HeldOut, Verdict, choose, fit_scale, make_folds, spread
from fewshot.finetune.tuning import TunedModel, held_out_rows
from fewshot.heads.auto import AutoHead
from fewshot.images.reader import ImageLike, source_name
from fewshot.representation import load_representation
from fewshot.representation.base import Space
from fewshot.threads import workers

# Below this log-loss on held-out images nothing is left to gain, and the time that training takes is saved.
_SURE = 0.1
_FROZEN = "frozen."


class AutoFineTune(FineTune):
    """Train the last stages as ``fine-tune`` does, and answer by that, by head ``auto``, or by both.

    The training images choose: whichever has the lowest log-loss on images held out, and head ``auto`` unless that is
    better by more than a standard error. Nothing is trained where a class has one image, or where the log-loss of head
    ``auto`` on held-out images is below 0.1.

    As all heads that take pictures it has no novelty score, suggestions, expected accuracy or unlabelled images; for
    these use head ``auto``. A saved model holds the last stages whatever answers.

    Args:
        n_stages: how many of the last stages are trained; of a ViT, blocks.
        learning_rates: Adam's at its highest, the candidates.
        steps: optimiser steps.
        batch_size: views per step.
        C: inverse penalty of the linear probe that training starts from.

    Attributes:
        frozen_: head ``auto``, fitted; not in a model that was saved where the trained network answers alone.
        share_: 0 where the frozen features answer, 1 where the trained network does, 0.5 for both.
        learning_rate_: the rate that won; 0.0 where the frozen features did.
        validation_: log-loss of each rate's network by itself on held-out images, at 0.0 of the frozen features.
        fingerprint_: of what makes the frozen features.
        scale_: what the trained network's logits are multiplied by before they become probabilities.
        n_views_: augmented views per image that training was tried with; 0 where it was not.
        note_: in one sentence, what answers, and why.
    """

    title: ClassVar[str] = "auto-fine-tune"
    start: ClassVar[str] = "head 'auto' on frozen features"
    instead: ClassVar[str] = "auto"
    earlier: ClassVar[Mapping[str, Any]] = {}
    kept: ClassVar[Mapping[str, type]] = {**FineTune.kept, "share_": float, "fingerprint_": str}

    def _connect(self, network: TimmNetwork) -> None:
        super()._connect(network)
        self._representation = load_representation("auto", network)

    def _train(self, images: Sequence[ImageLike], codes: NDArray[np.int64], setup: TrainingSetup) -> None:
        self._check_parameters()
        self._bind(setup.backbone)
        parts = self._representation.parts(images, progress=setup.progress)
        self._space, self.fingerprint_ = self._representation.space(parts), self._representation.fingerprint
        vectors = self._space.vectors(parts)[:, 0]
        check_varied(vectors, codes, self._network.spec, [source_name(image) for image in images])
        self.frozen_ = AutoHead().fit(vectors, codes)
        self.share_, self.learning_rate_, self.n_views_, self.scale_, self.validation_ = 0.0, 0.0, 0, 1.0, {}
        # The last stages are saved whatever answers.
        model = TunedModel(self._new_body(), _untrained(self._network.n_features, len(self.classes_)))
        folds = make_folds(codes, np.arange(len(codes)), np.random.default_rng([setup.seed, 1]))
        if folds is None:
            self.note_ = f"kept {self.start}: with one image of a class none can be held out to judge training by"
        else:
            frozen = self._frozen_held_out(vectors, codes, folds)
            self.validation_ = {0.0: float(_losses(_calibrated(frozen)[0], codes).mean())}
            if self.validation_[0.0] < _SURE:
                self.note_ = f"kept {self.start}: it is sure of held-out images, and right, so nothing was trained"
            else:
                model = self._compare(images, codes, frozen, folds, setup) or model
        self._keep(model.to(self._network.device).requires_grad_(False))

    def _frozen_held_out(
        self, vectors: NDArray[np.float32], codes: NDArray[np.int64], folds: NDArray[np.int64]
    ) -> HeldOut:
        """Ask heads fitted on all other folds about every image, as trained networks are asked."""
        parts = []
        for fold in range(N_FOLDS):
            away = folds == fold
            head = AutoHead().fit(vectors[~away], codes[~away])
            usual = spread(head._scores(vectors[~away]))
            parts.append(HeldOut(head._scores(vectors[away]) / usual, codes[away], np.flatnonzero(away)))
        return HeldOut.join(parts)

    def _compare(
        self,
        images: Sequence[ImageLike],
        codes: NDArray[np.int64],
        frozen: HeldOut,
        folds: NDArray[np.int64],
        setup: TrainingSetup,
    ) -> TunedModel | None:
        """Try every rate on held-out images; train on everything what is clearly better than the frozen features.

        Args:
            images: all of them.
            codes: (n,) class positions.
            frozen: what the frozen features say of held-out images.
            folds: (n,) which of them are held out together.
            setup: of training.

        Returns:
            The trained model; nothing where the frozen features do as well, or training failed.
        """
        examples, steps = self._gather(images, codes, setup), self._new_steps(setup)
        curve: list[HistoryRow] = []
        with workers(2) as pool:
            rates = [float(rate) for rate in self.learning_rates]
            held_out, curves = self._try_rates(rates, examples, folds[examples.images], setup, steps, pool.map)
            # All are scaled alike: a temperature that suits held-out images better is no reason to train.
            untrained, _ = _calibrated(frozen)
            scales, tables = {}, {(0.0, 0.0): untrained}
            for rate, one in held_out.items():
                if bool(torch.isfinite(one.logits).all()):
                    trained, scales[rate] = _calibrated(one)
                    tables |= {(rate, 0.5): _between(untrained, trained), (rate, 1.0): trained}
                    self.validation_[rate] = float(_losses(trained, codes).mean())
            rate, share = list(tables)[choose([_losses(table, codes) for table in tables.values()])]
            self.note_ = f"kept {self.start}: on held-out images nothing that was trained is clearly better"
            model = None
            if rate:
                verdict = Verdict(rate, self.validation_, scales)
                model, logits, curve = pool.submit(self._final, examples, verdict, setup, steps).result()
                if self.learning_rate_:
                    self.share_, self.scale_ = share, scales[rate] / spread(logits)
                    what = f"{self.part} trained at learning rate {rate:g}"
                    self.note_ = (
                        f"answers by {what if share == 1 else f'the mean of {self.start} and of {what}'}, "
                        "which held-out images prefer"
                    )
                else:
                    self.note_ = f"kept {self.start}: training on all images at {rate:g} did not succeed"
        steps.end()
        for row in [*curves, *held_out_rows(self.validation_, self.steps), *curve]:
            self._record(row, setup)
        return model if self.share_ else None

    def predict_proba_images(self, images: Sequence[ImageLike]) -> NDArray[np.float64]:
        """Estimate (n, n_classes) class probabilities."""
        if not len(images):
            return np.empty((0, len(self.classes_)))
        if self.share_ == 1:
            return super().predict_proba_images(images)
        frozen: NDArray[np.float64] = self.frozen_.predict_proba(
            self._space.vectors(self._representation.parts(images))[:, 0]
        )
        if self.share_ == 0:
            return frozen
        trained = super().predict_proba_images(images)
        return _between(*(torch.from_numpy(one).clamp_min(1e-300).log() for one in (frozen, trained))).exp().numpy()

    def tensors(self) -> dict[str, Tensor]:
        """Give the last stages, their classifier, and the frozen features' shares and head where these answer."""
        if self.share_ == 1:
            return super().tensors()
        shares = torch.tensor([self._space.shares[name] for name in self._representation.widths], dtype=torch.float64)
        frozen = {name: tensor.contiguous() for name, tensor in self.frozen_.state_.items()} | {"shares": shares}
        return super().tensors() | {_FROZEN + name: tensor for name, tensor in frozen.items()}

    def blank_tensors(self, n_classes: int, backbone: Backbone | None) -> dict[str, Tensor]:
        """Give the last stages' own weights, and all others without memory for them.

        Raises:
            InvalidInputError: as for other heads, and where frozen features answer and are made in another way now.
        """
        blank = super().blank_tensors(n_classes, backbone)
        if self.share_ == 1:
            return blank
        if self.fingerprint_ != self._representation.fingerprint:
            raise InvalidInputError(
                "its features were made in another way than this version makes them; its answers would be wrong. "
                "Install the versions it was saved with, or train it again."
            )
        widths = self._representation.widths
        shapes = AutoHead().state_shapes(n_classes, sum(widths.values())) | {"shares": (len(widths),)}
        return blank | {
            _FROZEN + name: torch.empty([*map(int, shape)], dtype=torch.float64, device="meta")
            for name, shape in shapes.items()
        }

    def restore(self, tensors: Mapping[str, Tensor], classes: NDArray[Any], backbone: Backbone | None) -> None:
        """Take back what :meth:`tensors` gave."""
        super().restore(tensors, classes, backbone)
        if self.share_ == 1:
            return
        state = {name.removeprefix(_FROZEN): one for name, one in tensors.items() if name.startswith(_FROZEN)}
        widths = self._representation.widths
        self._space = Space(dict(zip(widths, state.pop("shares").tolist(), strict=True)), widths)
        self.frozen_ = AutoHead()
        self.frozen_.state_, self.frozen_.n_features_in_ = state, self._space.width
        self.frozen_.classes_ = np.arange(len(classes))

    def restore_facts(self, facts: Mapping[str, Any]) -> None:
        """Take back what :meth:`facts` gave.

        Raises:
            InvalidInputError: as for other heads, or a share that it cannot have, or none.
        """
        missing = [name for name in ("share_", "fingerprint_") if name not in facts]
        if missing:
            raise InvalidInputError(f"{type(self).__name__} needs {missing[0]!r}, which is missing.")
        super().restore_facts(facts)
        if self.share_ not in (0.0, 0.5, 1.0):
            raise InvalidInputError(f"'share_' of {type(self).__name__} is {self.share_!r}; needs 0, 0.5 or 1.")


def _calibrated(held_out: HeldOut) -> tuple[Tensor, float]:
    """Log-probabilities (n, n_classes) of held-out images, in the order of these, and the scale they are taken at."""
    scale = fit_scale(held_out)
    in_order = held_out.logits[torch.from_numpy(held_out.images.argsort(kind="stable"))]
    return torch.log_softmax(in_order.double() * scale, dim=-1), scale


def _between(one: Tensor, other: Tensor) -> Tensor:
    """Mean of two tables of log-probabilities (n, n_classes), as such a table."""
    return torch.log_softmax((one + other) / 2, dim=-1)


def _losses(table: Tensor, codes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Log-loss (n,) of log-probabilities (n, n_classes)."""
    return -table.numpy()[np.arange(len(codes)), codes]


def _untrained(n_features: int, n_classes: int) -> nn.Linear:
    """Make a classifier of zeros."""
    layer = unset_linear(n_features, n_classes)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    return layer
