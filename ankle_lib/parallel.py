"""One function over many tasks: on the cores of this machine, or on a cluster.

On one machine joblib does the work. If the environment variable ``ANKLE_DASK_SCHEDULER`` holds the
address of a ``dask.distributed`` scheduler, its workers do; they need the same version of this
package and must see the same files under the same paths. (joblib's own backend for dask waits for
ever where workers are lost again and again with the same task; this one says so.)
"""

import multiprocessing
import os
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import filelock
import joblib
from joblib.externals.loky.process_executor import TerminatedWorkerError
from tqdm.auto import tqdm

from ankle_lib.files import AnkleError

SCHEDULER_VARIABLE = "ANKLE_DASK_SCHEDULER"
"""Environment variable with the address of a scheduler, as in ``tcp://10.0.0.1:8786``."""

CONNECT_TIMEOUT_S = 20

Task = TypeVar("Task")
Result = TypeVar("Result")


def run_all(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    *,
    n_jobs: int | None = None,
    workers: Literal["processes", "threads"] = "processes",
    device: str = "cpu",
    desc: str = "",
) -> list[Result]:
    """Return ``[function(task) for task in tasks]``, several at a time.

    Parameters
    ----------
    function : callable
        Takes one task. For processes and clusters it, the tasks and the results must be
        picklable: a function of a module, or `functools.partial` of one.
    tasks : sequence
    n_jobs : int, optional
        Most tasks at a time on this machine, by default and at most the number of processor
        cores that may be used; the processes share these cores' threads. In a process that was
        itself started for a task there is one at a time. A cluster has its own number.
    workers : "processes" or "threads"
        Threads suit work that spends its time in numpy or torch and share memory. Ignored on a
        cluster.
    device : str
        Where the tasks compute. Those for a GPU are threads, which share what one process holds
        on it: while one computes there (see `turn_on`), others read, resample and write.
    desc : str
        What the tasks do. A bar of this name moves with every finished task; without a name there
        is none.

    Returns
    -------
    list
        In the order of ``tasks``, whichever finished first.

    Raises
    ------
    AnkleError
        If a worker process dies (on a cluster: if several die of the same task), or the cluster
        cannot be used. What ``function`` raises comes out as it is, and ends the other tasks;
        threads that are at work finish theirs first, so that nobody writes any more.
    """
    address = os.environ.get(SCHEDULER_VARIABLE, "").strip()
    if address:
        numbered = _on_cluster(address, function, tasks)
    else:
        # a worker has one core; with workers of its own it could not end before they do
        cores = 1 if multiprocessing.parent_process() else joblib.cpu_count()
        if device != "cpu":
            workers = "threads"
        jobs = max(1, min(n_jobs or cores, cores, len(tasks)))
        numbered = _on_this_machine(function, tasks, jobs, workers)
    bar = tqdm(numbered, total=len(tasks), desc=desc, disable=not desc)
    results = dict(bar)
    return [results[number] for number in range(len(tasks))]


def turn_on(device: str) -> AbstractContextManager[Any]:
    """Return the context in which a task has the GPU of this machine to itself; free on a CPU.

    Others wait, be they threads, processes or workers of a cluster, so that the memory of the GPU
    has to hold the work of one. A thread may ask for a turn that it has.
    """
    return nullcontext() if device == "cpu" else _GPU


@contextmanager
def enough_memory(advice: str = "end what else uses it") -> Iterator[None]:
    """Refuse what a GPU's memory does not hold with an `AnkleError` that gives this advice."""
    try:
        yield
    except RuntimeError as error:  # PyTorch's, or CUDA's own
        if "out of memory" not in str(error):
            raise
        found = str(error).splitlines()[0][:120]
        raise AnkleError(f"the GPU: {found}…: {advice}, or compute on device cpu") from None


