"""`amaru show`: what a model is made of, from its config alone."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from amaru.cli.output import JsonFlag, emit
from amaru.errors import ConfigError
from amaru.report.numbers import count, percent

LETTERS_PER_LINE = 60


def command(
    model: Annotated[str, typer.Argument(help="A checkpoint directory, or a preset such as nemotron-h-8b.")],
    axes: Annotated[
        int | None, typer.Option(metavar="LAYER", help="Also list the tensors of this layer and the axes they are made of.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Show what a model is made of: its stack, the widths of each kind of layer, and where the parameters are.

    Only config.json is read; a preset needs no file at all.
    """
    from amaru.models.families import config_of

    config = config_of(model)
    emit({"model": model, **describe(config, axes)}, json=json, people=show)


def describe(config: Any, layer: int | None = None) -> dict[str, Any]:
    """The facts of a `DecoderConfig`; with `layer` also its tensors."""
    from amaru.models.cost import parameters, parameters_by_kind
    from amaru.models.pattern import pattern_of

    facts = {
        "pattern": pattern_of(config.layers),
        "vocab": config.vocab,
        "hidden": config.hidden,
        "tied": config.tied,
        "parameters": parameters(config),
        "parameters_by_kind": parameters_by_kind(config),
        "kinds": list(_kinds(config)),
    }
    return facts if layer is None else facts | {"layer": _layer(config, layer)}


def _kinds(config: Any) -> Any:
    """One row for each distinct layer config, in the order of first appearance."""
    from amaru.nn.layer import elements

    for layer in dict.fromkeys(config.layers):
        indices = [index for index, other in enumerate(config.layers) if other == layer]
        each = elements(config.layer_tensors(indices[0]), config.layer_axes(indices[0]))
        yield {"letter": layer.letter, "kind": layer.kind, "widths": layer.describe(), "layers": indices, "parameters_each": each}


def _layer(config: Any, index: int) -> dict[str, Any]:
    if not 0 <= index < len(config.layers):
        raise ConfigError(f"There is no layer {index}; this model has layers 0 to {len(config.layers) - 1}.")
    axes = config.layer_axes(index)
    tensors = [
        {
            "name": name,
            "layout": str(spec.layout),
            "shape": list(spec.layout.shape(axes)),
            "parameters": spec.layout.numel(axes),
            "always_fp32": spec.keep_fp32,
        }
        for name, spec in config.layer_tensors(index).items()
    ]
    sizes = [
        {"name": axis.name, "size": axis.size, "parents": list(axis.parents), "fixed": axis.fixed}
        for axis in axes.values()
        if axis.name != "vocab"
    ]
    return {"index": index, "kind": config.layers[index].kind, "axes": sizes, "tensors": tensors}


def show(facts: Mapping[str, Any], console: Console) -> None:
    tied = "tied to the embedding" if facts["tied"] else "own head"
    sizes = f"  {len(facts['pattern'])} layers, hidden {facts['hidden']}, vocab {facts['vocab']}, {tied}\n"
    console.print(Text.assemble((facts["model"], "bold"), sizes))
    for start in range(0, len(facts["pattern"]), LETTERS_PER_LINE):
        letters = facts["pattern"][start : start + LETTERS_PER_LINE]
        console.print("  " + "".join(f"{index:<10}" for index in range(start, start + len(letters), 10)), style="dim")
        console.print(f"  {letters}")
    console.print()
    console.print(_kinds_table(facts))
    if "layer" in facts:
        console.print()
        _show_layer(facts["layer"], console)


def _kinds_table(facts: Mapping[str, Any]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=True, padding=(0, 2, 0, 0), show_footer=True)
    table.add_column("")
    table.add_column("kind", "total")
    table.add_column("widths")
    table.add_column("layers", justify="right")
    table.add_column("each", justify="right")
    table.add_column("parameters", count(facts["parameters"]), justify="right")
    table.add_column("share", percent(1), justify="right")

    for row in facts["kinds"]:
        layers, each = len(row["layers"]), row["parameters_each"]
        share = percent(layers * each / facts["parameters"])
        table.add_row(row["letter"], row["kind"], row["widths"], str(layers), count(each), count(layers * each), share)
    for name in ("embedding and head", "norm"):
        parameters = facts["parameters_by_kind"][name]
        table.add_row("", name, "", "", "", count(parameters), percent(parameters / facts["parameters"]))
    return table


def _show_layer(layer: Mapping[str, Any], console: Console) -> None:
    console.print(f"layer {layer['index']}: {layer['kind']}", style="bold")
    axes = Table("axis", "size", "under", box=None, padding=(0, 2, 0, 0))
    for axis in layer["axes"]:
        axes.add_row(axis["name"], str(axis["size"]), "fixed" if axis["fixed"] else ", ".join(axis["parents"]))
    tensors = Table("tensor", "shape", "parameters", "layout", box=None, padding=(0, 2, 0, 0))
    for tensor in layer["tensors"]:
        shape = " x ".join(map(str, tensor["shape"])) + (" fp32" if tensor["always_fp32"] else "")
        tensors.add_row(tensor["name"], shape, count(tensor["parameters"]), tensor["layout"])
    console.print(axes)
    console.print()
    console.print(tensors)
