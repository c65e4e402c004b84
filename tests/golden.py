"""Golden model folders: one of each kind of head for every schema ever released, with the answers they gave.

``python -m tests.golden`` writes those of the current schema to ``tests/golden/schema-N``, as far as they are missing.
They are made once, when a schema or a head is new, and never again: what is kept is that later versions still read
what an earlier one wrote.
"""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).with_name("golden")
LABELS = {
    "prototypical": [0, 1],
    "ridge": [2.0, -1.0],
    "gda": [False, True],
    "knn": ["é", "日本"],
    "simple-cnn": ["cat", "dog"],
}
N_FEATURES = 1280


def pictures() -> list[np.ndarray]:
    """Draw three fixed pictures, (64, 80, 3): two to train on and one between them."""
    down, across = np.mgrid[0:64, 0:80]
    red = np.stack([200 + across // 2, down, across], axis=-1)
    blue = np.stack([across, 2 * down, 255 - down], axis=-1)
    return [picture.astype(np.uint8) for picture in (red, blue, (red + blue) // 2)]


def features() -> np.ndarray:
    """Make three fixed feature vectors, (3, 1280), by a formula that no library can change."""
    position = np.arange(3 * N_FEATURES, dtype=np.float64).reshape(3, N_FEATURES)
    return (position * 7919 % 101 - 20) / 50


def heads() -> dict[str, object]:
    """Give a head of each kind; what would be large is trained little and thinned out."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    from fewshot import list_heads
    from fewshot.finetune.auto import AutoFineTune
    from fewshot.finetune.fine_tune import FineTune
    from fewshot.finetune.full import FullFineTune
    from fewshot.finetune.lora import LoRA
    from fewshot.finetune.norm_tuning import NormTuning
    from fewshot.finetune.simple_cnn import SimpleCNNHead, TunedSimpleCNNHead

    quick = {
        "auto-fine-tune": AutoFineTune(n_stages=1, steps=1, batch_size=2),
        "fine-tune": FineTune(steps=1, batch_size=2, learning_rates=(1e-3,)),
        "fine-tune-full": FullFineTune(steps=1, batch_size=2, learning_rates=(1e-3,)),
        "lora": LoRA(steps=1, batch_size=2, learning_rates=(1e-3,)),
        "norm-tuning": NormTuning(steps=1, batch_size=2, learning_rates=(1e-3,)),
        "simple-cnn": SimpleCNNHead(epochs=1),
        "simple-cnn-tuned": TunedSimpleCNNHead(passes=1, min_steps=1, batch_size=2),
    }
    others = {"sklearn-logistic": LogisticRegression(C=3.0), "sklearn-knn": KNeighborsClassifier(n_neighbors=1)}
    return {name: quick.get(name, name) for name in list_heads()} | others


def answers(classifier) -> list[list[float]]:
    """Ask a classifier about the fixed vectors, or of pictures where its head takes pictures: (3, n_classes)."""
    if hasattr(classifier.head_, "predict_proba_images"):
        return classifier.predict_proba(pictures()).tolist()
    return classifier.head_.predict_proba(features()).tolist()


def unpack(source: Path, target: Path) -> Path:
    """Copy a golden folder to where it can be loaded from."""
    target.mkdir()
    for name in ("config.json", "README.md"):
        shutil.copy(source / name, target / name)
    (target / "model.safetensors").write_bytes(gzip.decompress((source / "model.safetensors.gz").read_bytes()))
    return target


def write(folder: Path, kind: str, head: object) -> None:
    """Train a classifier, save it, and keep the folder with the answers that it gives when loaded."""
    import fewshot
    from fewshot.finetune.network_tuning import NetworkTuning

    classifier = fewshot.FewShotClassifier(
        head=head, augmentation="light", n_views=1, random_state=5, cache=False, representation="plain"
    )
    classifier.fit(pictures()[:2], LABELS.get(kind, ["apple", "orange"]))
    if isinstance(classifier.head_, NetworkTuning):
        _thin_out_network(classifier.head_.model_.body)
        # So that the answers are those of what is saved, and not of the linear probe.
        classifier.head_.learning_rate_ = 1e-3
    elif hasattr(classifier.head_, "model_"):
        if kind == "auto-fine-tune":
            # So that the answers are those of the trained stages, and any later representation may load them.
            classifier.head_.share_ = 1.0
            with torch.no_grad():
                weight = classifier.head_.model_.classifier.weight
                weight.copy_((torch.arange(weight.numel()) % 7 - 3).view(weight.shape) / 30)
        _thin_out(classifier.head_.model_)
    classifier.save(folder)
    expected = {
        "classes": classifier.classes_.tolist(),
        "dtype": classifier.classes_.dtype.str,
        # Asked before anything is put beside the model: a folder that holds more is not loaded.
        "proba": answers(fewshot.load(folder)),
    }
    weights = folder / "model.safetensors"
    (folder / "model.safetensors.gz").write_bytes(gzip.compress(weights.read_bytes(), 9, mtime=0))
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")
    weights.unlink()


def _thin_out(model: torch.nn.Module) -> None:
    """Leave one weight in 251 of every large tensor, so that it can be kept compressed: any weights do here."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() > 4096:
                keep = torch.arange(parameter.numel()).remainder(251).eq(7).view(parameter.shape)
                parameter.copy_(torch.where(keep, parameter * 16, 0.0))
            elif parameter.shape == (2, N_FEATURES):
                # So that answers differ between pictures.
                parameter.mul_(30)


def _thin_out_network(network: torch.nn.Module) -> None:
    """Leave few digits, and one weight of each output channel, as large as all were together: signals still pass."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                rows = parameter.flatten(1)
                kept = torch.zeros_like(rows)
                channels = torch.arange(len(rows))
                kept[channels, channels * 7 % rows.shape[1]] = torch.linalg.vector_norm(rows, dim=1)
                parameter.copy_(kept.view(parameter.shape))
            parameter.copy_(parameter.bfloat16())


def main() -> None:
    """Write the golden folders of the current schema."""
    from fewshot.modelfile import SCHEMA_VERSION

    target = GOLDEN / f"schema-{SCHEMA_VERSION}"
    for kind, head in heads().items():
        # What was released is never written again.
        if (target / kind).exists():
            continue
        write(target / kind, kind, head)
        print(f"{target / kind}: {sum(file.stat().st_size for file in (target / kind).iterdir()) / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
