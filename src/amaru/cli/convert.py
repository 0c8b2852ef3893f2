"""`amaru convert`: the same model in another format, proven."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from amaru.cli.output import Finding, JsonFlag, LiveLine, emit
from amaru.report.numbers import count


def command(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A checkpoint of any format that is read; it is recognised.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Where the copy goes; a checkpoint of that format there is replaced.")],
    to: Annotated[str, typer.Option(help="The format: hf, megatron, nemo or gguf.")],
    dtype: Annotated[str | None, typer.Option(help="Of the weights: fp32, bf16, fp16, fp64, q8_0 (GGUF). Left out: as stored.")] = None,
    uniform: Annotated[bool, typer.Option("--uniform", help="Pad layers of a kind to one width, for readers that know no other.")] = False,
    tp: Annotated[int, typer.Option(help="Tensor-parallel ranks to cut a Megatron checkpoint for; any number reads it.")] = 1,
    tokenizer: Annotated[
        Path | None, typer.Option(help="A directory, tokenizer.json or llama2.c's tokenizer.bin; left out: what lies beside SOURCE.")
    ] = None,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Skip the certificate.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would be written, and write nothing.")] = False,
    json: JsonFlag = False,
) -> None:
    """Write a model in another format, tensor by tensor and bit for bit, and compare the copy with the source before it appears.

    It takes the memory of a few tensors, whatever the size of the model.
    """
    from amaru.config import to_dict
    from amaru.models.convert import Job
    from amaru.models.targets import Request

    job = Job(
        Request(
            source=source,
            out=str(out),
            to=to,
            dtype=dtype,
            uniform=uniform,
            ranks=tp,
            tokenizer=None if tokenizer is None else str(tokenizer),
        )
    )
    if dry_run:
        emit(job.describe(), json=json, people=show_plan)
        return
    with LiveLine() as live:
        found = job.run(verify=not no_verify, report=live.update)
    emit(to_dict(found), json=json, people=show)
    if found.padding is not None:
        raise Finding(
            f"{out} was written, but padding changed its logits by up to {found.padding:.1e} of the largest in float32: the gated norms "
            "of this model see values so small that eps matters (amaru.models.uniform tells how much)."
        )


def show_plan(facts: Mapping[str, Any], console: Console) -> None:
    console.print(f"{facts['source']} is {facts['source_format']}")
    console.print(f"{facts['out']} would be {facts['to']}: {_amount(facts)}{_carried(facts)}", soft_wrap=True)


def show(facts: Mapping[str, Any], console: Console) -> None:
    speed = f"{facts['seconds']:.1f} s, {facts['bytes'] / 1e6 / max(facts['seconds'], 1e-9):,.0f} MB/s"
    console.print(f"{facts['out']}: {_amount(facts)} in {speed}{_carried(facts)}", soft_wrap=True)
    if facts["parameters"] != facts["parameters_before"]:
        console.print(f"padded from {count(facts['parameters_before'])} to {count(facts['parameters'])} parameters")
    for note in facts["notes"]:
        console.print(f"note: {note}", soft_wrap=True)
    for dtype, difference in facts["differences"].items():
        console.print(f"largest difference of a logit in {dtype}: {difference:.1e} of the largest logit")
    verdict = "not compared with its source (--no-verify)" if facts["verdict"] is None else f"{facts['verdict']} ({facts['certificate']})"
    console.print(verdict, style="bold", soft_wrap=True)


def _amount(facts: Mapping[str, Any]) -> str:
    return f"{facts['tensors']} tensors, {count(facts['parameters'])} parameters, {facts['bytes'] / 1e9:,.3g} GB"


def _carried(facts: Mapping[str, Any]) -> str:
    return f"; carried along: {', '.join(facts['carried'])}" if facts["carried"] else "; no tokenizer beside it"
