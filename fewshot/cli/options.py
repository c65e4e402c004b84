"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Backbone = Annotated[
    str, typer.Option(help="Packaged name, timm model, hf-hub:, local-dir:, or several joined with +.")
]
Augmentation = Annotated[str, typer.Option(help="Policy for training views; see `fewshot augmentations`.")]
Representation = Annotated[
    str | None,
    typer.Option(help="What is made of the backbone's features: plain, averaged, tuned or auto."),
]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything random.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first unreadable image.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Neither use nor keep stored features.")]
KeepNear = Annotated[
    bool, typer.Option("--keep-near-duplicates", help="Keep test images of which another version is in training.")
]
