"""One thread inside torch per worker: the cores are shared between batches, not within one.

That is faster for small batches, and sums are added in the same order on every machine and number of workers. Torch's
number of threads belongs to the whole process, so it is lowered by the first who asks and put back by the last.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

_LOCK = threading.Lock()
_users = 0
_before = 1


@contextlib.contextmanager
def single_thread() -> Iterator[None]:
    """Let torch compute with one thread, here and in threads begun meanwhile."""
    global _users, _before
    import torch

    with _LOCK:
        if _users == 0:
            _before = torch.get_num_threads()
        _users += 1
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _LOCK:
            _users -= 1
            if _users == 0:
                torch.set_num_threads(_before)


@contextlib.contextmanager
def workers(count: int) -> Iterator[ThreadPoolExecutor]:
    """Start threads, each of which computes with one thread inside torch."""
    import torch

    with single_thread(), ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield pool
