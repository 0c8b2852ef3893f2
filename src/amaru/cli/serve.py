"""`amaru serve`: an OpenAI-compatible server with a playground."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from amaru.cli.output import JsonFlag, LiveLine, emit
from amaru.cli.processes import TensorParallel, together


def command(
    context: typer.Context,
    checkpoint: Annotated[
        list[str], typer.Argument(help="Checkpoint directories with a tokenizer; NAME=DIRECTORY says under which name one is served.")
    ],
    host: Annotated[str, typer.Option(help="The address to listen at. Others than this machine's own need an API key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    api_key_file: Annotated[Path | None, typer.Option(help="A file that holds the API key; else AMARU_API_KEY, if that is set.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Let everyone in who reaches the address, without a key.")] = False,
    memory: Annotated[str | None, typer.Option(help="For states and caches of each model, like 4GiB.")] = None,
    max_running: Annotated[int | None, typer.Option(min=1, help="Answers that are computed at once, per model.")] = None,
    max_waiting: Annotated[int | None, typer.Option(min=0, help="Answers that may queue; more are refused.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="The longest sequence, prompt and answer together.")] = None,
    prefix_memory: Annotated[str | None, typer.Option(help="For remembered beginnings of prompts, like 1GiB; 0 switches it off.")] = None,
    kv_dtype: Annotated[str | None, typer.Option(help="fp8 holds keys and values in 8 bits; left out: as the model computes.")] = None,
    draft: Annotated[Path | None, typer.Option(help="A smaller checkpoint that guesses what this one will say; it says the same.")] = None,
    adapter: Annotated[
        list[str] | None, typer.Option(metavar="NAME=DIRECTORY", help="An adapter of the one model, served beside it by this name.")
    ] = None,
    lookup: Annotated[bool, typer.Option("--lookup", help="Guess that texts repeat themselves; they say the same.")] = False,
    exact: Annotated[bool, typer.Option("--exact", help="The same bits for a request whatever runs beside it (slower).")] = False,
    max_body: Annotated[str | None, typer.Option(help="The largest request, like 8MiB.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds that one request may take.")] = None,
    patience: Annotated[float | None, typer.Option(help="Seconds for a request to arrive, and for a reader to take anything.")] = None,
    drain: Annotated[float | None, typer.Option(help="Seconds after SIGTERM until running answers are cancelled.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any other setting of the engines, like --set chunk_tokens=1024.")
    ] = None,
    tensor_parallel: TensorParallel = None,
    json: JsonFlag = False,
) -> None:
    """Serve models over HTTP as OpenAI does (/v1/chat/completions, /v1/completions), with a playground at / and metrics at /metrics.

    SIGTERM or Ctrl-C takes no more requests, finishes those that run, and exits 0; a second one exits at once.
    With --json one document with the address is printed as soon as it answers.
    """
    from amaru.config import build
    from amaru.config.units import parse_bytes
    from amaru.errors import BackendError, ConfigError
    from amaru.models.reward.checkpoint import is_reward
    from amaru.ops.heap import keep_freed_memory
    from amaru.serve.config import EngineConfig
    from amaru.serve.scoring import idle

    try:
        from amaru.serve.server.limits import Limits, check_address
        from amaru.serve.server.run import serve
        from amaru.serve.server.served import Served, load_served, serve_part
    except ModuleNotFoundError as error:
        raise BackendError(f"Serving needs {error.name}, which is not installed: pip install 'amaru[serve]'") from None

    engine = {"max_running": max_running, "max_waiting": max_waiting, "max_tokens": max_tokens}
    engine |= {"speculate": "draft" if draft else "lookup" if lookup else None, "exact": exact or None}
    engine |= {"kv": kv_dtype}
    engine |= {"memory": memory and parse_bytes(memory), "prefix_bytes": prefix_memory and _bytes_or_none(prefix_memory)}
    config = build(EngineConfig, _given(engine), settings or [])
    seconds = {"seconds": timeout, "patience": patience, "drain_seconds": drain}
    limits = build(Limits, _given({"body_bytes": max_body and parse_bytes(max_body)} | seconds))
    key = read_key(api_key_file)
    check_address(host, key, insecure)  # before minutes of loading

    def ready(address: str) -> None:
        emit({"address": address, "models": [model.name for model in models], "key": key is not None}, json=json, people=show)
        sys.stdout.flush()  # whoever reads it through a pipe waits for it

    named, adapters = [_named(word) for word in checkpoint], dict(_named(word) for word in adapter or [])
    if len(adapters) < len(adapter or []) or (adapters and (len(named) > 1 or tensor_parallel)):
        raise ConfigError("Adapters have different names, and belong to one model that is served by one process.")
    if all(is_reward(path) for _, path in named) and (unheeded := idle(config)):
        raise ConfigError(f"Reward models hold no states and write nothing, so {', '.join(unheeded)} would have no effect; leave it out.")
    keep_freed_memory()  # a prompt's pass asks for the same megabytes again and again; `amaru bench infer` measures with it
    models: list[Served] = []
    with together(context, tensor_parallel) as world:
        if world.size > 1:
            models = serve_part(named, config, draft)
        else:
            with LiveLine() as live:
                for name, path in named:
                    live.update(f"loading {name}")
                    models += load_served(name, path, config, draft, adapters)
        if models:
            serve(models, host, port, limits, key, insecure, ready)


def show(facts: Mapping[str, Any], console: Console) -> None:
    console.print(f"serving {', '.join(facts['models'])} at {facts['address']}", soft_wrap=True)
    console.print(f"playground {facts['address']}/   OpenAI base URL {facts['address']}/v1   Ctrl-C stops", soft_wrap=True)


def read_key(file: Path | None) -> str | None:
    """The API key; never from a flag, which every user of the machine could read in the list of processes."""
    from amaru.errors import ConfigError

    if file is None:
        key, source = os.environ.get("AMARU_API_KEY"), "AMARU_API_KEY"
        if key is None:
            return None
    else:
        key, source = file.read_text(encoding="utf-8").strip(), str(file)
    if not (key.isascii() and key.isprintable() and key) or " " in key:
        raise ConfigError(f"{source} holds no API key: one word of printable ASCII characters.")
    return key


def _named(word: str) -> tuple[str, Path]:
    """`NAME=DIRECTORY`, or a directory, whose own name it is then; directories may have a = in their names too."""
    name, equals, directory = word.partition("=")
    if equals and not Path(word).exists():
        return name, Path(directory)
    return Path(word).resolve().name, Path(word)


def _bytes_or_none(text: str) -> int:
    from amaru.config.units import parse_bytes

    return 0 if text == "0" else parse_bytes(text)


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
