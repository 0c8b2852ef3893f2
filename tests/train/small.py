"""A hybrid of one layer of each kind, a few kilobytes of text, and a recipe of a dozen steps."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from amaru.data.corpus import Document
from amaru.data.loader import Loader
from amaru.data.packing import PackedRows, pack
from amaru.data.tokenizer import Tokenizer
from amaru.models.decoder import Decoder, DecoderConfig
from amaru.nn.attention import Attention
from amaru.nn.mamba2 import Mamba2
from amaru.nn.mlp import MLP
from amaru.train.loop import TrainConfig, train
from amaru.train.metrics import History
from amaru.train.objective import CrossEntropy

RECIPE = TrainConfig(steps=9, batch_rows=2, lr=3e-3, warmup=2, seed=3, checkpoint_seconds=0)
LAYERS = (Mamba2(heads=4, channels=4, groups=2, state=8, chunk_size=16), Attention(query_heads=2, kv_heads=1, channels=8), MLP(ffn=24))

# Processes that are killed come from one that has imported everything and started no thread, so that most of their life is training.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.train.test_killed"])


def start(function: Callable[..., object], *arguments: object) -> BaseProcess:
    """`function(*arguments)` in a process of its own, with as many threads as here."""
    process = SERVER.Process(target=_with_threads, args=(torch.get_num_threads(), function, *arguments))
    process.start()
    return process


def _with_threads(threads: int, function: Callable[..., object], *arguments: object) -> None:
    torch.set_num_threads(threads)
    function(*arguments)


def packed_rows(row_length: int = 24) -> PackedRows:
    documents = [Document(f"f{n}.py", f"def f{n}(x):\n    return {n} * x\n" * (1 + n % 3)) for n in range(20)]
    return pack(documents, Tokenizer.train([document.text for document in documents], vocab=290), row_length)


def fresh_model(seed: int = 0) -> Decoder:
    return Decoder(DecoderConfig(vocab=290, hidden=16, layers=LAYERS)).initialise(seed)


def run(out: Path, model: Decoder, recipe: TrainConfig = RECIPE, rows: PackedRows | None = None, **options) -> History:
    """Train quietly; rows default to `packed_rows()`."""
    loader = Loader(rows or packed_rows(), recipe.batch_rows, recipe.seed)
    objective = options.pop("objective", CrossEntropy())
    return train(model, objective, loader, recipe, out, **{"report": lambda metrics: None, **options})
