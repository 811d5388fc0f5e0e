"""One notebook, executed by papermill in this interpreter's own kernel, with every error found.

papermill alone would use whatever kernel is registered as ``python3``, end with success when an
error hides in a widget's callback or a cell calls ``sys.exit(0)``, wait for ever for a kernel that
has lost a request, and know nothing of memory.
"""

import ast
import json
import logging
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import joblib
import papermill
import psutil
from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager, KernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines

import ankle_lib

SAMPLE_S = 0.2
"""Between two looks at a kernel's memory and heartbeat."""
ANSWER_S = 60.0
"""A kernel that is alive takes up requests, and replies to what it has done, within this time."""
KERNEL_START_S = 120  # a busy two-core machine needs tens of seconds to import IPython


class NotebookError(Exception):
    """A notebook did not run to its end without error; the message is one line."""


@dataclass
class Execution:
    """What an executed notebook reported.

    Attributes
    ----------
    peak_rss_mb
        Largest resident memory of the kernel together with its child processes, MiB.
    peak_gpu_mb
        Largest GPU memory that torch held in the kernel, MiB; 0 without a GPU.
    inputs
        Names of the chapters whose results it read.
    modules
        Names of the modules of ``ankle_lib`` that it imported.
    silent
        Whether its kernel lived but answered no more, and was ended.
    """

    peak_rss_mb: float = 0.0
    peak_gpu_mb: float = 0.0
    inputs: list[str] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    silent: bool = False


def execute_notebook(
    notebook: Path,
    output: Path,
    parameters: dict[str, Any],
    *,
    environment: dict[str, str] | None = None,
) -> Execution:
    """Execute ``notebook`` in its own folder, as JupyterLab would, and write it to ``output``.

    Parameters
    ----------
    output
        Written after every cell, so it also holds what was done when an error is raised.
    environment
        Further environment variables of the kernel.

    Raises
    ------
    NotebookError
        If a cell fails, if an error hides in a callback, if the notebook ends early, or if the
        kernel dies or answers no more. A cell may compute for as long as it wants.
    """
    execution = Execution()
    try:
        executed = papermill.execute_notebook(
            plain(notebook),
            plain(output),
            parameters,
            engine_name=_Engine.name,
            kernel_name="python3",
            # on a terminal alone, and gone at the end
            progress_bar={"desc": notebook.stem, "leave": False, "disable": None},
            start_timeout=KERNEL_START_S,
            cwd=notebook.parent,
            environment=environment or {},
            execution=execution,
        )
    except papermill.PapermillExecutionError as error:
        text = _one_line({"type": error.ename, "text": error.evalue})
        raise NotebookError(f"In [{error.exec_count}]: {text}") from None
    except (DeadKernelError, CellTimeoutError) as error:
        raise NotebookError(
            f"the kernel lives but did not answer for {ANSWER_S:.0f} s and was ended: run again"
            if execution.silent or isinstance(error, CellTimeoutError)
            else "the kernel died (killed, perhaps for want of memory: "
            f"its largest was {execution.peak_rss_mb:.0f} MB)"
        ) from None
    except RuntimeError as error:  # the kernel did not start
        raise NotebookError(_one_line({"type": "kernel", "text": str(error)})) from None
    if executed.metadata.papermill.exception:  # papermill lets sys.exit(0) pass
        raise NotebookError("the notebook ended itself before its last cell")
    return execution


