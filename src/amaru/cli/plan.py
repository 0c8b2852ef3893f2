"""`amaru plan`: what a model needs before it runs."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from amaru.cli.output import Finding, JsonFlag, closest, emit
from amaru.config.units import parse_bytes
from amaru.errors import ConfigError
from amaru.report.numbers import count, percent, size

# What nvidia-smi reports as total, in MiB.
DEVICES = {
    "t4": 15360,
    "l4": 23034,
    "rtx-4090": 24564,
    "rtx-5090": 32607,
    "a100-40gb": 40960,
    "l40s": 46068,
    "a100-80gb": 81920,
    "h100": 81559,
    "h200": 143771,
    "b200": 183359,
}


def command(
    model: Annotated[str, typer.Argument(help="A checkpoint directory, or a preset such as nemotron-h-8b.")],
    context: Annotated[int, typer.Option(help="Tokens each sequence may reach.")] = 4096,
    batch: Annotated[int, typer.Option(help="Sequences at once.")] = 1,
    weights: Annotated[str, typer.Option(help="fp32, bf16, fp16, fp8, int8, int4 or nvfp4.")] = "bf16",
    kv: Annotated[str, typer.Option(help="The same choice, for keys and values.")] = "bf16",
    state: Annotated[str, typer.Option(help="fp32, bf16 or fp16, for the SSM state.")] = "fp32",
    device: Annotated[str | None, typer.Option(help=f"Does it fit? A size (24GiB), 'cpu', or one of {', '.join(DEVICES)}.")] = None,
    json: JsonFlag = False,
) -> None:
    """Tell what a model needs before it runs: bytes of weights, caches and states, and FLOPs, all counted from its
    config; activations and the allocator's own overhead come on top. With --device, exit 1 when it does not fit."""
    from amaru.config import from_dict
    from amaru.models.cost import Workload
    from amaru.models.families import config_of

    workload = from_dict(Workload, {"context": context, "batch": batch, "weights": weights, "kv": kv, "state": state})
    facts = {"model": model, **describe(config_of(model), workload)}
    if device is not None:
        facts["device"] = {"name": device, "bytes": capacity(device)}
    emit(facts, json=json, people=show)
    if device is not None and facts["memory"]["total"] > facts["device"]["bytes"]:
        over = facts["memory"]["total"] - facts["device"]["bytes"]
        raise Finding(f"{model} does not fit {device}: {size(over)} too much. A smaller --batch, --context or storage format helps.")


def describe(config: Any, workload: Any) -> dict[str, Any]:
    """Counts of a `DecoderConfig` under a `Workload`."""
    from amaru.config import to_dict
    from amaru.models.cost import forward_flops, kv_bytes_per_token, memory, parameters

    need = memory(config, workload)
    return {
        "parameters": parameters(config),
        "workload": to_dict(workload),
        "memory": {**to_dict(need), "total": need.total},
        "kv_bytes_per_token": kv_bytes_per_token(config, workload.kv),
        "state_bytes_per_sequence": (need.ssm_state + need.conv_state) / workload.batch,
        "decode_flops_per_token": forward_flops(config, workload.context),
        # A token at place p sees p + 1 tokens; the mean over a prompt is half of it.
        "prefill_flops": workload.context * forward_flops(config, (workload.context + 1) // 2),
    }


def capacity(device: str) -> int:
    """Bytes of a named device, of this machine's memory ("cpu"), or as written."""
    name = device.lower()
    if name in DEVICES:
        return DEVICES[name] * 2**20
    if name == "cpu":
        import psutil

        return psutil.virtual_memory().total
    if not name[:1].isdigit():
        raise ConfigError(f"There is no device '{device}'.{closest(name, ['cpu', *DEVICES])} A size such as 24GiB is allowed too.")
    return parse_bytes(device)


def show(facts: Mapping[str, Any], console: Console) -> None:
    workload, need = facts["workload"], facts["memory"]
    asked = f"  {count(facts['parameters'])} parameters, {workload['batch']} x {workload['context']} tokens\n"
    console.print(Text.assemble((facts["model"], "bold"), asked))
    table = Table("", "stored as", "bytes", "share", box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.columns[2].justify = table.columns[3].justify = "right"
    stored = {"weights": workload["weights"], "kv": workload["kv"], "ssm_state": workload["state"], "conv_state": "bf16", "total": ""}
    for name, form in stored.items():
        table.add_row(name.replace("_", " "), form, size(need[name]), percent(need[name] / need["total"]))
    console.print(table)
    console.print(f"\nKV per token {facts['kv_bytes_per_token']:,.0f} B, state per sequence {size(facts['state_bytes_per_sequence'])}")
    decode, prefill = facts["decode_flops_per_token"] / 1e9, facts["prefill_flops"] / 1e12
    console.print(f"{prefill:,.1f} TFLOP to prefill one sequence, {decode:,.1f} GFLOP for each token decoded behind it")
    if "device" in facts:
        left = facts["device"]["bytes"] - need["total"]
        answer = f"fits, {size(left)} left for activations" if left >= 0 else f"does not fit, {size(-left)} too much"
        console.print(f"{facts['device']['name']} ({size(facts['device']['bytes'])}): {answer}")
