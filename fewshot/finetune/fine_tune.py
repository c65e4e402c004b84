"""Fine-tuning of the last stages, on stored maps: the frozen part of the network runs once per view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fewshot.backbones.base import Backbone, compute_rows
from fewshot.backbones.timm import TimmNetwork
from fewshot.finetune.base import TrainingSetup
from fewshot.finetune.examples import Examples, affordable_views, map_examples
from fewshot.finetune.probe import unset_linear
from fewshot.finetune.split import SplitNetwork
from fewshot.finetune.tuning import Trained, TunedModel, Tuning
from fewshot.heads.base import check_count
from fewshot.images.reader import ImageLike, read_image


class FineTune(Tuning):
    """Train the last stages from the linear probe, at a learning rate that the training images choose.

    See :class:`~fewshot.finetune.tuning.Tuning` for how the rate is chosen and what is found.

    Args:
        n_stages: how many of the last stages are trained; of a ViT, blocks.
        learning_rates: Adam's at its highest, the candidates besides 0.
        steps: optimiser steps.
        batch_size: views per step.
        C: inverse penalty of the linear probe it starts from.
    """

    title: ClassVar[str] = "fine-tune"
    # What models have that were saved before it was estimated.
    scale_ = 1.0
    earlier: ClassVar[Mapping[str, Any]] = {"n_stages": 1}

    def __init__(
        self,
        *,
        n_stages: int = 2,
        learning_rates: Sequence[float] = (1e-3,),
        steps: int = 50,
        batch_size: int = 16,
        C: float = 1.0,
    ) -> None:
        self.n_stages = n_stages
        self.learning_rates = learning_rates
        self.steps = steps
        self.batch_size = batch_size
        self.C = C

    @property
    def part(self) -> str:  # type: ignore[override]
        """What is trained, in words."""
        return "the last stage" if self.n_stages == 1 else f"the last {self.n_stages} stages"

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_count("n_stages", self.n_stages)

    def _connect(self, network: TimmNetwork) -> None:
        self._split = SplitNetwork(network, self.n_stages, title=self.title, instead=self.instead)

    def _gather(self, images: Sequence[ImageLike], codes: NDArray[np.int64], setup: TrainingSetup) -> Examples:
        size = self._network.image_size
        one = self._split.trunk(np.zeros((1, size, size, 3), dtype=np.uint8))
        self.n_views_ = affordable_views(one.nbytes, len(images), setup)
        return map_examples(self._split, images, codes, self.n_views_, setup)

    def _new_body(self) -> nn.Module:
        return self._split.new_tail()

    def _tensor(self, inputs: NDArray[Any]) -> Tensor:
        return torch.from_numpy(inputs).to(self._network.device)

    def _begin(self, body: nn.Module, seed: int) -> Trained:
        return [([*body.parameters()], 1.0)]

    def predict_proba_images(self, images: Sequence[ImageLike]) -> NDArray[np.float64]:
        """Estimate (n, n_classes) class probabilities of the central view of each image."""
        network = self._network

        def compute(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
            with torch.inference_mode():
                logits = self.model_(self._tensor(self._split.trunk(pixels))).double().cpu()
                return torch.softmax(logits * self.scale_, dim=-1).numpy()

        renders = [lambda s=image: network.preprocess(read_image(s)) for image in images]
        return compute_rows(network, renders, compute, np.empty((0, len(self.classes_))))

    def tensors(self) -> dict[str, Tensor]:
        """Give the weights of the last stages and of the classifier."""
        found = self.model_.state_dict()
        return {_saved_as(name): tensor.cpu().contiguous() for name, tensor in found.items()}

    def blank_tensors(self, n_classes: int, backbone: Backbone | None) -> dict[str, Tensor]:
        """Give the last stages' own weights, and those of a classifier without memory for them."""
        network = self._bind(backbone)
        classifier = nn.Linear(network.n_features, n_classes, device="meta")
        model = TunedModel(self._split.new_tail(), classifier)
        return {_saved_as(name): tensor for name, tensor in model.state_dict().items()}

    def restore(self, tensors: Mapping[str, Tensor], classes: NDArray[Any], backbone: Backbone | None) -> None:
        """Take back the weights of the last stages and of the classifier."""
        network = self._bind(backbone)
        self.classes_, self.history_ = classes, []
        model = TunedModel(self._split.new_tail(), unset_linear(network.n_features, len(classes)))
        model.load_state_dict({name: tensors[_saved_as(name)] for name in model.state_dict()})
        self._keep(model.to(network.device).requires_grad_(False))


def _saved_as(name: str) -> str:
    """Name a tensor as models have it that were saved when the body was called the tail."""
    return f"tail.{name.removeprefix('body.')}" if name.startswith("body.") else name