def plain(path: Path) -> str:
    """Return a path for papermill, which would fill in parameters between braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


class _Client(PapermillNotebookClient):
    """papermill's client with our kernel, our environment, and a watch over the kernel.

    A thread samples the kernel's memory, and ends the kernel if it answers no more. That is judged
    by what a kernel does at any time, even while a cell computes for hours: its heart beats. While
    it is idle, it takes up a request and replies to it.
    """

    def __init__(
        self,
        nb_man: Any,
        *,
        environment: dict[str, str],
        execution: Execution,
        **options: Any,
    ) -> None:
        super().__init__(nb_man, **options)
        self._environment, self._execution = environment, execution
        self._expecting, self._silent_s = False, 0.0
        self._end = threading.Event()

    def create_kernel_manager(self) -> KernelManager:
        self.km = AsyncKernelManager(
            kernel_name=self.kernel_name, kernel_spec_manager=_OwnInterpreter(), config=self.config
        )
        return self.km

    def execute(self, **options: Any) -> NotebookNode:
        try:
            return super().execute(env=_kernel_environment(self._environment), **options)
        finally:
            self._end.set()

    def papermill_execute_cells(self) -> None:
        watch = threading.Thread(target=self._sample, daemon=True)
        watch.start()
        try:
            self._evaluate("start()")
            super().papermill_execute_cells()
            report = json.loads(self._evaluate("report()"))
        except KeyboardInterrupt:
            self.shutdown_kernel = "immediate"  # or it complains while it is shut down
            raise
        report["peak_rss_mb"] = max(self._execution.peak_rss_mb, report["peak_rss_mb"] or 0)
        vars(self._execution).update(report)
        self._expect_answer()  # to papermill's last request

    def process_message(self, msg: Any, cell: NotebookNode, cell_index: int) -> Any:
        if msg["msg_type"] == "status":
            self._expect_answer(msg["content"]["execution_state"] != "busy")  # at work
        return super().process_message(msg, cell, cell_index)

    def execute_cell(self, cell: NotebookNode, cell_index: int, **options: Any) -> NotebookNode:
        if cell.cell_type == "code":
            self._expect_answer()
        executed = super().execute_cell(cell, cell_index, **options)
        self._expect_answer(False)
        if cell.cell_type == "code":
            hidden = json.loads(self._evaluate("errors()"))
            if hidden:
                raise NotebookError(
                    f"In [{cell.execution_count}]: {_one_line(hidden[0])} "
                    f"(in a callback, task or thread; heard at {hidden[0]['heard_at']})"
                )
        return executed

    def _evaluate(self, call: str) -> Any:
        """Return the value of ``kernel_side.<call>`` in the kernel, unseen by the notebook."""
        expression = f"__import__('ankle_lib.running.kernel_side', fromlist=['*']).{call}"
        message = self.kc.execute(
            "", silent=True, store_history=False, user_expressions={"value": expression}
        )
        self._expect_answer()
        value = self.wait_for_reply(message)["content"]["user_expressions"]["value"]
        self._expect_answer(False)
        if value["status"] != "ok":
            raise NotebookError(f"the kernel cannot watch itself: {value['evalue']}")
        return ast.literal_eval(value["data"]["text/plain"])

    def _expect_answer(self, soon: bool = True) -> None:
        """Note that the kernel is idle and is to answer; or, if not soon, that it is at work."""
        self._expecting, self._silent_s = soon, 0.0

    def _sample(self) -> None:
        pid, heart = self.km.provisioner.pid, self.kc.hb_channel  # type: ignore[union-attr]
        while not self._end.wait(SAMPLE_S):
            # looks are counted, not time: this process may be stopped for a while, too
            silent = self._expecting or not heart.is_beating()
            self._silent_s = self._silent_s + SAMPLE_S if silent else 0.0
            try:
                kernel = psutil.Process(pid)
                family = (kernel, *kernel.children(recursive=True))
                memory_mb = sum(process.memory_info().rss for process in family) / 2**20
                self._execution.peak_rss_mb = max(self._execution.peak_rss_mb, memory_mb)
                if self._silent_s > ANSWER_S and not self._execution.silent:
                    self._execution.silent = True
                    kernel.kill()  # which nbclient notices
            except psutil.Error:  # the kernel, or a child, has just ended
                continue


class _Engine(NBClientEngine):
    name = "ankle"

    @classmethod
    def execute_managed_notebook(
        cls, nb_man: Any, kernel_name: str, start_timeout: int = KERNEL_START_S, **options: Any
    ) -> NotebookNode:
        ours = ("environment", "execution")
        return _Client(
            nb_man,
            kernel_name=kernel_name,
            startup_timeout=start_timeout,
            timeout=None,
            iopub_timeout=int(ANSWER_S),
            log=logging.getLogger("papermill"),
            **{name: options[name] for name in ours},
        ).execute()


papermill_engines.register(_Engine.name, _Engine)


class _OwnInterpreter(KernelSpecManager):
    """Offers this interpreter's ipykernel, whatever the user registered as ``python3``."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        # a local kernel behind a random key needs no advice on encryption at every start
        quiet = ["--IPKernelApp.log_level=ERROR"]
        return KernelSpec(resource_dir=RESOURCES, **get_kernel_dict(extra_arguments=quiet))


def _kernel_environment(further: dict[str, str]) -> dict[str, str]:
    environment = {**os.environ, **further}
    environment["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    environment["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # silences the debugger at start
    # as many threads as this process may use (affinity, quota), unless the user chose; the same
    # for both, since PyTorch would take MKL's number whatever OpenMP's is
    variables = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    chosen = [environment[one] for one in variables if one in environment]
    for variable in variables:
        environment.setdefault(variable, (chosen or [str(joblib.cpu_count())])[0])
    # the kernel must import the same ankle_lib as this process
    package_parent = str(Path(ankle_lib.__file__).parents[1])
    paths = [package_parent, *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    return environment


def _one_line(error: dict[str, str]) -> str:
    line = " ".join(f"{error['type']}: {error['text']}".split())
    return line if len(line) <= 300 else line[:299] + "…"
