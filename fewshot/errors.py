"""Every error this package raises on purpose.

::

    FewshotError
    ├── UnknownNameError      (ValueError)    a backbone, head, policy or strategy nobody registered
    ├── InvalidInputError     (ValueError)    an argument outside its range, or arrays that do not fit
    ├── ImageError            (ValueError)    one image that cannot be used; has ``code`` and ``source``
    ├── DatasetError          (ValueError)    a folder, CSV or list from which nothing can be learned
    │   └── ArchiveError                      an archive that is damaged or not safe to unpack; has ``code``
    ├── FeatureError          (RuntimeError)  a backbone whose features cannot be used
    ├── WeightsNotFoundError  (RuntimeError)  pretrained weights that are neither here nor reachable
    ├── ModelFileError        (RuntimeError)  a model folder that cannot or must not be loaded
    ├── EngineError           (RuntimeError)  workers that were lost while they computed
    ├── OutOfMemoryError      (MemoryError)   a network that does not fit into memory with a single picture
    ├── JournalError          (RuntimeError)  a benchmark's journal that cannot be read or continued
    ├── OutputError           (RuntimeError)  a file or folder that cannot be written
    └── MissingExtraError     (ImportError)   an optional dependency, with the command that installs it

A message says what was received, what was needed, and what to do next.
"""

from __future__ import annotations


class FewshotError(Exception):
    """Base of all errors raised on purpose by this package."""


class UnknownNameError(FewshotError, ValueError):
    """A name that is in no table. The message lists the closest ones."""


class InvalidInputError(FewshotError, ValueError):
    """An argument outside its range, or arrays that do not fit together."""


class ImageError(FewshotError, ValueError):
    """One image that cannot be used.

    Attributes:
        code: a stable reason such as ``"TRUNCATED"`` (see ``fewshot.images.reader``).
        source: the path, or a short description of the object, that was read.
    """

    def __init__(self, code: str, source: str, message: str) -> None:
        super().__init__(f"{source}: {message} [{code}]")
        self.code = code
        self.source = source
        self.message = message

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str, str]]:
        return type(self), (self.code, self.source, self.message)


class DatasetError(FewshotError, ValueError):
    """A folder, CSV or list from which nothing can be learned."""


class FeatureError(FewshotError, RuntimeError):
    """A backbone whose features cannot be used: not finite, or the same for every image."""


class ArchiveError(DatasetError):
    """An archive that is damaged, or that must not be unpacked.

    Attributes:
        code: a stable reason such as ``"UNSAFE_NAME"`` (see ``fewshot.images.archive``).
        source: the archive's path.
    """

    def __init__(self, code: str, source: str, message: str) -> None:
        super().__init__(f"{source}: {message} [{code}]")
        self.code = code
        self.source = source
        self.message = message

    def __reduce__(self) -> tuple[type[ArchiveError], tuple[str, str, str]]:
        return type(self), (self.code, self.source, self.message)


class WeightsNotFoundError(FewshotError, RuntimeError):
    """Pretrained weights that are neither on this machine nor reachable."""


class ModelFileError(FewshotError, RuntimeError):
    """A model folder that cannot, or must not, be loaded."""


class EngineError(FewshotError, RuntimeError):
    """Workers that were lost while they computed."""


class OutOfMemoryError(FewshotError, MemoryError):
    """A network that does not fit into memory, not even with a single picture."""


class JournalError(FewshotError, RuntimeError):
    """A benchmark's journal that cannot be read, or must not be continued."""


class OutputError(FewshotError, RuntimeError):
    """A file or folder that cannot be written."""


class MissingExtraError(FewshotError, ImportError):
    """An optional dependency that is not installed."""
