"""One thread inside torch per worker: the cores are shared between batches, not within one.

That is faster for small batches, and sums are added in the same order on every machine and number of workers. Torch
keeps two numbers of threads: OpenMP's, of the calling thread, and the process's, which MKL and new threads take. The
first is put back by each who lowered it, the second by the last of them: until then it stays at one, since whoever
still computes would see it change.
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
    from threadpoolctl import threadpool_limits

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
            if _users:
                # Torch's own function would raise the process's number, too.
                threadpool_limits(mine, user_api="openmp")
            else:
                torch.set_num_threads(mine)
                # From another thread, so that this one's own number stays.
                setter = threading.Thread(target=torch.set_num_threads, args=(_process_threads,))
                setter.start()
                setter.join()


@contextlib.contextmanager
def workers(count: int) -> Iterator[ThreadPoolExecutor]:
    """Start threads, each of which computes with one thread inside torch."""
    with single_thread(), ThreadPoolExecutor(count, initializer=_stay_alone) as pool:
        yield pool


def _stay_alone() -> None:
    """Take one thread for this thread's part, whatever others do to the process's number later."""
    import torch

    # A thread takes the process's number when torch first computes in it, and asking makes that be now.
    torch.get_num_threads()
    torch.set_num_threads(1)
