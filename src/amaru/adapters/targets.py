"""Which linear layers an adapter reaches: chosen by kind, name, segment and layer, and told in a table before anything is trained."""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from amaru.axes import Axes, Expression, part
from amaru.axes.expression import Concat
from amaru.errors import ConfigError
from amaru.models.decoder import DecoderConfig
from amaru.models.quantised import projections

KINDS = {"mamba": "mamba2"}  # as people say it


class Site(NamedTuple):
    """Rows `start` to `stop` of one linear layer: all of them, or those of a segment.

    `Site("layers.3.mixer.in_proj", "x", 8192, 16384, 4096, "mamba2", 3)`; the head has no layer.
    """

    path: str
    segment: str | None
    start: int
    stop: int
    cols: int
    kind: str
    layer: int | None

    @property
    def name(self) -> str:
        return self.path if self.segment is None else f"{self.path}.{self.segment}"

    @property
    def role(self) -> str:
        """The name inside the layer: what layers of a kind have in common."""
        return self.name.partition(".mixer.")[2] or self.name

    @property
    def rows(self) -> int:
        return self.stop - self.start


def sites(config: DecoderConfig) -> dict[str, Site]:
    """By its name every linear layer of a model, and every segment of those that are concatenations.

    Routers and stacked experts are not among them: no linear layer holds their weights.
    """
    tensors = config.tensors()
    found: dict[str, Site] = {}
    for weight, shape in sorted(projections(config).items(), key=lambda each: each[0] == "head.weight"):
        if len(shape) == 2:
            spec, axes = tensors[weight]
            whole = _site(weight, shape, config)
            found |= {site.name: site for site in (whole, *_segments(whole, spec.layout.dimensions[0], axes))}
    return found


def _site(weight: str, shape: tuple[int, ...], config: DecoderConfig) -> Site:
    layer = re.match(r"layers\.(\d+)\.", weight)
    index = int(layer[1]) if layer else None
    kind = "head" if index is None else config.layers[index].kind
    return Site(weight.removesuffix(".weight"), None, 0, shape[0], shape[1], kind, index)


def _segments(whole: Site, rows: Expression, axes: Axes) -> Iterator[Site]:
    for name in rows.names if isinstance(rows, Concat) else ():
        where, _ = part(rows, name, axes)
        yield whole._replace(segment=name, start=where.start, stop=where.stop)


def chosen(config: DecoderConfig, targets: Sequence[str], layers: Sequence[int] | None = None) -> list[Site]:
    """`chosen(config, ("mamba", "attention.q_proj", "in_proj.x"), layers=(0, 1, 4))`: the sites that are meant, in the model's order.

    A target is `all` (every linear layer but the head), a kind of layer, the end of a name (`in_proj`, `in_proj.x`,
    `layers.3.mixer.in_proj`), or such an end within a kind (`mamba.out_proj`). `layers` narrows all of them; the head has no layer
    and stays. Raises `ConfigError` for a target or a layer that nothing comes of, and for rows that would be reached twice.
    """
    everything = sites(config)
    _check_layers(layers, config)
    inside = {name: site for name, site in everything.items() if layers is None or site.layer is None or site.layer in layers}
    names = {name for target in targets for name in _of_target(target, inside, everything, config)}
    found = [site for name, site in inside.items() if name in names]
    if not found:
        raise ConfigError("An adapter needs at least one target, such as all.")
    if layers is not None and (idle := [index for index in layers if index not in {site.layer for site in found}]):
        raise ConfigError(f"Layer {idle[0]} is {config.layers[idle[0]].kind}, of which {', '.join(targets)} reaches nothing; leave it out.")
    if twice := [site.name for site in found if site.segment is not None and site.path in names]:
        raise ConfigError(f"{twice[0]} is reached twice, as a whole projection and as a segment of it; name one of the two.")
    return found


def matches(target: str, site: Site) -> bool:
    """Whether a site is meant by a target."""
    if target == "all":
        return site.segment is None and site.layer is not None
    kind, _, end = target.partition(".")
    if KINDS.get(kind, kind) == site.kind and site.kind != "head":
        return site.segment is None if not end else _ends(site.name, end)
    return _ends(site.name, target)


def _ends(name: str, end: str) -> bool:
    return f".{name}".endswith(f".{end}")


def _of_target(target: str, inside: dict[str, Site], everything: dict[str, Site], config: DecoderConfig) -> list[str]:
    found = [name for name, site in inside.items() if matches(target, site)]
    if found:
        return found
    if any(matches(target, site) for site in everything.values()):
        raise ConfigError(f"The target '{target}' is in none of the layers that were chosen.")
    if target == "head" and config.tied:
        raise ConfigError("The head of this model is its embedding, which no adapter reaches; leave 'head' out of the targets.")
    kinds = dict.fromkeys(layer.kind for layer in config.layers)
    roles = dict.fromkeys(site.role for site in everything.values())
    raise ConfigError(f"No linear layer is meant by '{target}'. There is: all; kinds {', '.join(kinds)}; names {', '.join(roles)}.")


def _check_layers(layers: Sequence[int] | None, config: DecoderConfig) -> None:
    depth = len(config.layers)
    for index in layers or ():
        if not 0 <= index < depth:
            raise ConfigError(f"There is no layer {index}; this model's are 0 to {depth - 1}.")


class Covered(NamedTuple):
    """A row of the table: layers of a kind, and the numbers in their weights, both reached and in all."""

    kind: str
    layers: tuple[int, int]
    linears: tuple[int, int]
    weights: tuple[int, int]


def coverage(config: DecoderConfig, reached: Iterable[Site]) -> list[Covered]:
    """What an adapter reaches of every kind of layer; experts and routers count among the weights that are not reached."""
    reached = list(reached)
    whole = [site for site in sites(config).values() if site.segment is None]
    kinds = dict.fromkeys([*(layer.kind for layer in config.layers), *(site.kind for site in whole)])
    return [_covered(kind, config, [s for s in reached if s.kind == kind], [s for s in whole if s.kind == kind]) for kind in kinds]


def _covered(kind: str, config: DecoderConfig, reached: list[Site], whole: list[Site]) -> Covered:
    shapes = {weight: shape for weight, shape in projections(config).items() if _site(weight, shape, config).kind == kind}
    layers = sum(layer.kind == kind for layer in config.layers)
    return Covered(
        kind,
        (len({site.layer for site in reached} - {None}), layers),
        (len({site.path for site in reached}), len(whole)),
        (sum(site.rows * site.cols for site in reached), sum(math.prod(shape) for shape in shapes.values())),
    )


def describe(rows: Sequence[Covered]) -> str:
    """The table as text, a line for each kind and one for all.

    kind             layers    linears                  weights
    mamba2         24 of 24   48 of 48   3,623,878,656 of 3,623,878,656 (100 %)
    """
    total = Covered("all", _sum(row.layers for row in rows), _sum(row.linears for row in rows), _sum(row.weights for row in rows))
    lines = [("kind", "layers", "linears", "weights"), *(_line(row) for row in [*rows, total])]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "   ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )


def _sum(pairs: Iterable[tuple[int, int]]) -> tuple[int, int]:
    reached, of = zip(*pairs, strict=True)
    return sum(reached), sum(of)


def _line(row: Covered) -> tuple[str, ...]:
    reached, of = row.weights
    share = f"{reached:,} of {of:,} ({reached / max(1, of):.0%})"
    layers = "{} of {}".format(*row.layers) if row.layers[1] else ""  # the head has none
    return (row.kind, layers, "{} of {}".format(*row.linears), share)
