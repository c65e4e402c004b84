"""Features of millions of images: the extraction of this package inside Ray Data, over processes and machines.

Ray reads, splits and retries; what turns a picture into features is the code that runs without Ray, so that the
features are the same to the last bit. Needs ``pip install 'fewshot[ray]'``, on every machine of the cluster.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fewshot.backbones import DEFAULT_BACKBONE, load_backbone
from fewshot.errors import ImageError, InvalidInputError, MissingExtraError, WeightsNotFoundError
from fewshot.images.dataset import as_sources
from fewshot.images.reader import ImageLike, read_image

if TYPE_CHECKING:
    from ray.data import Dataset

_COLUMNS = ("path", "bytes")


def extract_with_ray(
    images: Iterable[str | os.PathLike[str] | bytes] | Dataset,
    *,
    backbone: str = DEFAULT_BACKBONE,
    concurrency: int = 2,
    batch_size: int = 64,
    address: str | None = None,
) -> Dataset:
    """Compute features of the central view of each image, on a Ray cluster or on this machine's cores.

    Nothing is computed before the result is used: ``.iter_batches()``, ``.write_parquet(folder)``. It need not fit
    into memory.

    Args:
        images: paths (which every machine of the cluster can open), or images as encoded bytes, or a Ray Dataset
            with a column ``path`` or ``bytes`` (the first of these that it has).
        backbone: a name for :func:`fewshot.load_backbone`; each worker loads it once and runs it on the CPU.
        concurrency: worker processes, one core each; for a Ray Dataset, at most so many.
        batch_size: images per call of a worker.
        address: the cluster's, where Ray is not started yet; by default Ray is started on this machine.

    Returns:
        The columns that were there, with ``features`` ((n_features,) float32, NaN where there are none) and
        ``error`` ("" or the reason code of an unreadable image, see :mod:`fewshot.images.reader`). Rows come in
        Ray's order.

    Raises:
        MissingExtraError: Ray is not installed.
        InvalidInputError: no images, neither of the columns, or a number below 1.
        UnknownNameError: no such backbone.
        WeightsNotFoundError: its weights are not here; or, later and from Ray, a worker's machine has others.

    Example:
        >>> from fewshot.ray_data import extract_with_ray
        >>> extract_with_ray(paths, concurrency=16).write_parquet("features")  # doctest: +SKIP
    """
    if find_spec("ray") is None or find_spec("pyarrow") is None:
        raise MissingExtraError("Ray Data is not installed. Run: pip install 'fewshot[ray]'")
    for name, value in (("concurrency", concurrency), ("batch_size", batch_size)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InvalidInputError(f"{name}={value!r}: needs a whole number of at least 1.")
    if not isinstance(backbone, str):
        raise InvalidInputError(f"backbone={backbone!r}: needs a name, by which every worker can load it.")
    # Loaded here as well: a wrong name is an error of this call, not of a worker that Ray starts again and again.
    loaded = load_backbone(backbone, device="cpu")
    names = {network.runtime_name for network in loaded.networks}
    runtime = names.pop() if len(names) == 1 else "auto"
    import ray
    from ray.data import Dataset

    if isinstance(images, Dataset):
        dataset, pool = images, (1, concurrency)  # may grow, so that reading is not left without a core
    else:
        rows = _rows(images)
        if not ray.is_initialized():
            # A Ray that is started here reports its use to nobody, unless its user wants it to.
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            ray.init(address=address)
        dataset, pool = ray.data.from_items(rows), (concurrency, concurrency)
    columns = dataset.columns() or []
    column = next((name for name in _COLUMNS if name in columns), None)
    if column is None:
        raise InvalidInputError(f"The Ray Dataset has the columns {columns}; needs 'path' or 'bytes'.")
    return dataset.map_batches(
        _Worker,
        fn_constructor_args=(backbone, loaded.fingerprint, runtime, column),
        batch_size=batch_size,
        batch_format="numpy",
        concurrency=pool,
        num_cpus=1,
    )


def _rows(images: Iterable[str | os.PathLike[str] | bytes]) -> list[dict[str, Any]]:
    sources = as_sources(images)
    if not sources:
        raise InvalidInputError("Got no images.")
    if all(isinstance(source, bytes) for source in sources):
        return [{"bytes": source} for source in sources]
    if all(isinstance(source, (str, os.PathLike)) for source in sources):
        return [{"path": os.fspath(source)} for source in sources]  # type: ignore[arg-type]
    raise InvalidInputError("Needs paths, or images as encoded bytes, and not both; Ray sends nothing else well.")


class _Worker:
    """A process that keeps a backbone loaded.

    Args:
        spec: the backbone's name.
        fingerprint: of the caller's backbone, which this one must equal.
        runtime: of the caller's backbone, for the same last bits.
        column: where the images are.
    """

    def __init__(self, spec: str, fingerprint: str, runtime: str, column: str) -> None:
        # Ray counts one core for each worker; joblib, which counts ours, would take all of the machine's.
        os.environ["LOKY_MAX_CPU_COUNT"] = "1"
        self.backbone = load_backbone(spec, device="cpu", runtime=runtime)
        self.column = column
        if self.backbone.fingerprint != fingerprint:
            raise WeightsNotFoundError(
                f"The weights of {spec!r} on this worker's machine are not those of the machine that asked for "
                f"features (fingerprint {self.backbone.fingerprint}, there {fingerprint}). Install the same versions "
                "on both."
            )

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Add ``features`` and ``error`` to a batch of images."""
        from fewshot.backbones.base import run_network

        networks = self.backbone.networks
        # Views are kept instead of pictures, which may have many megapixels each.
        views: list[list[NDArray[np.uint8]]] = [[] for _ in networks]
        errors = [self._read(source, views) for source in batch[self.column]]
        parts = [
            run_network(network, [lambda view=view: view for view in pictures])  # type: ignore[misc]
            for network, pictures in zip(networks, views, strict=True)
        ]
        features = np.full((len(errors), self.backbone.n_features), np.nan, np.float32)
        features[[not error for error in errors]] = self.backbone.combine(parts)
        return batch | {"features": features, "error": np.array(errors, dtype=object)}

    def _read(self, source: ImageLike, views: list[list[NDArray[np.uint8]]]) -> str:
        """Read an image and append its view for each network; return "" or the reason why that is not possible."""
        try:
            pixels = read_image(source)
        except ImageError as error:
            return error.code
        for network, pictures in zip(self.backbone.networks, views, strict=True):
            pictures.append(network.preprocess(pixels))
        return ""
