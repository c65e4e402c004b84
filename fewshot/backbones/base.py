"""The contract of a backbone, and the one loop that streams images through a network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fewshot import interrupts
from fewshot.errors import OutOfMemoryError
from fewshot.images.dataset import as_sources
from fewshot.images.reader import ImageLike, read_image
from fewshot.memory import free_memory, is_out_of_memory, warn_of_memory
from fewshot.threads import workers

Rows: TypeAlias = "NDArray[Any]"
Progress: TypeAlias = "Callable[[int, int], None]"
"""Called with (done, total) as work goes on."""


class Backbone(ABC):
    """A frozen pretrained feature extractor: one network, or several joined.

    Attributes:
        spec: how to load it again with :func:`fewshot.load_backbone`.
        fingerprint: digest of weights and preprocessing; equal fingerprints give equal features.
        n_features: width of a feature vector.
        former_fingerprints: what earlier versions of this package called the same backbone in models of schema 1.
    """

    spec: str
    fingerprint: str
    n_features: int
    former_fingerprints: tuple[str, ...] = ()

    @property
    @abstractmethod
    def networks(self) -> tuple[Network, ...]:
        """The networks whose features are put together."""

    @abstractmethod
    def combine(self, features: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Put together one array (..., d_i) per network into one (..., n_features)."""

    def extract(self, images: Iterable[ImageLike], *, progress: Progress | None = None) -> NDArray[np.float32]:
        """Compute features of the central view of each image.

        Args:
            images: paths, bytes, PIL images or uint8 arrays (H, W, 3).
            progress: called with (images done, images in all).

        Returns:
            (n, n_features) float32.

        Raises:
            ImageError: an image cannot be read.
        """
        sources = as_sources(images)
        total = len(sources) * len(self.networks)
        features = []
        for position, network in enumerate(self.networks):
            render = [lambda s=source, n=network: n.preprocess(read_image(s)) for source in sources]
            report = None if progress is None else shifted(progress, position * len(sources), total)
            features.append(run_network(network, render, progress=report))
        return self.combine(features)

    def __repr__(self) -> str:
        return f"<Backbone {self.spec}: {self.n_features} features, {self.fingerprint[:8]}>"


