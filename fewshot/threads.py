"""One thread inside torch per worker: the cores are shared between batches, not within one.

That is faster for small batches, and sums are added in the same order on every machine and number of workers. Torch
keeps two numbers of threads: OpenMP's, of the calling thread, and the process's, which MKL and new threads take. The
first is put back by each who lowered it, the second by the last of them.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

_LOCK = threading.Lock()
_users = 0
_process_threads = 1


@contextlib.contextmanager
def single_thread() -> Iterator[None]:
    """Let torch compute with one thread, here and in threads begun meanwhile."""
    global _users, _process_threads  # it mirrors a setting of the process
    import torch

    mine = torch.get_num_threads()
    with _LOCK:
        if _users == 0:
            _process_threads = mine
        _users += 1
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _LOCK:
            _users -= 1
            torch.set_num_threads(mine)
            # From another thread, so that this one's own number stays.
            setter = threading.Thread(target=torch.set_num_threads, args=(1 if _users else _process_threads,))
            setter.start()
            setter.join()


@contextlib.contextmanager
def workers(count: int) -> Iterator[ThreadPoolExecutor]:
    """Start threads, each of which computes with one thread inside torch."""
    import torch

    with single_thread(), ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield pool
