"""How several processes share each tensor of a model, for `amaru show --shards`."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def describe(config: Any, processes: int) -> dict[str, Any]:
    """For each distinct layer, and outside the layers: tensors, what they are made of, and their shapes whole and in each process."""
    from amaru.parallel.shares import Share

    return {"processes": processes, "tensors": list(_rows(config, Share(config, 0, processes)))}


def _rows(config: Any, share: Any) -> Iterator[dict[str, Any]]:
    first = {layer: index for index, layer in reversed([*enumerate(config.layers)])}
    wanted = tuple(f"layers.{index}.mixer." for index in first.values())
    for name, (spec, axes) in config.tensors().items():
        if name.startswith("layers.") and not name.startswith(wanted):
            continue
        index = int(name.split(".")[1]) if name.startswith("layers.") else None
        alike = 1 if index is None else config.layers.count(config.layers[index])
        yield {
            "layer": index,
            "layers_alike": alike,
            "name": name if index is None else name.split(".", 2)[2],
            "layout": str(spec.layout),
            "divided": share.divided(name),
            "shape": list(spec.layout.shape(axes)),
            "shape_each": list(share.shape(name)),
        }


def show(facts: Mapping[str, Any], console: Console) -> None:
    console.print(f"\neach tensor in {facts['processes']} processes that share every layer; norms of the stream are in all of them")
    table = Table("layer", "tensor", "made of", box=None, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("whole", "in each"):
        table.add_column(name, justify="right")
    before = ""
    for row in facts["tensors"]:
        alike = f" and {row['layers_alike'] - 1} alike" if row["layers_alike"] > 1 else ""
        layer = "" if row["layer"] is None else f"{row['layer']}{alike}"
        whole, each = (" x ".join(map(str, row[name])) for name in ("shape", "shape_each"))
        table.add_row("" if layer == before else layer, row["name"], row["layout"], whole, each if row["divided"] else "all")
        before = layer
    console.print(table)
