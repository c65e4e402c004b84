"""Heads: classifiers on features. One method, one file, and one line in the table below."""

from __future__ import annotations

from typing import Any

from fewshot.errors import InvalidInputError
from fewshot.names import NameTable

HEADS = NameTable(
    "head",
    {
        "auto": "fewshot.heads.auto:AutoHead",
        "prototypical": "fewshot.heads.prototypical:PrototypicalHead",
        "linear-probe": "fewshot.heads.linear_probe:LinearProbe",
        "ridge": "fewshot.heads.ridge:RidgeHead",
        "svm": "fewshot.heads.svm:SVMHead",
        "gda": "fewshot.heads.gda:GDAHead",
        "distribution-calibration": "fewshot.heads.distribution_calibration:DistributionCalibrationHead",
        "knn": "fewshot.heads.knn:KNNHead",
        "tip-adapter": "fewshot.heads.tip_adapter:TipAdapterHead",
        "ensemble": "fewshot.heads.ensemble:EnsembleHead",
        # Transductive: they label the queries jointly.
        "soft-kmeans": "fewshot.heads.soft_kmeans:SoftKMeansHead",
        "tim": "fewshot.heads.tim:TIMHead",
        "alpha-tim": "fewshot.heads.alpha_tim:AlphaTIMHead",
        "laplacian-shot": "fewshot.heads.laplacian_shot:LaplacianShotHead",
        "bd-cspn": "fewshot.heads.bd_cspn:BDCSPNHead",
        "self-training": "fewshot.heads.self_training:SelfTrainingHead",
        "pt-map": "fewshot.heads.pt_map:PTMAPHead",
        # Heads that need pixels: they train a network, or a part of one.
        "fine-tune": "fewshot.finetune.fine_tune:FineTune",
        "auto-fine-tune": "fewshot.finetune.auto:AutoFineTune",
        "norm-tuning": "fewshot.finetune.norm_tuning:NormTuning",
        "lora": "fewshot.finetune.lora:LoRA",
        "fine-tune-full": "fewshot.finetune.full:FullFineTune",
        "simple-cnn": "fewshot.finetune.simple_cnn:SimpleCNNHead",
        "simple-cnn-tuned": "fewshot.finetune.simple_cnn:TunedSimpleCNNHead",
    },
    entry_point_group="fewshot.heads",
)


def list_heads() -> list[str]:
    """List the names that ``head=`` takes."""
    return sorted(HEADS)


def name_of(head: Any) -> str | None:
    """Give the name that a head is registered by, if it is."""
    return next((name for name in HEADS if HEADS.load(name) is type(head)), None)


def make_head(head: Any) -> Any:
    """Turn a head's name, instance, or any scikit-learn classifier into an unfitted copy of it.

    Raises:
        UnknownNameError: no head has this name; the message lists the closest.
        InvalidInputError: neither a name nor a classifier.
    """
    if isinstance(head, str):
        factory: Any = HEADS.load(head)
        return factory()
    from sklearn.base import clone, is_classifier

    if not isinstance(head, type) and hasattr(head, "fit") and hasattr(head, "get_params") and is_classifier(head):
        return clone(head)
    if not isinstance(head, type) and hasattr(head, "fit_images"):
        return clone(head)
    raise InvalidInputError(
        f"head={head!r} is neither a name ({', '.join(list_heads())}), a head, nor a scikit-learn classifier instance."
    )
