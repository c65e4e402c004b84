"""The ``README.md`` of a model folder: for people, and read by nobody else."""

from __future__ import annotations

from typing import Any

from fewshot.augment import POLICIES


def write_readme(config: dict[str, Any]) -> str:
    """Say what a model is, how it is used and what it cannot do."""
    head = config["head"].get("name") or config["head"]["sklearn"]
    classes = "\n".join(f"- {' '.join(str(name).split())}" for name in config["classes"])
    made = (config["representation"] or {}).get("name", "plain")
    features = "" if made == "plain" else f", representation\n`{made}`"
    own = config["augmentation"] not in POLICIES
    knows = config["known"] is not None
    limits = _KNOWS if knows else _PICTURES
    custom = "\n\nIts augmentation was a pipeline of its author's own, which is not kept here." if own else ""
    return f"""# Image classifier

Trained with fewshot {config["fewshot"]}: head `{head}`, backbone `{config["backbone"] or "none"}`, augmentation
`{config["augmentation"]}`{features}.

## Classes

{classes}

## Use

```python
import fewshot

classifier = fewshot.load("THIS_FOLDER")
classifier.predict(["new.jpg"])
classifier.predict_proba(["new.jpg"])
```

or `fewshot predict THIS_FOLDER new.jpg`.

## Limits

{limits}{custom}
"""


_KNOWS = """It knows only the classes above, and gives one of them for any picture unless asked not to:
`predict(..., reject=True)`, or `fewshot predict --reject`, says of pictures that are like none of its training images
that they are none of these. It was trained on few images: test it on pictures of your own before relying on it. How
sure its probabilities are was settled by its training images alone."""
_PICTURES = """It knows only the classes above and gives one of them for any picture. It was trained on few images:
test it on pictures of your own before relying on it. Its probabilities order pictures by confidence; they are not
calibrated."""
