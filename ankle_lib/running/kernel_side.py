"""What runs inside a chapter's kernel: a watch over hidden errors, and a report at the end.

An error in a cell stops the run by itself. Others hide: ipywidgets prints the traceback of a
failed callback into a cell or an ``Output`` widget and goes on; the comm manager and asyncio
only log; a thread only prints. `start` listens at these four doors, `errors` tells what was
heard. The module uses the standard library alone, so that a kernel starts fast.
"""

import gc
import json
import logging
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

# loggers that receive exceptions which nobody else sees
_LOGGERS = ("Comm", "ipykernel.comm", "asyncio", "tornado.application")

_errors: list[dict[str, str]] = []
_inputs: set[str] = set()


def start() -> None:
    """Listen for errors that do not stop a cell, from now on."""
    from IPython import get_ipython  # only exists where there is a kernel

    shell: Any = get_ipython()
    shell.showtraceback = _recording(shell.showtraceback)
    for name in _LOGGERS:
        logging.getLogger(name).addHandler(_Listener(logging.ERROR))
    threading.excepthook = _recording_thread(threading.excepthook)


def note_input(chapter: str) -> None:
    """Remember that this kernel's chapter reads the results of ``chapter``."""
    _inputs.add(chapter)


def errors() -> str:
    """Return JSON: the errors heard until now, each with ``type``, ``text`` and ``heard_at``."""
    gc.collect()  # a failed asyncio task is logged when it is collected
    return json.dumps(_errors)


def report() -> str:
    """Return JSON: ``inputs`` read, ``modules`` of ankle_lib imported, peaks of memory in MiB."""
    return json.dumps(
        {
            "inputs": sorted(_inputs),
            "modules": sorted(name for name in sys.modules if name.split(".")[0] == "ankle_lib"),
            "peak_rss_mb": _peak_rss_mb(),
            "peak_gpu_mb": _peak_gpu_mb(),
        }
    )


class _Listener(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            _note(record.exc_info[1], record.name)


def _recording(showtraceback: Callable[..., Any]) -> Callable[..., Any]:
    def show(
        exc_tuple: tuple[type, BaseException, TracebackType] | None = None,
        *args: Any,
        **options: Any,
    ) -> Any:
        error = (exc_tuple or sys.exc_info())[1]
        if error is not None:
            _note(error, "traceback")
        return showtraceback(exc_tuple, *args, **options)

    return show


def _recording_thread(hook: Callable[..., Any]) -> Callable[..., Any]:
    def excepthook(args: threading.ExceptHookArgs, /) -> None:
        if args.exc_value is not None:
            _note(args.exc_value, "thread")
        hook(args)

    return excepthook


def _note(error: BaseException, heard_at: str) -> None:
    _errors.append({"type": type(error).__name__, "text": str(error), "heard_at": heard_at})


def _peak_rss_mb() -> float | None:
    # VmHWM, not getrusage: ru_maxrss of a young process still holds its parent's peak
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            line = next(line for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return None
    return int(line.split()[1]) / 1024


def _peak_gpu_mb() -> float:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0.0
    devices = range(torch.cuda.device_count())
    return sum(torch.cuda.max_memory_reserved(device) for device in devices) / 2**20
