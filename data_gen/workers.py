"""Processes that share a list of jobs."""

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from typing import TypeVar

import torch

from utils.errors import DataError

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")


@contextlib.contextmanager
def pool(workers: int) -> Iterator[ProcessPoolExecutor | None]:
    """Processes of their own (spawned: GDAL and torch don't like to be forked); None where one is enough."""
    if workers <= 1:
        yield None
        return
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_start)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def run_jobs(
    executor: ProcessPoolExecutor | None, function: Callable[[Job], Outcome], jobs: Sequence[Job]
) -> Iterator[tuple[Job, Outcome]]:
    """(job, what the function gave back) as they are done, in any order."""
    if executor is None:
        yield from ((job, function(job)) for job in jobs)
        return
    futures = {executor.submit(function, job): job for job in jobs}
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise DataError("a worker process died, perhaps for lack of memory; try fewer --workers") from error
    finally:
        for future in futures:
            future.cancel()


def cores() -> int:
    """How many processes this one may keep busy."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def quiet() -> None:
    """What GDAL has to say of a file becomes a reason in the manifest; it needn't be on the screen too."""
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)


def _start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process decides
    torch.set_num_threads(1)
    quiet()
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=[parent], daemon=True).start()


def _end_with(process: BaseProcess) -> None:
    """Don't outlive a main process that was killed."""
    process.join()
    os._exit(1)
