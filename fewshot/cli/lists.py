"""Commands that list what there is: backbones, heads, augmentations, strategies, doctor."""

from __future__ import annotations

from typing import Any

from fewshot.cli.options import Json


def backbones(json: Json = False) -> None:
    """List backbones that need no network."""
    from fewshot.backbones import DEFAULT_BACKBONE, list_backbones

    rows = [(name, "the default" if name == DEFAULT_BACKBONE else "") for name in list_backbones()]
    _show("Backbones", rows, json)
    if not json:
        from fewshot.console import say

        say("Also: any pretrained timm model, hf-hub:org/model, local-dir:folder, and several joined with +.")


def heads(json: Json = False) -> None:
    """List heads."""
    from fewshot.heads import HEADS, list_heads

    _show("Heads", [(name, HEADS.describe(name)) for name in list_heads()], json)


def augmentations(json: Json = False) -> None:
    """List augmentation policies."""
    from fewshot.augment import POLICIES, list_augmentations

    _show("Augmentations", [(name, POLICIES.describe(name)) for name in list_augmentations()], json)


def strategies(json: Json = False) -> None:
    """List strategies: augmentation, backbone and head, as `compare` and `demo` know them."""
    from fewshot.strategies import STRATEGIES

    _show("Strategies", [(name, strategy.description) for name, strategy in STRATEGIES.items()], json)


def doctor(json: Json = False) -> None:
    """Show versions, device, which weights are here, and where features are stored."""
    from fewshot.commands import diagnose

    _show("Doctor", list(diagnose().items()), json)


def _show(title: str, rows: list[tuple[str, Any]], as_json: bool) -> None:
    from fewshot.console import print_json, print_names

    if as_json:
        print_json(dict(rows))
    else:
        print_names(title, [(name, str(text)) for name, text in rows])
