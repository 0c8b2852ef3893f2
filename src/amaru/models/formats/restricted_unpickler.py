"""The one place where a pickle is read: known classes become inert records and places of tensors, any other is an error, no code runs."""

import io
import pickle
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch

from amaru.errors import CheckpointError

WORDS = "float64 float32 float16 bfloat16 float8_e4m3fn float8_e5m2 int64 int32 int16 int8 uint8 bool"
DTYPES = {f"torch.{name}": getattr(torch, name) for name in WORDS.split()}
STORAGES = {
    "torch.DoubleStorage": torch.float64, "torch.FloatStorage": torch.float32, "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16, "torch.LongStorage": torch.int64, "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16, "torch.CharStorage": torch.int8, "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool, "torch.storage.UntypedStorage": torch.uint8,
}  # fmt: skip

# Classes of which only the fields are kept. Their own code is not even imported.
RECORDS = frozenset(
    f"{module}.{name}"
    for module, names in {
        "torch.distributed.checkpoint.metadata": "Metadata TensorStorageMetadata BytesStorageMetadata ChunkStorageMetadata "
        "MetadataIndex TensorProperties StorageMeta _MEM_FORMAT_ENCODING",
        "torch.distributed.checkpoint.filesystem": "_StorageInfo _StoragePrefix",
        "torch.distributed.checkpoint.planner": "SavePlan WriteItem WriteItemType TensorWriteData BytesIOWriteData",
        "torch.distributed._shard.sharded_tensor.metadata": "TensorProperties MEM_FORMAT_ENCODING",
        "torch.serialization": "_get_layout",
        "megatron.core.dist_checkpointing.strategies.torch": "MCoreMetadata MCoreSavePlan",
        "megatron.core.enums": "ModelType Fp8Recipe Fp4Recipe",
        "megatron.core.transformer.enums": "AttnBackend CudaGraphModule CudaGraphScope InferenceCudaGraphScope",
        "megatron.core.rerun_state_machine": "RerunDiagnostic RerunMode RerunState RerunValidationStatus",
        "megatron.core.optimizer.optimizer_config": "OptimizerConfig",
        "argparse": "Namespace",
        "types": "SimpleNamespace",
        "pathlib": "PosixPath PurePosixPath Path",
        "signal": "Signals",
        "io": "BytesIO",
        "_io": "BytesIO",
        "torch": "device",
        "torch._C": "Generator",
        "numpy": "ndarray dtype",
        "numpy.dtypes": "UInt32DType",
        "numpy.core.multiarray": "_reconstruct scalar",
        "numpy._core.multiarray": "_reconstruct scalar",
        "_codecs": "encode",
    }.items()
    for name in names.split()
)


STATE = ""  # the name under which a record keeps a state that is no dict of fields


class StoredTensor(NamedTuple):
    """Where a tensor lies: `elements` of `dtype` are kept under `key`, of which it is a view."""

    key: str
    elements: int
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(eq=False)
class Record:
    """What an object of a known class was made from, and its fields; it can do nothing."""

    kind: str
    arguments: tuple[Any, ...]
    fields: dict[str, Any] = field(default_factory=dict)


class Storage(NamedTuple):
    key: str
    dtype: torch.dtype
    elements: int


def unpickle(data: bytes, where: str) -> Any:
    """`unpickle(bytes, "common.pt")`: dicts, lists, tuples, numbers and text; tensors as `StoredTensor`, known classes as `Record`.

    Raises `CheckpointError` naming the class that the pickle asks for when it is not one of the known, and for a damaged pickle.
    """
    try:
        return _Reader(data, where).load()
    except CheckpointError:
        raise
    except Exception as error:  # whatever an opcode finds on a stack that someone else arranged
        raise CheckpointError(f"{where} is damaged: as a pickle it cannot be read ({type(error).__name__}).") from None


class _Known(NamedTuple):
    """Stands for a class or function by its name; calling it is `_Reader.made`."""

    name: str


# Python's reader written in Python: the one in C allocates what an opcode claims before it looks whether the bytes are there.
_Python: Any = pickle._Unpickler  # type: ignore[attr-defined]


class _Reader(_Python):
    """A reader in which every opcode that could call something is replaced or gone."""

    dispatch: ClassVar[dict[int, Any]] = dict(_Python.dispatch)
    for opcode in (pickle.INST, pickle.OBJ, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.PERSID, pickle.BYTEARRAY8, pickle.NEXT_BUFFER):
        del dispatch[opcode[0]]

    def __init__(self, data: bytes, where: str) -> None:
        super().__init__(io.BytesIO(data))
        self.where = where

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in DTYPES:
            return DTYPES[full]
        if full in RECORDS or full in MAKERS or full in STORAGES:
            return _Known(full)
        raise CheckpointError(f"{self.where} asks for {full[:80]!r}, which amaru does not read from a pickle; nothing of it was run.")

    def persistent_load(self, pid: Any) -> Storage:
        kind, storage, key, _, elements = pid
        if kind != "storage" or not isinstance(storage, _Known) or not isinstance(key, str) or not _is_size(elements):
            raise CheckpointError(f"{self.where} is damaged: it refers to {str(pid)[:80]} for a tensor's bytes.")
        return Storage(key, STORAGES[storage.name], elements)

    def made(self, known: Any, arguments: Any) -> Any:
        if not isinstance(known, _Known) or not isinstance(arguments, tuple):
            raise CheckpointError(f"{self.where} is damaged: it calls {str(known)[:80]!r}; nothing of it was run.")
        maker = MAKERS.get(known.name)
        return maker(*arguments) if maker else Record(known.name, arguments)

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self.made(self.stack[-1], arguments)

    def load_newobj_ex(self) -> None:
        named = self.stack.pop()
        self.load_reduce()
        self._set(self.stack[-1], named)

    def load_build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Record):
            self._set(self.stack[-1], state)
        elif not isinstance(self.stack[-1], dict):  # the attributes of an OrderedDict (a state dict's versions) say nothing of its tensors
            raise CheckpointError(f"{self.where} is damaged: it sets attributes of a {type(self.stack[-1]).__name__}.")

    def _set(self, record: Any, state: Any) -> None:
        if not isinstance(record, Record):
            raise CheckpointError(f"{self.where} is damaged: it sets attributes of a {type(record).__name__}.")
        record.fields |= state if isinstance(state, dict) else {STATE: state}

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_reduce
    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex
    dispatch[pickle.BUILD[0]] = load_build


def _is_size(number: Any) -> bool:
    return type(number) is int and 0 <= number < 2**63


def _size(numbers: Any = ()) -> tuple[int, ...]:
    sizes = tuple(numbers)
    if len(sizes) > 16 or not all(_is_size(number) for number in sizes):
        raise ValueError("no size of a tensor")
    return sizes


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> StoredTensor:
    if not isinstance(storage, Storage) or not _is_size(offset):
        raise ValueError("no tensor")
    return StoredTensor(storage.key, storage.elements, storage.dtype, offset, _size(shape), _size(stride))


MAKERS: dict[str, Any] = {
    "builtins.set": set,
    "__builtin__.set": set,  # its name in the second protocol, in which torch writes
    "collections.OrderedDict": lambda pairs=(): dict(pairs),
    "torch.Size": _size,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
}
