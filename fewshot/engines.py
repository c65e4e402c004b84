"""Engines: where a benchmark's cells run. All give the same results, in any order.

``local`` is this process, with threads; ``joblib`` is processes on this machine; ``ray`` is actors on a cluster, or on
this machine. A worker of the latter two keeps the features or the backbone of its task from one cell to the next.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import joblib

from fewshot.errors import EngineError, InvalidInputError, MissingExtraError
from fewshot.journal import Record
from fewshot.names import unknown_name
from fewshot.tasks import Cell, Task, run_cell
from fewshot.threads import workers

ENGINES = ("local", "joblib", "ray")


class Engine(Protocol):
    """Runs cells."""

    def run(self, task: Task, cells: Sequence[Cell]) -> Iterator[Record]:
        """Yield the record of every cell as it is finished, in any order."""

    def close(self) -> None:
        """Let the workers go."""


def make_engine(name: str, *, n_jobs: int | None = None, address: str | None = None) -> Engine:
    """Start an engine.

    Args:
        name: one of :data:`ENGINES`.
        n_jobs: threads, processes or actors; by default one per core.
        address: of a Ray cluster; by default a fresh local one.

    Raises:
        UnknownNameError: no such engine.
        InvalidInputError: ``n_jobs`` below 1, or an address for another engine than Ray.
        MissingExtraError: Ray is not installed.
    """
    if name not in ENGINES:
        raise unknown_name("engine", name, ENGINES)
    if n_jobs is not None and (isinstance(n_jobs, bool) or n_jobs < 1):
        raise InvalidInputError(f"n_jobs={n_jobs}: needs at least 1.")
    if address is not None and name != "ray":
        raise InvalidInputError(f"address={address!r} is for the engine 'ray', and the engine is {name!r}.")
    count = n_jobs or int(joblib.cpu_count())
    if name == "local":
        return LocalEngine(count)
    return JoblibEngine(count) if name == "joblib" else RayEngine(count, address)


class LocalEngine:
    """Cells in threads of this process."""

    def __init__(self, n_threads: int) -> None:
        self.n_threads = n_threads

    def run(self, task: Task, cells: Sequence[Cell]) -> Iterator[Record]:
        """See :class:`Engine`."""
        # The first cell alone: it makes what the others share.
        yield task.run(cells[0])
        with workers(self.n_threads) as pool:
            try:
                yield from pool.map(task.run, cells[1:])
            finally:
                # Whoever stops listening does not want the rest.
                pool.shutdown(wait=True, cancel_futures=True)

    def close(self) -> None:
        """See :class:`Engine`."""


class JoblibEngine:
    """Cells in processes on this machine; large arrays are shared through memory maps."""

    def __init__(self, n_jobs: int) -> None:
        self._parallel = joblib.Parallel(n_jobs=n_jobs, return_as="generator_unordered")

    def run(self, task: Task, cells: Sequence[Cell]) -> Iterator[Record]:
        """See :class:`Engine`."""
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        try:
            yield from self._parallel(joblib.delayed(run_cell)(task, cell) for cell in cells)
        except TerminatedWorkerError:
            raise EngineError(
                "A worker process was killed, perhaps for want of memory. What was finished is kept where a folder was "
                "given: go on with --resume (resume=True), with fewer --jobs if memory is short."
            ) from None

    def close(self) -> None:
        """See :class:`Engine`."""


class RayEngine:
    """Cells in Ray actors, on a cluster or on this machine. A lost actor is started again, its cell with it."""

    def __init__(self, n_jobs: int, address: str | None) -> None:
        try:
            ray: Any = importlib.import_module("ray")
        except ImportError:
            raise MissingExtraError("The engine 'ray' needs Ray. Run: pip install 'fewshot[ray]'") from None
        self._ray = ray
        self._started = not ray.is_initialized()
        if self._started:
            local = {} if address else {"num_cpus": n_jobs, "include_dashboard": False}
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", **local)
        worker = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)(_Worker)
        self._workers = [worker.remote() for _ in range(n_jobs)]

    def run(self, task: Task, cells: Sequence[Cell]) -> Iterator[Record]:
        """See :class:`Engine`."""
        ray, shared = self._ray, self._ray.put(task)
        waiting = iter(cells)
        running = {
            worker.run.remote(shared, cell): worker for worker, cell in zip(self._workers, waiting, strict=False)
        }
        while running:
            (done, *_), _ = ray.wait(list(running), num_returns=1)
            worker = running.pop(done)
            # Given work before its result is fetched, so that it does not wait for the journal.
            for cell in waiting:
                running[worker.run.remote(shared, cell)] = worker
                break
            yield ray.get(done)

    def close(self) -> None:
        """See :class:`Engine`."""
        for worker in self._workers:
            with contextlib.suppress(Exception):
                self._ray.kill(worker)
        if self._started:
            self._ray.shutdown()


class _Worker:
    """What runs in an actor's process."""

    def run(self, task: Task, cell: Cell) -> Record:
        return run_cell(task, cell)
