"""What training takes in each process of a layout, for `amaru plan --train`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.table import Table

from amaru.report.numbers import size

MEANING = {
    "weights": "fp32 master weights",
    "gradients": "fp32",
    "optimizer": "two moments in fp32",
    "gathered": "layers while they run, and their gradients",
    "copies": "weights in the compute dtype",
    "activations": "that wait for the backward pass",
    "logits": "of one chunk, and their gradients",
    "total": "",
}


def describe(config: Any, tokens: int, processes: int, tensor: int, sequence: bool) -> dict[str, Any]:
    """Bytes of each process, with activations kept and with layers run again (`recomputed`)."""
    from amaru.config import to_dict
    from amaru.models.training_memory import Footing, training_memory
    from amaru.train.parallel.layout import Layout

    layout = Layout.of(processes, tensor, sequence)
    footing = Footing(tokens=tokens, data=layout.data, tensor=layout.tensor, sequence=layout.sequence)
    return {
        "layout": to_dict(layout),
        "tokens_at_once": tokens,
        "each": to_dict(training_memory(config, footing)),
        "recomputed": to_dict(training_memory(config, replace(footing, recompute=True))),
    }


def show(facts: Mapping[str, Any], console: Console) -> None:
    layout, each, again = facts["layout"], facts["each"], facts["recomputed"]
    shared = ", the tokens between layers too" if layout["sequence"] else ""
    processes = f"each of {layout['data'] * layout['tensor']} processes"
    console.print(f"\ntraining in bf16 with AdamW, {facts['tokens_at_once']:,} tokens at once in {processes}:")
    console.print(f"{layout['data']} share every batch, {layout['tensor']} every layer{shared}\n")
    table = Table("", "", box=None, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("bytes", "each", "layers run again"):
        table.add_column(name, justify="right")
    for name, meaning in MEANING.items():
        if each[name]:
            table.add_row(name, meaning, f"{each[name]:,}", size(each[name]), size(again[name]))
    console.print(table)
