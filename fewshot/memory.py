"""Memory that does not suffice: how it is recognised, and what is said about it."""

from __future__ import annotations

import gc
import warnings

# What CPU allocators say, in errors that are of no kind of their own: PyTorch's on Linux and Windows, and OpenVINO's.
_WORDS = ("can't allocate memory", "not enough memory", "out of memory", "failed to allocate", "bad_alloc")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory does not suffice, on a CPU or on a GPU."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS)


def free_memory() -> None:
    """Give back what is held and not used, so that the next attempt has it."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def warn_of_memory(what: str, batch_size: int) -> None:
    """Say that something goes on with smaller batches."""
    warnings.warn(
        f"Memory does not suffice: {what} goes on with {batch_size} pictures at a time, more slowly. Results differ "
        "in the last digits at most. Close other programs to avoid this.",
        RuntimeWarning,
        stacklevel=3,
    )
