"""Programs: the native kernels that some code ran, remembered so that one call runs them again on the same memory."""

import ctypes
import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from amaru.ops.native.library import RECORDING, kernel, library

ALLOCATIONS = ("aten::empty", "aten::new_empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty_strided")


class Call(NamedTuple):
    kernel: str
    words: tuple[int, ...]


class Recording(TorchDispatchMode):
    """`with Recording() as recording: y = layer(x)`, then `recording.program()`: what the block computed, by one call.

    The block is run, kernel by kernel, as without a recording. `refusal` says why it cannot be run again as a program: anything but
    native kernels that computes, reads or changes a tensor would be missing from one. Making and cutting tensors is
    neither; those made in the block belong to the program.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled in here, and to make sure of it torch would import its compiler: a second and more of a first token."""
        return False

    def __init__(self) -> None:
        super().__init__()
        self.refusal: str | None = None
        self._calls: list[Call] = []
        self._held: list[object] = []
        self._token: Any = None

    def __enter__(self) -> "Recording":
        self._token = RECORDING.set(self)
        return super().__enter__()  # type: ignore[no-any-return]

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        RECORDING.reset(self._token)

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._schema.name in ALLOCATIONS:
            self._held.append(result)
        elif func._schema.is_mutable or not _is_view(result, [*args, *(kwargs or {}).values()]):
            self.refuse(f"{func} is no native kernel")
        return result

    def refuse(self, reason: str) -> None:
        self.refusal = self.refusal or reason

    def recorded(self, name: str, signature: str, function: Callable[..., int]) -> Callable[..., int]:
        """The kernel, which is remembered when it is called; one that is given no memory only tells something."""
        if "p" not in signature:
            return function
        if not hasattr(library().kernels, f"{name}_from_words"):
            self.refuse(f"{name} is not programmable")

        def run(*arguments: Any) -> int:
            self._calls.append(Call(name, tuple(map(self._word, signature, arguments))))
            return function(*arguments)

        return run

    def _word(self, letter: str, argument: Any) -> int:
        """An argument as 64 bits; what it points to is held, unless it is a tensor's."""
        if letter == "f":
            return int.from_bytes(struct.pack("<f", argument), "little")
        if argument is None or isinstance(argument, int):
            return int(argument or 0)
        self._held.append(argument)
        return ctypes.addressof(argument)

    def program(self) -> "Program":
        """What was run; the tensors that it was given must outlive it."""
        assert self.refusal is None and self._calls, self.refusal
        return Program(self._calls, self._held)


class Program:
    """`program.run()` runs its kernels again; `program.profile()` tells what each takes."""

    def __init__(self, calls: Sequence[Call], held: Sequence[object]) -> None:
        self.kernels = [call.kernel for call in calls]
        self._held = held
        self._threads = torch.get_num_threads()
        code = [word for call in calls for word in (_entry(call.kernel), len(call.words), *call.words)]
        self._code = (ctypes.c_int64 * len(code))(*code)
        self._run = kernel("program_run", "piip", returns=True)

    def run(self, nanoseconds: Any = None) -> bool:
        """False if a kernel refused its input, which it then left as it was; those before it have run."""
        return self._run(self._code, len(self.kernels), self._threads, nanoseconds) < 0

    def profile(self, repeats: int = 1) -> list[tuple[str, float]]:
        """Each call's kernel and its seconds, on average over `repeats` runs."""
        nanoseconds = (ctypes.c_int64 * len(self.kernels))()
        for _ in range(repeats):
            self.run(nanoseconds)
        return [(name, each / repeats / 1e9) for name, each in zip(self.kernels, nanoseconds, strict=True)]


def _entry(name: str) -> int:
    return ctypes.cast(getattr(library().kernels, f"{name}_from_words"), ctypes.c_void_p).value or 0


def _is_view(result: Any, arguments: Sequence[Any]) -> bool:
    """Whether the result is only another look at the memory of an argument, or no tensor has to do with it."""
    known = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)}
    found = [leaf.untyped_storage().data_ptr() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
    return known.issuperset(found) and bool(found or not known)