class Network(Backbone):
    """A backbone that is one network.

    Attributes:
        image_size: side of the square input in pixels.
        batch_size: images per forward pass; every pass has exactly this shape, so that an image's features do not
            depend on which other images were extracted with it. It is halved where memory does not suffice, for as
            long as the network lives: another shape rounds in another way, and :attr:`computed_by` tells them apart.
    """

    image_size: int
    batch_size: int = 4
    _usual_batch_size: int | None = None

    @property
    def networks(self) -> tuple[Network, ...]:
        """This one network."""
        return (self,)

    def combine(self, features: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return the only array."""
        return features[0]

    @property
    def runtime_name(self) -> str:
        """What computes the features; part of every stored key, since runtimes differ in the last bits."""
        return "pytorch"

    @property
    def computed_by(self) -> str:
        """What computes the features, and with which batches where these are not the usual ones.

        It is a part of every stored key.
        """
        if self._usual_batch_size is None:
            return self.runtime_name
        return f"{self.runtime_name}, batches of {self.batch_size} for {self._usual_batch_size}"

    def halve_batches(self) -> None:
        """Go on with batches half as large."""
        if self._usual_batch_size is None:
            self._usual_batch_size = self.batch_size
        self.batch_size = max(1, self.batch_size // 2)

    def use_runtime(self, runtime: str) -> None:
        """Take a runtime of :func:`fewshot.load_backbone`; a network that knows only one way to run ignores it."""

    @abstractmethod
    def preprocess(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize and crop (H, W, 3) uint8 to (image_size, image_size, 3) uint8, as the network was trained."""

    @abstractmethod
    def forward(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run (batch_size, image_size, image_size, 3) uint8 through the network; return (batch_size, n_features)."""


Render: TypeAlias = "Callable[[], NDArray[np.uint8]]"


def run_network(network: Network, render: Sequence[Render], *, progress: Progress | None = None) -> NDArray[np.float32]:
    """Render pictures and run them through a network, batch by batch, one worker thread per core.

    Each worker renders and computes a batch of its own with a single thread inside the network. That is faster than
    sharing the cores within one batch, and makes the result independent of the number of cores. At most a few batches
    are held at a time, whatever the number of pictures.

    Where memory does not suffice, all is computed again with batches half as large, down to single pictures.

    Args:
        network: what to run.
        render: one function per picture, making (image_size, image_size, 3) uint8; called in any thread.
        progress: called with (pictures done, pictures in all).

    Returns:
        (len(render), n_features) float32, in the order of ``render``, all from passes of one shape.

    Raises:
        OutOfMemoryError: not even one picture fits.
    """
    # Asked in the caller's thread: the first time, a runtime is compiled for it, and may give a warning.
    _ = network.runtime_name
    empty = np.empty((0, network.n_features), dtype=np.float32)
    return compute_rows(network, render, network.forward, empty, progress=progress)


class Batched(Protocol):
    """What :func:`compute_rows` needs to know of a network.

    Attributes:
        spec: its name, for messages.
        batch_size: pictures per pass.
    """

    spec: str
    batch_size: int

    def halve_batches(self) -> None:
        """Go on with batches half as large."""


def compute_rows(
    network: Batched,
    render: Sequence[Render],
    compute: Callable[[NDArray[np.uint8]], Rows],
    empty: Rows,
    *,
    progress: Progress | None = None,
) -> Rows:
    """Apply ``compute`` to pictures by :func:`map_batches`, with smaller batches where memory does not suffice.

    Args:
        network: whose batch size is used, and halved.
        render: one function per picture.
        compute: turns (batch_size, S, S, 3) uint8 into one row per picture.
        empty: (0, ...), what to return for no pictures.
        progress: called with (pictures done, pictures in all).

    Returns:
        (len(render), ...), all computed with batches of one size.

    Raises:
        OutOfMemoryError: not even one picture fits.
    """
    while True:
        try:
            return _rows(map_batches(render, network.batch_size, compute), len(render), empty, progress)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if network.batch_size == 1:
                raise OutOfMemoryError(
                    f"{network.spec} does not fit into memory, not even with one picture at a time. Close other "
                    "programs, or choose a smaller backbone."
                ) from error
        network.halve_batches()
        free_memory()
        warn_of_memory(network.spec, network.batch_size)


def _rows(batches: Iterator[tuple[int, Rows]], total: int, empty: Rows, progress: Progress | None) -> Rows:
    """Put batches one below the other."""
    rows, done = empty, 0
    for start, part in batches:
        if not done:
            rows = np.empty((total, *part.shape[1:]), dtype=part.dtype)
        rows[start : start + len(part)] = part
        done += len(part)
        if progress is not None:
            progress(done, total)
    return rows


def map_batches(
    render: Sequence[Render], batch_size: int, compute: Callable[[NDArray[np.uint8]], Rows]
) -> Iterator[tuple[int, Rows]]:
    """Render batches of pictures and apply ``compute`` to each, in worker threads; yield results in order.

    Args:
        render: one function per picture.
        batch_size: pictures per batch; a short last batch is filled up by repeating its last picture, so that
            ``compute`` always sees the same shape and rounds the same way.
        compute: turns (batch_size, S, S, 3) uint8 into an array with one row per picture.

    Yields:
        (position of the batch's first picture, its rows), without the rows that were filled up.
    """
    import joblib

    def work(start: int) -> tuple[int, Rows]:
        interrupts.check()
        pictures = [make() for make in render[start : start + batch_size]]
        missing = batch_size - len(pictures)
        rows = compute(np.stack(pictures + [pictures[-1]] * missing))
        return start, rows[: batch_size - missing]

    n_workers = int(joblib.cpu_count())
    with workers(n_workers) as pool:
        waiting: deque[Future[tuple[int, Rows]]] = deque()
        starts = iter(range(0, len(render), batch_size))
        try:
            for start in starts:
                waiting.append(pool.submit(work, start))
                if len(waiting) >= 2 * n_workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def shifted(progress: Progress, offset: int, total: int) -> Progress:
    """Report a part's progress as progress of the whole: ``offset`` units were done before it."""
    return lambda done, _: progress(offset + done, total)
