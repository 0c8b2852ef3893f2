"""Compile the kernels once per machine, keep the result in the user's cache, load it, and say why if that fails."""

import ctypes
import functools
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

try:
    import fcntl
except ImportError:  # not POSIX: two processes then compile at once, and the last one's file stays
    fcntl = None

SOURCES = Path(__file__).parent
# Neither flag touches infinities and NaN: one drops errno, the other the promise of exact exception flags.
FLAGS = [
    "-std=c++17",
    "-O3",
    "-march=native",
    "-fopenmp",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fPIC",
    "-fvisibility=hidden",
]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Library:
    """The loaded kernels, or the reason why there are none."""

    kernels: ctypes.CDLL | None
    reason: str | None


def library() -> Library:
    """The kernels of this machine, compiled by `$CXX`, g++ or clang++ (a few seconds, the first time only)."""
    return _library(os.environ.get("CXX", ""), os.environ.get("XDG_CACHE_HOME", ""))


@functools.cache
def _library(wanted: str, cache_home: str) -> Library:
    cache = Path(cache_home or Path.home() / ".cache") / "amaru"
    compiler = shutil.which(wanted) if wanted else shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return Library(
            None, f"needs a C++ compiler; CXX={wanted} is none" if wanted else "needs a C++ compiler, found neither g++ nor clang++"
        )
    try:
        path = cache / f"kernels-{_fingerprint(compiler, sorted(SOURCES.glob('*.cpp')))}.so"
        if not path.exists():
            _compile(compiler, path)
        return Library(ctypes.CDLL(str(path)), None)
    except subprocess.SubprocessError as error:
        lines = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        said = next((line for line in lines if "error" in line), lines[0])
        return Library(None, f"could not be compiled by {compiler}: {said}")
    except OSError as error:
        return Library(None, f"could not be stored or loaded in {cache}: {error}")


def _fingerprint(compiler: str, sources: Sequence[Path]) -> str:
    """A hash of all that decides the result: sources and headers, flags, the compiler, and what it takes this CPU to be."""
    digest = hashlib.sha256(" ".join(FLAGS).encode())
    for source in [*sources, *sorted(SOURCES.glob("*.h"))]:
        digest.update(source.read_bytes())
    digest.update(_described(compiler).encode())
    return digest.hexdigest()[:16]


@functools.cache
def _described(compiler: str) -> str:
    return "".join(_run([compiler, *question]) for question in (["--version"], ["-march=native", "-dM", "-E", "-x", "c++", os.devnull]))


def _compile(compiler: str, path: Path) -> None:
    """One process compiles, others that want the same wait for it. A kernel whose source did not change is not compiled again."""
    start = time.perf_counter()
    objects = path.parent / "objects"
    objects.mkdir(parents=True, exist_ok=True)
    with (path.parent / "compiling").open("w") as lock:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            parts = list(pool.map(lambda source: _object(compiler, source, objects), sorted(SOURCES.glob("*.cpp"))))
        _made(path, ["-shared", *map(str, parts)], compiler)
    log.info("Compiled the CPU kernels in %.1f s: %s", time.perf_counter() - start, path)


def _object(compiler: str, source: Path, directory: Path) -> Path:
    result = directory / f"{source.stem}-{_fingerprint(compiler, [source])}.o"
    return result if result.exists() else _made(result, ["-c", str(source)], compiler)


def _made(path: Path, arguments: Sequence[str], compiler: str) -> Path:
    """Into a name of our own first, then renamed: a file of that name is always whole."""
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        partial = Path(directory) / path.name
        _run([compiler, *FLAGS, "-o", str(partial), *arguments])
        os.replace(partial, path)
    return path


def _run(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout


def lacks() -> str | None:
    """Why this machine has no kernels, or None if it has; compiles them when first asked."""
    return library().reason


def refusal(*tensors: Tensor | None) -> str | None:
    """Why the kernels do not serve these tensors, or None if they do."""
    for tensor in tensors:
        if tensor is not None and tensor.device.type != "cpu":
            return f"needs CPU tensors, got device {tensor.device.type}"
        if tensor is not None and tensor.dtype not in (torch.float32, torch.bfloat16):
            return f"computes in float32 or bfloat16 only, got {short(tensor.dtype)}"
    return None


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def call(kernel: str, *arguments: Tensor | Sequence[int] | float | None) -> int:
    """Run a kernel: tensors go as pointers (None as null), integers as int64, sequences as arrays of int64, floats as float."""
    if recording := RECORDING.get():
        recording.refuse(f"{kernel} is not programmable")
    kernels = library().kernels
    assert kernels is not None, "a backend that refuses was called"
    return getattr(kernels, kernel)(*map(_converted, arguments))


class Recorder(Protocol):
    """Who wants to know which kernels are called."""

    def refuse(self, reason: str) -> None: ...

    def recorded(self, name: str, signature: str, function: Callable[..., int]) -> Callable[..., int]: ...


RECORDING: ContextVar[Recorder | None] = ContextVar("recording", default=None)
C_TYPES = {"i": ctypes.c_int64, "f": ctypes.c_float, "p": ctypes.c_void_p}


def kernel(name: str, signature: str, returns: bool = False) -> Callable[..., int]:
    """`kernel("norm_rows", "iifpp")(8, 16, 1e-5, x.data_ptr(), y.data_ptr())`: a kernel without the conversions of `call`.

    One letter for each argument: i integer, f float, p pointer (None as null). For decoding, where a step makes a hundred calls:
    this one costs a microsecond, and may be recorded (program.py), as long as every tensor it points to outlives the recording.
    """
    function = _kernel(name, signature, returns)
    recorder = RECORDING.get()
    return function if recorder is None else recorder.recorded(name, signature, function)


@functools.cache
def _kernel(name: str, signature: str, returns: bool) -> Callable[..., int]:
    kernels = library().kernels
    assert kernels is not None, "a backend that refuses was called"
    function = kernels[name]  # by index: an object of its own, so that signatures stay apart
    function.argtypes = [C_TYPES[letter] for letter in signature]
    function.restype = ctypes.c_int64 if returns else None
    return function


def _converted(argument: Tensor | Sequence[int] | float | None) -> Any:
    match argument:
        case None:
            return None
        case Tensor():
            return ctypes.c_void_p(argument.data_ptr())
        case int():
            return ctypes.c_int64(argument)
        case float():
            return ctypes.c_float(argument)
    return (ctypes.c_int64 * len(argument))(*argument)


def token_rows(tensor: Tensor) -> Tensor:
    """The tensor itself if what belongs to one token lies together (a slice of wider rows will do), else a copy."""
    expected = 1
    for size, stride in zip(reversed(tensor.shape[1:]), reversed(tensor.stride()[1:]), strict=True):
        if size != 1 and stride != expected:
            return tensor.contiguous()
        expected *= size
    return tensor if tensor.stride(0) >= expected or len(tensor) < 2 else tensor.contiguous()
