"""`amaru generate`: continue prompts with a checkpoint, text appearing as it comes."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from amaru.cli.output import JsonFlag, LiveLine, emit
from amaru.cli.processes import TensorParallel, together

if TYPE_CHECKING:
    from amaru.models.decoder import Decoder
    from amaru.serve.generate import Generation


def command(
    context: typer.Context,
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint directory with a tokenizer.")],
    prompt: Annotated[list[str], typer.Option(help="The text to continue; give it several times to run several together.")],
    max_tokens: Annotated[int, typer.Option(help="At most so many new tokens.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 always takes the most likely token.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(help="Choose among the k most likely tokens.")] = None,
    top_p: Annotated[float, typer.Option(help="Choose among the most likely tokens that together have this probability.")] = 0.95,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.")] = 0,
    exact: Annotated[bool, typer.Option("--exact", help="The same bits for a prompt whatever runs beside it (slower).")] = False,
    lookup: Annotated[bool, typer.Option("--lookup", help="Guess that the text repeats itself; it says the same, faster or not.")] = False,
    draft: Annotated[Path | None, typer.Option(help="A smaller checkpoint that guesses what this one will say; it says the same.")] = None,
    kv_dtype: Annotated[str, typer.Option(help="Of keys and values: as the model computes them, or fp8, in 8 bits.")] = "model",
    tensor_parallel: TensorParallel = None,
    json: JsonFlag = False,
) -> None:
    """Continue a prompt. Text goes to stdout as it is generated; several prompts run as one batch and are printed when all are done."""
    from amaru.data.tokenizer import Tokenizer
    from amaru.errors import ConfigError
    from amaru.models.checkpoint import load
    from amaru.serve.generate import generate
    from amaru.serve.request import Settings
    from amaru.serve.sampler import Sampling

    if lookup and draft:
        raise ConfigError("Guesses come from the text (--lookup) or from a smaller model (--draft); give one of the two.")
    tokenizer = Tokenizer.load(checkpoint)
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    settings = Settings(max_tokens=max_tokens, stop=(tokenizer.eos_id,), sampling=sampling)
    prompts = [tokenizer.encode(text) for text in prompt]
    with together(context, tensor_parallel) as world:
        streaming = len(prompt) == 1 and not json and world.leads
        decoder = load(checkpoint) if world.size == 1 else _load_part(checkpoint)
        guesses = {"speculate": "draft" if draft else "lookup" if lookup else "off", "draft": load(draft) if draft else None}
        how: dict[str, Any] = guesses | {"kv": kv_dtype}
        if streaming:
            _write(prompt[0])
        start = time.perf_counter()
        write = (lambda _, event: _write(event.text)) if streaming else None
        results = generate(decoder, prompts, settings, write, tokenizer=tokenizer, exact=exact, **how)
        seconds = time.perf_counter() - start
    if not world.leads:
        return
    if streaming:
        _write("\n")
    rows = [_row(text, result) for text, result in zip(prompt, results, strict=True)]
    if not streaming:
        emit({"checkpoint": checkpoint, "results": rows, "seconds": seconds}, json=json, people=show)
    tokens, drafted, accepted = (sum(row[name] for row in rows) for name in ("tokens", "drafted", "accepted"))
    guessed = f"; {accepted} of {drafted} guesses were right" if lookup or draft else ""
    LiveLine().note(f"{tokens} tokens in {seconds:.2f} s, {tokens / seconds:,.0f} tokens/s with the prompt's prefill{guessed}")


def show(facts: Mapping[str, Any], console: Console) -> None:
    for number, row in enumerate(facts["results"]):
        console.rule(f"prompt {number}, {row['tokens']} tokens, ended by {row['finish']}")
        console.print(row["prompt"] + row["text"], soft_wrap=True)


def _row(prompt: str, result: "Generation") -> dict[str, Any]:
    """A pass of the model gives one token and those guesses that were right."""
    tokens, passes = len(result.tokens), max(1, len(result.tokens) - result.accepted)
    guesses = {"drafted": result.drafted, "accepted": result.accepted, "tokens_per_pass": tokens / passes}
    return {"prompt": prompt, "text": result.text, "tokens": tokens, "finish": result.finish} | guesses


def _load_part(checkpoint: Path) -> "Decoder":
    from amaru.parallel.decoder import load_part

    return load_part(checkpoint)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