@enough_memory()
def in_batches(work: Callable[..., Result], *tensors: Any, at_once: int) -> list[Result]:
    """Return ``work(*rows)`` for so many rows of some tensors at a time.

    If a GPU's memory does not hold so many, all is done again with half of them, which is said.

    Parameters
    ----------
    work : callable
        Takes as many tensors, and leaves them as they are.
    tensors : Tensor
        All of one length.
    at_once : int

    Raises
    ------
    AnkleError
        If the memory does not hold a single row.
    """
    at_once = min(at_once, max(1, len(tensors[0])))
    try:
        parts = zip(*(tensor.split(at_once) for tensor in tensors), strict=True)
        return [work(*rows) for rows in parts]
    except RuntimeError as error:
        if "out of memory" not in str(error) or at_once == 1:
            raise
    warnings.warn(f"the GPU's memory is full: now {at_once // 2} at a time", stacklevel=3)
    return in_batches(work, *tensors, at_once=at_once // 2)


# a name of one's own: another user's file could not be opened
_GPU_LOCK = Path(tempfile.gettempdir()) / f"ankle_lib-gpu-{os.getuid()}.lock"
_GPU = filelock.FileLock(_GPU_LOCK)


def _on_this_machine(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    jobs: int,
    workers: Literal["processes", "threads"],
) -> Iterator[tuple[int, Result]]:
    # said explicitly, since joblib would let every process have as many threads as
    # OMP_NUM_THREADS promises to one
    options = {"inner_max_num_threads": max(1, joblib.cpu_count() // jobs)}
    backend = {"processes": "loky", "threads": "threading"}[workers]
    with joblib.parallel_config(backend, **(options if workers == "processes" else {})):
        parallel = joblib.Parallel(jobs, return_as="generator_unordered")
    slots = threading.Semaphore(jobs)
    numbered = partial(_in_slot, slots) if workers == "threads" else _numbered
    calls = (joblib.delayed(numbered)(function, *pair) for pair in enumerate(tasks))
    try:
        with warnings.catch_warnings():
            # workers that have grown are replaced, which is no news for whoever waits
            warnings.filterwarnings("ignore", "A worker stopped while some jobs were given")
            yield from parallel(calls)
    except TerminatedWorkerError:
        raise AnkleError(
            f"a worker process was killed, perhaps for want of memory: run fewer than {jobs} tasks "
            "at a time (n_jobs)"
        ) from None
    finally:
        for _ in range(jobs):  # until no thread is at work, and so that none begins anew
            slots.acquire()


def _in_slot(slots: threading.Semaphore, *call: Any) -> tuple[int, Any]:
    with slots:
        return _numbered(*call)


def _numbered(function: Callable[[Task], Result], number: int, task: Task) -> tuple[int, Result]:
    return number, function(task)


def _on_cluster(
    address: str, function: Callable[[Task], Result], tasks: Sequence[Task]
) -> Iterator[tuple[int, Result]]:
    try:
        import distributed  # only those who have a cluster need it
    except ImportError:
        raise AnkleError(
            f'{SCHEDULER_VARIABLE} is set, but dask is not installed: pip install "ankle-lib'
            f'[cluster]", or unset {SCHEDULER_VARIABLE}'
        ) from None
    with _connected(distributed, address) as client:
        # without retries: dask repeats what a lost worker had, an error would only come again
        futures = client.map(function, tasks, pure=False)
        numbers = {future.key: number for number, future in enumerate(futures)}
        try:
            for future in distributed.as_completed(futures, loop=client.loop):
                yield numbers[future.key], future.result()
        except distributed.scheduler.KilledWorker as error:
            raise AnkleError(
                f"several workers of {address} were lost with the same task, perhaps for want of "
                f"memory ({error})".replace("\n", " ")
            ) from None
        finally:
            client.cancel(futures)


def _connected(distributed: Any, address: str) -> Any:
    try:
        return distributed.Client(address, timeout=CONNECT_TIMEOUT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise AnkleError(
            f"{SCHEDULER_VARIABLE}={address}: no scheduler answers ({reason}): start one with "
            f"`dask scheduler`, or unset {SCHEDULER_VARIABLE}"
        ) from None
