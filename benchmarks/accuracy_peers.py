"""Section `peers`: auto against easyfsl and StandardScaler + RBF-SVM, transductive heads against easyfsl's.

Peers are classifiers as scikit-learn's are, so that `fewshot.benchmark` gives them what it gives heads: the vectors of
the same episodes, of either representation. easyfsl's get vectors of length 1, which suits all of them better.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import torch
from accuracy_common import AUTO, YARDSTICK, Setting, heads_of
from accuracy_tables import accuracies, points
from easyfsl import methods
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler, normalize
from sklearn.svm import SVC

from fewshot.report.benchmark import BenchmarkReport
from fewshot.strategies import Strategy

SHOTS = (1, 5)
INDUCTIVE = ("PrototypicalNetworks", "SimpleShot", "Finetune")
TRANSDUCTIVE = ("BDCSPN", "TIM", "LaplacianShot", "PTMAP")
OURS = "self-training"
REPRESENTATIONS = ("plain", "auto")


class EasyFSL(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """One of easyfsl's methods around a network that does nothing; it labels all queries it is asked about jointly.

    Args:
        method: name of its class.
    """

    def __init__(self, method: str = "SimpleShot") -> None:
        self.method = method

    def fit(self, X: NDArray[np.floating], y: NDArray[Any]) -> Self:
        """Take the support."""
        self.classes_, codes = np.unique(y, return_inverse=True)
        # Finetune switches gradients on again, which it may only with tensors made outside inference mode.
        self.classifier_ = getattr(methods, self.method)(backbone=torch.nn.Identity())
        with torch.inference_mode(False), torch.no_grad():
            self.classifier_.process_support_set(_unit(X), torch.from_numpy(codes.astype(np.int64)))
        return self

    def predict(self, X: NDArray[np.floating]) -> NDArray[Any]:
        """Label the queries."""
        with torch.inference_mode(False), torch.no_grad():
            return self.classes_[self.classifier_(_unit(X)).argmax(dim=1).numpy()]


def section(setting: Setting) -> Iterator[str]:
    """Print inductive against inductive, and transductive against transductive."""
    warnings.simplefilter("ignore")  # scikit-learn warns of classes with one image, once an episode
    yield "## Peers on the same features and episodes\n"
    yield (
        "*plain*: features of one view; *tuned*: what `auto` learns from. easyfsl's methods have their own defaults "
        "and get vectors of length 1 (its PT-MAP takes negative features for 0); StandardScaler and SVC are as "
        "scikit-learn has them. A cell's difference is to the first row.\n"
    )
    kinds = {"inductive": _inductive, "transductive": _transductive}
    for kind, tables in kinds.items():
        if not setting.rows or kind in setting.rows:
            yield from tables(setting)


def _inductive(setting: Setting) -> Iterator[str]:
    # Scaled by the few images it learns from it does badly; the same without is the fairer peer.
    machines = [("StandardScaler + RBF-SVM", StandardScaler()), ("Normalizer + RBF-SVM", Normalizer())]
    peers = [(f"easyfsl {name}", EasyFSL(name)) for name in INDUCTIVE]
    peers += [(name, make_pipeline(scaler, SVC())) for name, scaler in machines]
    first = [AUTO, YARDSTICK, *_on_both(peers)]
    report = setting.run(first, SHOTS)
    yield from _tables(report, "inductive", "auto")


def _transductive(setting: Setting) -> Iterator[str]:
    names = [OURS, *(name for name in heads_of("transductive") if name != OURS)]
    ours = [Strategy(name, name, None, representation="auto") for name in names]
    transductive = _on_both([(f"easyfsl {name}", EasyFSL(name)) for name in TRANSDUCTIVE])
    report = setting.run([*ours, YARDSTICK, *transductive], SHOTS)
    yield from _tables(report, "transductive", OURS)


def _on_both(peers: list[tuple[str, Any]]) -> list[Strategy]:
    titles = {"plain": "plain", "auto": "tuned"}
    return [
        Strategy(f"{name}, {titles[made]}", peer, None, representation=made)
        for name, peer in peers
        for made in REPRESENTATIONS
    ]


def _tables(report: BenchmarkReport, kind: str, ours: str) -> Iterator[str]:
    names = [info.name for info in report.strategies]
    peers = [name for name in names if name.startswith(("easyfsl", "Standard", "Normalizer"))]
    for k_shot in SHOTS:
        yield f"**{kind}, {k_shot} training image{'s' if k_shot > 1 else ''} per class**\n"
        yield from accuracies(report, k_shot, names, [ours, "yardstick"])
        leads = {name: report.compare(ours, name, k_shot).difference for name in peers}
        nearest = min(leads, key=lambda name: leads[name].value)
        behind = [name for name, lead in leads.items() if lead.low <= 0]
        said = "ahead of each by more than the interval" if not behind else f"not clearly ahead of {', '.join(behind)}"
        yield f"- `{ours}` is {said}; the nearest, {nearest}, by {points(leads[nearest])}.\n"


def _unit(rows: NDArray[np.floating]) -> torch.Tensor:
    return torch.from_numpy(normalize(rows).astype(np.float32))
