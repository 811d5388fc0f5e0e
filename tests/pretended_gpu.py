"""A GPU that is not there: tensors of the CPU that pretend to lie on "cuda".

Numbers are real. What a GPU would refuse is refused (`Mistake`): tensors of two devices in one
operation, a generator of the other device, numpy of what lies on the GPU. What costs time there is
counted: kernels launched, copies from and to it, and how often the processor waits for it.

Which tensors lie on the GPU is known by their storages, so a view lies where its base does.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import torch._dynamo  # which a mode needs, before anything is replaced
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)

COPIES = {"_to_copy", "copy_", "_foreach_copy_"}
"""May take tensors of two devices."""

WAITS = {
    *("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select"),
    *("_unique2", "unique_dim", "unique_consecutive", "linalg_matrix_exp", "_linalg_check_errors"),
}
"""The processor must know their result, or its size, before it can go on."""

INDEXING = {"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_"}

NO_KERNEL = ("empty", "new_empty", "_unsafe_view", "set_", "is_same_size")
"""Beginnings of names of operations that start nothing on a GPU, as views do."""

RealGenerator = torch.Generator


class Mistake(RuntimeError):
    """What would fail on a GPU."""


class _GpuGenerator(RealGenerator):
    device = GPU


def _generator(device: Any = "cpu") -> torch.Generator:
    return _GpuGenerator() if torch.device(device).type == "cuda" else RealGenerator()


class PretendedGpu(TorchDispatchMode):
    """Knows what lies on the GPU, and counts.

    Attributes
    ----------
    launches, copies, waits : Counter
        Of places in the library (module and line) and operations.
    entered : set of str
        Functions of the library in which something happened on the GPU, as "metrics.dice".
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches, self.copies, self.waits = Counter(), Counter(), Counter()
        self.entered: set[str] = set()
        self._there: dict[int, StorageWeakRef] = {}

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor lies on the GPU."""
        known = self._there.get(tensor.untyped_storage()._cdata)
        return known is not None and not known.expired()

    def put(self, tensor: Tensor, there: bool) -> Tensor:
        """Let a tensor, and its views, lie on the GPU or not."""
        storage = tensor.untyped_storage()
        self._there.pop(storage._cdata, None)
        if there:
            self._there[storage._cdata] = StorageWeakRef(storage)
        return tensor

    def count(self, what: Counter, operation: str) -> None:
        """Count an operation at the line of the library that asked for it."""
        frame, place = sys._getframe(1), ""
        while frame is not None:
            before, _, file = frame.f_code.co_filename.rpartition("/ankle_lib/")
            if before:
                place = place or f"{file}:{frame.f_lineno}"
                module = file.removesuffix(".py").replace("/", ".")
                self.entered.add(f"{module}.{frame.f_code.co_qualname}")
            frame = frame.f_back  # type: ignore[assignment]
        what[f"{place} {operation}"] += 1

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = func._schema.name.removeprefix("aten::")
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        there = [one for one in given if self.holds(one)]
        here = [one for one in given if one.ndim and not self.holds(one)]
        wanted = kwargs.get("device")
        on_gpu = bool(there) if wanted is None else torch.device(wanted).type == "cuda"
        if on_gpu and wanted is not None:
            kwargs["device"] = CPU
        self._refuse(name, given, there, here)
        if there or on_gpu:
            self._count(func, name, given, there, here, on_gpu)
        result = func(*args, **kwargs)
        known = {one.untyped_storage()._cdata for one in given}
        for one in tree_leaves(result):
            if isinstance(one, Tensor) and one.untyped_storage()._cdata not in known:
                self.put(one, on_gpu)
        return result

    def _refuse(
        self, name: str, given: list[Tensor], there: list[Tensor], here: list[Tensor]
    ) -> None:
        if there and here and name not in COPIES:
            # indices may come from the CPU, but not go to it; nor may what is put there
            moving = name in INDEXING and self.holds(given[0])
            if not moving or any(one.is_floating_point() for one in here):
                shapes = [tuple(one.shape) for one in here]
                raise Mistake(f"{name}: tensors of the GPU and of the CPU {shapes}")

    def _count(
        self,
        func: Any,
        name: str,
        given: list[Tensor],
        there: list[Tensor],
        here: list[Tensor],
        on_gpu: bool,
    ) -> None:
        crossing = name in COPIES and bool(there) != on_gpu
        crossing |= bool(there and here)  # copy_ from one to the other, indices from the CPU
        if crossing:
            self.count(self.copies, name)
        masks = [one for one in given[1:] if one.dtype == torch.bool] if name in INDEXING else []
        filled = name.startswith("index_put") and given[-1].numel() == 1  # needs no size
        if name in WAITS or (masks and not filled) or (name == "_to_copy" and there and not on_gpu):
            self.count(self.waits, name)
        aliases = func._schema.returns and func._schema.returns[0].alias_info
        is_view = aliases and not aliases.is_write
        if not (crossing or is_view or name.startswith(NO_KERNEL)):
            self.count(self.launches, name)

    def moved(self, tensor: Tensor, device: torch.device) -> Tensor:
        """Copy a tensor to the other device, if it is not there."""
        if (device.type == "cuda") == self.holds(tensor):
            return tensor
        return torch.ops.aten._to_copy.default(tensor, device=device)


@contextmanager
def pretended_gpu() -> Iterator[PretendedGpu]:
    """Pretend that this machine has a GPU of compute capability 8.0."""
    gpu = PretendedGpu()
    with ExitStack() as stack:
        for owner, name, replacement in (*_of_tensors(gpu), *_of_torch(gpu)):
            stack.enter_context(patch.object(owner, name, replacement))
        stack.enter_context(gpu)
        yield gpu


def _of_tensors(gpu: PretendedGpu) -> Iterator[tuple[Any, str, Any]]:
    """What tensors answer and do without an operation that the mode would see."""
    device, to, tolist = Tensor.device, Tensor.to, Tensor.tolist
    deepcopy = Tensor.__deepcopy__

    def moved_to(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        places: list[Any] = [one for one in args if isinstance(one, (str, torch.device, Tensor))]
        places += [kwargs[name] for name in ("device", "other") if kwargs.get(name) is not None]
        kinds = [one for one in (*args, kwargs.get("dtype")) if isinstance(one, torch.dtype)]
        for place in places:
            if isinstance(place, Tensor):
                kinds.append(place.dtype)
                place = place.device
            tensor = gpu.moved(tensor, torch.device(place))
        how = {name: value for name, value in kwargs.items() if name == "memory_format"}
        return to(tensor, dtype=kinds[0] if kinds else tensor.dtype, **how)

    def refused(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        raise Mistake("numpy cannot read what lies on the GPU: move it with .cpu()")

    def unless_there(otherwise: Callable[..., Any]) -> Callable[..., Any]:
        return lambda tensor, *args, **kwargs: (refused if gpu.holds(tensor) else otherwise)(
            tensor, *args, **kwargs
        )

    def listed(tensor: Tensor) -> Any:
        if gpu.holds(tensor):
            gpu.count(gpu.waits, "tolist")
        return tolist(tensor)

    def copied(tensor: Tensor, memo: Any) -> Tensor:
        return gpu.put(deepcopy(tensor, memo), gpu.holds(tensor))

    yield Tensor, "device", property(lambda t: GPU if gpu.holds(t) else device.__get__(t))
    yield Tensor, "is_cuda", property(gpu.holds)

    def new(tensor: Tensor, content: Any, **kwargs: Any) -> Tensor:
        return torch.tensor(content, **{"dtype": tensor.dtype, "device": tensor.device} | kwargs)

    yield Tensor, "new_tensor", new
    yield Tensor, "to", moved_to
    yield Tensor, "cpu", lambda tensor, *args, **kwargs: gpu.moved(tensor, CPU)
    yield Tensor, "cuda", lambda tensor, *args, **kwargs: gpu.moved(tensor, GPU)
    yield Tensor, "numpy", unless_there(Tensor.numpy)
    yield Tensor, "__array__", unless_there(Tensor.__array__)
    yield Tensor, "tolist", listed
    yield Tensor, "__deepcopy__", copied


def _of_torch(gpu: PretendedGpu) -> Iterator[tuple[Any, str, Any]]:
    """What torch makes and says without an operation that the mode would see."""

    def on_device(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def made(content: Any, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
            if isinstance(content, Tensor):
                result = content.to(kwargs.get("dtype") or content.dtype)
                return result if device is None else result.to(device)
            return make(content, *args, **kwargs).to(device or CPU)

        return made

    def with_its_generator(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
        # an operation that the mode sees no longer knows which generator was given
        def drawn(*args: Any, generator: Any = None, device: Any = "cpu", **kwargs: Any) -> Tensor:
            if generator is not None and generator.device.type != torch.device(device).type:
                raise Mistake(f"a generator on {generator.device} for numbers on {device}")
            return draw(*args, generator=generator, device=device, **kwargs)

        return drawn

    for name in ("rand", "randn", "randint", "randperm"):
        yield torch, name, with_its_generator(getattr(torch, name))
    yield torch, "Generator", _generator
    yield torch, "tensor", on_device(torch.tensor)
    yield torch, "as_tensor", on_device(torch.as_tensor)
    properties = SimpleNamespace(major=8, minor=0, name="pretended", total_memory=2**34)
    answers: dict[str, Any] = {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_capability": (8, 0),
        "get_device_properties": properties,
        "get_rng_state": torch.zeros(1, dtype=torch.uint8),
        **dict.fromkeys(("_lazy_init", "set_device", "set_rng_state", "manual_seed_all")),
    }
    for name, answer in answers.items():
        yield torch.cuda, name, lambda *args, answer=answer, **kwargs: answer
    yield torch.cuda, "synchronize", lambda *args: gpu.count(gpu.waits, "synchronize")
