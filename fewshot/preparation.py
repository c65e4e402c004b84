"""Strategies made ready to run: policy and head resolved, and what cannot be used with a backbone left out."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

from fewshot.augment import AugmentationLike, Policy, load_policy
from fewshot.backbones import load_backbone
from fewshot.backbones.base import Backbone
from fewshot.errors import InvalidInputError
from fewshot.finetune.base import ImageHead
from fewshot.fitting import check_takes_pictures
from fewshot.heads import make_head
from fewshot.heads.base import TransductiveHead
from fewshot.report.model import StrategyInfo
from fewshot.representation import check_representation, load_representation
from fewshot.representation.base import Representation
from fewshot.strategies import Strategy


@dataclass(frozen=True)
class Prepared:
    """A strategy with everything resolved."""

    strategy: Strategy
    policy: Policy
    head: Any

    @property
    def trains(self) -> bool:
        """Whether it trains a network, or a part of one, on pictures."""
        return isinstance(self.head, ImageHead)

    @property
    def needs_backbone(self) -> bool:
        """Whether features of a pretrained network go in."""
        return bool(getattr(self.head, "needs_backbone", True))


def prepare(
    strategies: list[Strategy], augmentation: AugmentationLike, representation: str | None = None
) -> list[Prepared]:
    """Resolve heads and policies.

    Args:
        strategies: which.
        augmentation: takes the place of ``"heavy"``, in names too.
        representation: takes the place of ``"plain"``, where a head learns from features.

    Raises:
        UnknownNameError: a head, policy or representation nobody registered.
        InvalidInputError: two strategies of one name; a representation for a head that takes pictures.
    """
    override = load_policy(augmentation)
    if representation is not None:
        check_representation(representation)
    prepared = []
    for strategy in strategies:
        policy = load_policy(strategy.augmentation)
        if strategy.augmentation == "heavy":
            policy = override
            # A name must not promise what was not done.
            stem = strategy.name.removesuffix("-heavy")
            if stem != strategy.name:
                strategy = replace(strategy, name=f"{stem}-{policy.name}")
        head = make_head(strategy.head)
        # Before anything is computed; scikit-learn's own classifiers check in fit.
        getattr(head, "_check_parameters", lambda: None)()
        if isinstance(head, ImageHead):
            check_takes_pictures(strategy.representation)
        elif representation is not None and check_representation(strategy.representation) == "plain":
            strategy = replace(strategy, representation=representation)
        prepared.append(Prepared(strategy, policy, head))
    names = [one.strategy.name for one in prepared]
    if len(set(names)) < len(names):
        raise InvalidInputError(f"strategies: two have the same name: {', '.join(names)}. Rename one of them.")
    return prepared


def represented(prepared: Prepared, backbone: Backbone) -> Representation | None:
    """Make the representation that a strategy learns from; ``None`` where it takes pictures.

    Raises:
        UnknownNameError: no representation has this name.
        InvalidInputError: none of this backbone.
    """
    return None if prepared.trains else load_representation(prepared.strategy.representation, backbone)


def usable(prepared: list[Prepared], backbone: Backbone, *, strict: bool) -> tuple[list[Prepared], list[str]]:
    """Leave out, with a note each, the strategies that cannot use a backbone; raise instead where ``strict``."""
    kept, notes = [], []
    for one in prepared:
        try:
            if one.trains:
                # On a copy: what is tried out must not travel to other processes with the head.
                make_head(one.head).check_backbone(backbone)
            represented(one, backbone)
            kept.append(one)
        except InvalidInputError as error:
            if strict:
                raise
            notes.append(f"{one.strategy.name} was left out: {error}")
    return kept, notes


def strategy_info(prepared: Prepared, backbone: Backbone | None, n_views: int) -> StrategyInfo:
    """Describe a strategy for a report, and the backbone that it uses."""
    uses = prepared.needs_backbone and backbone is not None
    representation = represented(prepared, backbone) if uses and backbone else None
    strategy = prepared.strategy
    own_views = getattr(prepared.head, "chooses_views", False)
    return StrategyInfo(
        name=strategy.name,
        head=strategy.head if isinstance(strategy.head, str) else repr(strategy.head),
        backbone=backbone.spec if backbone and uses else None,
        augmentation=prepared.policy.name,
        n_views=n_views if prepared.policy.has_views and not own_views else 0,
        trains=prepared.trains,
        setting="transductive" if isinstance(prepared.head, TransductiveHead) else "inductive",
        description=strategy.description,
        representation=representation.name if representation else None,
    )


def reloadable(backbone: Backbone) -> str | Backbone:
    """Give the name that brings a backbone back in another process; where none does, the backbone itself."""
    try:
        again = load_backbone(backbone.spec)
        same = again.fingerprint == backbone.fingerprint
        if same and [n.runtime_name for n in again.networks] == [n.runtime_name for n in backbone.networks]:
            return backbone.spec
    # Any failure means the same: send the object itself.
    except Exception:
        return backbone
    return backbone


def environment(backbone: Backbone, n_views: int) -> dict[str, str]:
    """Versions and settings that a result depends on."""
    import torch

    packages = ("fewshot", "torch", "timm", "albumentations", "scikit-learn", "numpy", "pillow")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.machine()})"
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "device": device,
        "backbone": f"{backbone.spec} ({backbone.fingerprint})",
        "runtime": "+".join(network.computed_by for network in backbone.networks),
        "views per image": str(n_views),
    }
