"""Tuning within a whole network: what norm-tuning, LoRA and full fine-tuning share."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fewshot.backbones.base import Backbone, compute_rows
from fewshot.backbones.runtime import prepare
from fewshot.backbones.timm import TimmNetwork
from fewshot.finetune.base import TrainingSetup
from fewshot.finetune.examples import Examples, affordable_views, render_examples
from fewshot.finetune.probe import unset_linear
from fewshot.finetune.tuning import TunedModel, Tuning
from fewshot.heads.base import l2_normalise
from fewshot.images.reader import ImageLike, read_image


class NetworkTuning(Tuning):
    """Train parts of a whole network, every step through all of it.

    A subclass says what is trained: :meth:`_begin` and :meth:`_changed`.
    """

    @abstractmethod
    def _changed(self, network: nn.Module) -> list[str]:
        """List the parameters of the original network that training may change.

        Raises:
            InvalidInputError: there are none.
        """

    def _connect(self, network: TimmNetwork) -> None:
        self._names = self._changed(network.model)

    def _gather(self, images: Sequence[ImageLike], codes: NDArray[np.int64], setup: TrainingSetup) -> Examples:
        self.n_views_ = affordable_views(3 * self._network.image_size**2, len(images), setup)
        return render_examples(self._network, images, codes, self.n_views_, setup)

    def _new_body(self) -> nn.Module:
        return copy.deepcopy(self._network.model).to(memory_format=torch.channels_last)

    def _tensor(self, inputs: NDArray[Any]) -> Tensor:
        return self._network.normalise(inputs)

    def _keep(self, model: TunedModel) -> None:
        """Take a model as the answer; of its network a copy is made that is faster to run."""
        super()._keep(model)
        network = self._network
        example = torch.linspace(-1, 1, 3 * network.image_size**2, device=network.device)
        self._runtime = prepare(model.body, example.view(1, 3, network.image_size, -1))

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
        found = {f"network.{name}": parameters[f"body.{name}"] for name in self._names}
        found |= {name: parameters[name] for name in ("classifier.weight", "classifier.bias")}
        return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}

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
        model = TunedModel(own, unset_linear(network.n_features, len(classes)).to(network.device))
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name in self._names:
                parameters[f"body.{name}"].copy_(tensors[f"network.{name}"])
            for name in ("classifier.weight", "classifier.bias"):
                parameters[name].copy_(tensors[name])
        self._keep(model.requires_grad_(False))
