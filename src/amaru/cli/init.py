"""`amaru init`: a checkpoint of new weights, of any size."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from amaru.cli.output import JsonFlag, LiveLine, emit
from amaru.report.numbers import count


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The shape: a preset such as nemotron-h-8b, or a checkpoint directory.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The directory to write; a checkpoint there is replaced.")],
    seed: Annotated[int, typer.Option(min=0, help="Decides every weight.")] = 0,
    dtype: Annotated[str, typer.Option(help="Of the weights: fp32, bf16, fp16, fp64.")] = "bf16",
    tokenizer: Annotated[Path | None, typer.Option(help="A directory whose tokenizer is laid beside the weights.")] = None,
    json: JsonFlag = False,
) -> None:
    """Write a checkpoint of this shape with new weights, drawn as training begins with them.

    It takes the memory of the largest layer (or of the embedding) in fp32, whatever the size of the model.
    """
    from amaru.data.tokenizer import Tokenizer
    from amaru.errors import ConfigError
    from amaru.models.checkpoint import write
    from amaru.models.cost import parameters
    from amaru.models.drawn import Drawn
    from amaru.models.families import config_of
    from amaru.models.targets import DTYPES

    if dtype not in DTYPES:
        raise ConfigError(f"--dtype is one of {', '.join(DTYPES)}; got '{dtype}'.")
    config = config_of(model)
    words = None if tokenizer is None else Tokenizer.load(tokenizer)
    if words is not None and words.vocab_size > config.vocab:
        raise ConfigError(f"The tokenizer of {tokenizer} knows {words.vocab_size} tokens, but {model} has {config.vocab} embeddings.")
    drawn, names = Drawn(config, seed), len(config.tensors())
    with LiveLine() as live:
        done = iter(range(names))

        def read(name: str) -> Any:
            live.update(f"tensor {next(done) + 1} of {names}: {name}")
            return drawn.read(name)

        write(out, config, read, DTYPES[dtype], words)
    emit({"checkpoint": out, "parameters": parameters(config), "dtype": dtype, "seed": seed}, json=json, people=_print)


def _print(facts: Mapping[str, Any], console: Console) -> None:
    size = f"{count(facts['parameters'])} parameters in {facts['dtype']}"
    console.print(f"{facts['checkpoint']}: {size}, seed {facts['seed']}", soft_wrap=True)
