"""`amaru plan`: what a model needs before it runs, what fits where, and how fast it could be at best."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from amaru.cli import layer_times, plan_align, plan_training
from amaru.cli.output import Finding, JsonFlag, LiveLine, emit
from amaru.config.units import parse_bytes, parse_count, parse_share
from amaru.errors import ConfigError
from amaru.report.numbers import count, duration, percent, size

commands = {"align": plan_align.command}
DEVICE_HELP = "Does it fit, and how fast? H100-80GB, 8xH100-80GB (tensor parallel), a size (2x24GiB), or cpu for this machine."


def command(
    model: Annotated[str, typer.Argument(help="A checkpoint directory, or a preset such as nemotron-h-8b.")],
    context: Annotated[int, typer.Option(help="Tokens each sequence may reach.")] = 4096,
    batch: Annotated[int, typer.Option(help="Sequences at once.")] = 1,
    weights: Annotated[str, typer.Option(help="fp32, bf16, fp16, fp8, int8, int4 or nvfp4.")] = "bf16",
    embedding: Annotated[str | None, typer.Option(help="The same, for embedding and head; else --weights, at least bf16.")] = None,
    kv: Annotated[str, typer.Option(help="The same choice, for keys and values.")] = "bf16",
    state: Annotated[str, typer.Option(help="fp32, bf16 or fp16, for the SSM state.")] = "fp32",
    conv: Annotated[str, typer.Option(help="fp32, bf16 or fp16, for the convolution's state.")] = "bf16",
    device: Annotated[str | None, typer.Option(help=DEVICE_HELP)] = None,
    reserve: Annotated[str, typer.Option(help="Of each device's memory, for activations and the runtime: 10% or 8GB.")] = "10%",
    bandwidth: Annotated[str | None, typer.Option(help="Bytes per second of a device, such as 100GB, instead of the published.")] = None,
    flops: Annotated[str | None, typer.Option(help="FLOP/s of a device, such as 2T, instead of the published.")] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Also what each layer takes on this machine: random weights, bf16.")] = False,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of the prompt that --measure runs.")] = 1024,
    train: Annotated[int | None, typer.Option(min=1, help="Also what training takes, with so many tokens at once in a process.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="That train together.")] = 1,
    tensor_parallel: Annotated[int, typer.Option(min=1, help="So many of them share every layer; the others share every batch.")] = 1,
    sequence_parallel: Annotated[bool, typer.Option("--sequence-parallel", help="Those share the tokens between layers too.")] = False,
    json: JsonFlag = False,
) -> None:
    """Tell what a model needs before it runs: bytes of weights, caches and states, and FLOPs, counted from its config.

    A weights format below 16 bits (fp8, int8, int4, nvfp4) holds the matrices of layers. Embedding and head are then bf16 unless
    --embedding says otherwise, norms, convolutions and biases are bf16, and A_log, D and dt_bias are fp32 always.

    With --device also what fits, and how fast it could be; exit 1 when it does not fit. 8xNAME shares the layers by tensor
    parallelism: Mamba-2 by groups, attention and Hymba's heads by KV heads (copied where there are more devices), MLP and every
    expert by ffn, embedding and head by vocab (the last may hold less); the rest is on every device.

    Times are first-order lower bounds at published peaks, the longer of

    \b
      memory   bytes that each device moves / its bandwidth
      compute  FLOPs / devices / FLOP/s of the format they are done in

    of each phase:

    \b
      prefill  one sequence of --context tokens: weights are read, KV and states written;
               FLOPs of all its tokens, logits of the last only
      decode   a token more for each of --batch sequences of --context tokens:
               weights and KV are read, states read and written

    An embedding that is not the head is looked up, not read; of experts those are read that even routing would touch. Products
    with fp8, int8 and nvfp4 weights run at that format's rate where the device has one, else at that of 16 bits. Communication
    and launches come on top.

    `amaru plan align MODEL --devices 384xH100-80GB` plans an alignment, stage by stage.
    """
    from amaru.config import from_dict
    from amaru.models.cost import Workload
    from amaru.models.families import config_of

    asked = {"context": context, "batch": batch, "weights": weights, "embedding": embedding, "kv": kv, "state": state, "conv": conv}
    workload, config = from_dict(Workload, asked), config_of(model)
    facts = {"model": model, **describe(config, workload)}
    if device is not None:
        facts |= on_device(config, workload, _machine(device, bandwidth, flops), reserve)
    elif bandwidth or flops:
        raise ConfigError("--bandwidth and --flops are figures of a device; name it with --device, for example --device cpu.")
    if measure:
        with LiveLine() as progress:
            facts["measured"] = layer_times.measured(config, prompt, context, batch, progress.update)
    if train is not None:
        facts["training"] = plan_training.describe(config, train, processes, tensor_parallel, sequence_parallel)
    elif (processes, tensor_parallel, sequence_parallel) != (1, 1, False):
        raise ConfigError("--processes, --tensor-parallel and --sequence-parallel plan a training; give its tokens with --train, say 4096.")
    emit(facts, json=json, people=show)
    if device is not None and not facts["fits"]:
        over = facts["memory_per_device"]["total"] - facts["device"]["usable"]
        raise Finding(f"{model} does not fit {device}: {size(over)} too much{_on_each(facts)}. {_advice(facts)}")


def describe(config: Any, workload: Any) -> dict[str, Any]:
    """Counts of a `DecoderConfig` under a `Workload`, on one device or on all together."""
    from amaru.config import to_dict
    from amaru.models.cost import active_parameters, forward_flops, kv_bytes_per_token, memory, parameters, prompt_flops

    need = memory(config, workload)
    one, further = (memory(config, replace(workload, batch=1, context=context)) for context in (workload.context, workload.context + 1))
    return {
        "parameters": parameters(config),
        "active_parameters": active_parameters(config),
        "workload": {**to_dict(workload), "embedding": workload.vocabulary, "vectors": workload.wide},
        "memory": _bytes(need),
        "kv_bytes_per_token": kv_bytes_per_token(config, workload.kv),
        "kv_bytes_per_further_token": further.kv - one.kv,
        "state_bytes_per_sequence": (need.ssm_state + need.conv_state) / workload.batch,
        "decode_flops_per_token": forward_flops(config, workload.context),
        "prefill_flops": prompt_flops(config, workload.context).total,
        "meta_tokens": config.meta_tokens,
        "max_positions": config.max_positions,
    }


def on_device(config: Any, workload: Any, machine: Any, reserve: str) -> dict[str, Any]:
    """What fits on each device of a `Machine` under tensor parallelism, and the least times."""
    from amaru.config import to_dict
    from amaru.models import capacity, roofline
    from amaru.models.cost import memory

    device, devices = machine.device, machine.count
    free = 0 if reserve in ("0", "0%") else parse_share(reserve, device.memory) or parse_bytes(reserve)
    if free >= device.memory:
        raise ConfigError(f"A reserve of {reserve} leaves nothing of the {size(device.memory)} of {device.name}.")
    usable, need = device.memory - free, memory(config, workload, devices)
    return {
        "device": {**to_dict(device), "count": devices, "reserve": free, "usable": usable},
        "memory_per_device": _bytes(need),
        "fits": need.total <= usable,
        "sequences_that_fit": capacity.sequences(config, workload, devices, usable),
        "largest_context": capacity.longest_context(config, workload, devices, usable),
        "lower_bounds": {
            "weights_once_seconds": roofline.weights_once(config, workload, machine),
            "prefill": _phase(roofline.prefill(config, workload, machine), workload.context),
            "decode": _phase(roofline.decode(config, workload, machine), workload.batch),
        },
    }


def _bytes(need: Any) -> dict[str, int]:
    from amaru.config import to_dict

    return {**to_dict(need), "total": need.total}


def _phase(phase: Any, tokens: int) -> dict[str, Any]:
    return {
        "seconds": phase.seconds,
        "bound_by": phase.binds,
        "memory_seconds": phase.memory,
        "compute_seconds": phase.compute,
        "tokens_per_second": tokens / phase.seconds if phase.seconds else None,
    }


def _machine(text: str, bandwidth: str | None, flops: str | None) -> Any:
    from amaru.models.devices import machine

    found = machine(text)
    given: dict[str, Any] = {"bandwidth": float(parse_bytes(bandwidth))} if bandwidth else {}
    if flops:
        given["flops"] = dict.fromkeys(("fp32", "bf16"), float(parse_count(flops)))
    return replace(found, device=replace(found.device, **given, source="as given")) if given else found


def _on_each(facts: Mapping[str, Any]) -> str:
    return " on each" if facts["device"]["count"] > 1 else ""


def _advice(facts: Mapping[str, Any]) -> str:
    if facts["memory_per_device"]["weights"] > facts["device"]["usable"]:
        return "The weights alone are too large; a narrower --weights format or more devices help."
    return "A smaller --batch, --context or storage format helps."


def show(facts: Mapping[str, Any], console: Console) -> None:
    workload = facts["workload"]
    active = f" ({count(facts['active_parameters'])} for a token)" if facts["active_parameters"] < facts["parameters"] else ""
    asked = f"  {count(facts['parameters'])} parameters{active}, {workload['batch']} x {workload['context']} tokens\n"
    console.print(Text.assemble((facts["model"], "bold"), asked))
    console.print(_memory_table(facts))
    console.print(_formats(workload))
    per_token, further = facts["kv_bytes_per_token"], facts["kv_bytes_per_further_token"]
    full = f", {further:,} B behind full windows" if further + 1 < per_token else ""
    console.print(f"KV per token {per_token:,.0f} B{full}; state per sequence {size(facts['state_bytes_per_sequence'])}")
    decode, prefill = facts["decode_flops_per_token"] / 1e9, facts["prefill_flops"] / 1e12
    console.print(f"prefill of one sequence {prefill:,.1f} TFLOP, a token decoded behind it {decode:,.1f} GFLOP")
    if "device" in facts:
        _show_fit(facts, console)
        _show_times(facts, console)
    if "measured" in facts:
        layer_times.show(facts["measured"], console)
    if "training" in facts:
        plan_training.show(facts["training"], console)


def _memory_table(facts: Mapping[str, Any]) -> Table:
    workload, need, each = facts["workload"], facts["memory"], facts.get("memory_per_device", {})
    devices = facts["device"]["count"] if each else 1
    columns = ["bytes", "size", "share", *([f"each of {devices}"] if devices > 1 else [])]
    table = _table("", "stored as", right=columns)
    stored = {"weights": workload["weights"], "kv": workload["kv"], "kv_meta": workload["kv"], "ssm_state": workload["state"]}
    names = {"kv_meta": f"kv, {facts['meta_tokens']} meta tokens"}
    for name, form in (stored | {"conv_state": workload["conv"], "total": ""}).items():
        if need[name] or name == "weights":
            row = (names.get(name, name.replace("_", " ")), form, f"{need[name]:,}", size(need[name]), percent(need[name] / need["total"]))
            table.add_row(*row, *([size(each[name])] if devices > 1 else []))
    return table


def _formats(workload: Mapping[str, Any]) -> str:
    """A sentence on what is not stored as the weights are, when there is something."""
    vectors = "norms, convolutions and biases" if workload["vectors"] != workload["weights"] else ""
    vocabulary = "embedding and head" if workload["embedding"] != workload["weights"] else ""
    if vectors and workload["embedding"] == workload["vectors"]:
        apart = f"embedding, head, {vectors} {workload['vectors']}"
    else:
        kinds = ((vocabulary, workload["embedding"]), (vectors, workload["vectors"]))
        apart = "; ".join(f"{kind} {stored}" for kind, stored in kinds if kind)
    return f"\n{workload['weights']}: matrices of layers; {apart}\n" if apart else ""


def _show_fit(facts: Mapping[str, Any], console: Console) -> None:
    device, workload, each = facts["device"], facts["workload"], _on_each(facts)
    name = f"{device['count']}x{device['name']}" if each else device["name"]
    console.print(f"\n{name}: {size(device['memory'])}{each} less {size(device['reserve'])} in reserve, {size(device['usable'])} usable")
    left = device["usable"] - facts["memory_per_device"]["total"]
    answer, rest = ("fits", "left") if left >= 0 else ("does not fit", "too much")
    console.print(Text.assemble((answer, "bold"), f", {size(abs(left))} {rest}{each}"))
    if facts["sequences_that_fit"] is not None:
        console.print(f"room for {facts['sequences_that_fit']:,} sequences of {workload['context']:,} tokens")
    longest = "any context" if facts["largest_context"] is None else f"at most {facts['largest_context']:,} tokens of context"
    console.print(f"{longest} at batch {workload['batch']:,} (its config names {facts['max_positions']:,})")


def _show_times(facts: Mapping[str, Any], console: Console) -> None:
    bounds, workload, device = facts["lower_bounds"], facts["workload"], facts["device"]
    if bounds["decode"]["seconds"] is None:
        console.print("no times: give the device's figures with --bandwidth and --flops")
        return
    table = _table("", right=("at least", "memory", "compute"))
    table.add_column("at most")
    for phase, name in {"prefill": f"prefill 1 x {workload['context']:,}", "decode": f"decode {workload['batch']:,} x 1"}.items():
        times = bounds[phase]
        row = [duration(times[key]) for key in ("seconds", "memory_seconds", "compute_seconds")]
        rate = times["tokens_per_second"]
        table.add_row(name, *row, f"{rate:,.{0 if rate >= 10 else 1}f} tokens/s, {times['bound_by']}-bound")
    console.print()
    console.print(table)
    console.print("\nFirst-order lower bounds; `amaru plan --help` tells the formulas.")
    console.print(f"Reading all weights once takes {duration(bounds['weights_once_seconds'])}.")
    console.print(f"Figures: {device['source']}.")


def _table(*left: str, right: Iterable[str]) -> Table:
    table = Table(*left, box=None, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False)
    for name in right:
        table.add_column(name, justify="right")
    return table
