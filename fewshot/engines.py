"""Engines: where a benchmark's cells run. All give the same results, in any order.

``local`` is this process, with threads; ``joblib`` is processes on this machine; ``ray`` is actors on a cluster, or on
this machine. A worker of the latter two keeps the features or the backbone of its task from one cell to the next.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import os
import signal
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from typing import Any, Protocol

import cloudpickle
import joblib
import numpy as np

from fewshot.errors import EngineError, FewshotError, InvalidInputError, MissingExtraError
from fewshot.interrupts import kept_handlers
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
    check_jobs(n_jobs)
    if address is not None and name != "ray":
        raise InvalidInputError(f"address={address!r} is for the engine 'ray', and the engine is {name!r}.")
    count = n_jobs or int(joblib.cpu_count())
    if name == "local":
        return LocalEngine(count)
    return JoblibEngine(count) if name == "joblib" else RayEngine(count, address)


def check_jobs(n_jobs: object) -> None:
    """Refuse a number of workers that is not a positive whole number, or none.

    Raises:
        InvalidInputError: with what is needed.
    """
    if n_jobs is not None and (isinstance(n_jobs, bool) or not isinstance(n_jobs, (int, np.integer)) or n_jobs < 1):
        raise InvalidInputError(f"n_jobs={n_jobs!r}: needs a whole number of at least 1.")


class LocalEngine:
    """Cells in threads of this process."""

    def __init__(self, n_threads: int) -> None:
        self.n_threads = n_threads

    def run(self, task: Task, cells: Sequence[Cell]) -> Iterator[Record]:
        """See :class:`Engine`."""
        # The first cell alone: it makes what the others share.
        yield task.run(cells[0])
        with workers(self.n_threads) as pool:
            waiting = [pool.submit(task.run, cell) for cell in cells[1:]]
            try:
                yield from (future.result() for future in as_completed(waiting))
            finally:
                # Whoever stops listening does not want the rest.
                pool.shutdown(wait=True, cancel_futures=True)

    def close(self) -> None:
        """See :class:`Engine`."""


class JoblibEngine:
    """Cells in processes on this machine; features are shared through a memory map."""

    def __init__(self, n_jobs: int) -> None:
        self.n_jobs = n_jobs

    def run(self, task: Task, cells: Sequence[Cell]) -> Iterator[Record]:
        """See :class:`Engine`."""
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        # A terminal sends Ctrl-C to the workers as well. This process ends them; they would only tell, at whatever step
        # they are, that they were interrupted.
        deaf = functools.partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
        parallel = joblib.Parallel(n_jobs=self.n_jobs, return_as="generator_unordered", initializer=deaf)
        with tempfile.TemporaryDirectory(prefix="fewshot-", ignore_cleanup_errors=True) as folder:
            path = os.path.join(folder, "task")
            _write_task(task, path)
            try:
                yield from parallel(joblib.delayed(_run_written)(path, task.key, cell) for cell in cells)
            except TerminatedWorkerError:
                raise EngineError(
                    "A worker process was killed, perhaps for want of memory. What was finished is kept where a folder "
                    "was given: go on with --resume (resume=True), with fewer --jobs if memory is short."
                ) from None

    def close(self) -> None:
        """See :class:`Engine`."""


def _write_task(task: Task, path: str) -> None:
    """Write a task once for all workers; sending it with each cell would cost more than the cell."""
    bare = copy.copy(task)
    features = getattr(task, "features", None)
    if features is not None:
        bare.features = None  # type: ignore[attr-defined]
    try:
        # Classifiers of a script or a notebook are in no module that a worker could import.
        joblib.dump((cloudpickle.dumps(bare), features), path)
    except OSError as error:
        raise EngineError(f"{path} cannot be written: {error.strerror}. Set TMPDIR to a folder with room.") from error


def _read_task(path: str) -> Task:
    # Copy on write: torch wants arrays that can be written.
    blob, features = joblib.load(path, mmap_mode="c")
    task: Task = cloudpickle.loads(blob)
    if features is not None:
        task.features = features  # type: ignore[attr-defined]
    return task


def _run_written(path: str, key: str, cell: Cell) -> Record:
    """Run a cell of a task that lies in a file."""
    return run_cell(lambda: _read_task(path), key, cell)


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
            try:
                with kept_handlers():
                    ray.init(address=address, log_to_driver=False, logging_level="ERROR", **local)
            # Ray raises its own kinds, ConnectionError and ValueError here.
            except Exception as error:
                raise EngineError(
                    f"Ray could not be started at {address or 'this machine'}: {_first(error)}"
                ) from error
        try:
            # An actor beyond the free processors would wait for ever, and its cell with it.
            n_workers = max(1, min(n_jobs, int(ray.available_resources().get("CPU", 1))))
            # A cell that kills its worker time after time is not tried for ever.
            worker = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=3)(_Worker)
            self._workers = [worker.remote() for _ in range(n_workers)]
        except BaseException:
            if self._started:
                ray.shutdown()
            raise

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
            try:
                record = ray.get(done)
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, FewshotError):
                    raise error.cause from None
                raise EngineError(f"A Ray worker failed: {_first(error.cause)}") from error
            except ray.exceptions.RayError as error:
                raise EngineError(
                    f"A Ray worker was lost: {_first(error)} Finished cells are kept where a folder was given: go on "
                    "with --resume (resume=True)."
                ) from error
            yield record

    def close(self) -> None:
        """See :class:`Engine`."""
        if self._started:
            # Its workers go with it; killed one by one, they would be mourned on standard output.
            self._ray.shutdown()
            return
        for worker in self._workers:
            with contextlib.suppress(Exception):
                self._ray.kill(worker)


def _first(error: BaseException) -> str:
    """First line of an error's message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


class _Worker:
    """What runs in an actor's process."""

    def run(self, task: Task, cell: Cell) -> Record:
        return run_cell(lambda: task, task.key, cell)
