"""The latency table of this machine: stacks of N and 2N equal layers in amaru's own engine, so that what is not a layer cancels."""

import os
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from amaru import __version__
from amaru.compress.latency import Circumstances, LatencyTable, Pair, Point, alike
from amaru.config import to_dict
from amaru.models.checkpoint import assemble
from amaru.models.cost import parameters
from amaru.models.decoder import Decoder, DecoderConfig
from amaru.nn.layer import LayerConfig
from amaru.serve.speed import decoding, prefilling, seconds

REPEATS = 9
STEPS = 8  # of a decode run
MOST_BYTES = 2**30  # of the layers of the larger stack
MOST_BLOCKS = 16

Progress = Callable[[str], None]


def table_for(
    config: DecoderConfig,
    pairs: Sequence[Pair],
    *,
    prompt: int,
    context: int,
    batches: Sequence[int],
    file: Path | None = None,
    progress: Progress = lambda text: None,
) -> LatencyTable:
    """A table that has all these layers, from `file` (else a cache by circumstances); what it lacks is measured and added.

    Saved after every point, so that a measurement that was stopped goes on. A file of other circumstances is an `ArtifactError`.
    """
    now = circumstances(config, prompt, context, tuple(batches))
    path = file or cached(now)
    table = LatencyTable.load(path, now) if path.exists() else LatencyTable(now)
    missing = [pair for pair in pairs if not table.measured(*pair)]
    for number, (hidden, layer) in enumerate(missing, 1):
        progress(f"latency {number}/{len(missing)}: {layer.describe()} at hidden {hidden}")
        table = table.with_point(measure_point(config, hidden, layer, now))
        path.parent.mkdir(parents=True, exist_ok=True)
        table.save(path)
    return table


def circumstances(config: DecoderConfig, prompt: int, context: int, batches: tuple[int, ...]) -> Circumstances:
    """What the times of this machine depend on, as things are now."""
    rest = {name: value for name, value in to_dict(replace(config, layers=())).items() if name not in ("hidden", "layers", "max_positions")}
    return Circumstances(
        device=_device(),
        threads=torch.get_num_threads(),
        versions={"amaru": __version__, "torch": version("torch")},
        dtype="bfloat16",
        context=context,
        batches=batches,
        prompt=prompt,
        rest=rest,
    )


def cached(now: Circumstances) -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "amaru" / "latency" / f"{now.key}.safetensors"


def measure_point(config: DecoderConfig, hidden: int, layer: LayerConfig, now: Circumstances) -> Point:
    """One layer in place: between the embedding and the head of this model, N times and 2N times, taken in turns."""
    blocks = _blocks(config, hidden, layer)
    one, two = (_stack(config, hidden, layer, count) for count in (blocks, 2 * blocks))
    prefill = _in_turns(prefilling(one, now.prompt), prefilling(two, now.prompt), one)
    decode = [_in_turns(_steps(one, batch, now.context), _steps(two, batch, now.context), one) for batch in now.batches]
    steps = min(STEPS, now.context)
    return Point(
        hidden=hidden,
        layer=layer,  # type: ignore[arg-type]
        blocks=blocks,
        prefill=_more(prefill) / blocks,
        decode=tuple(_more(times) / blocks / steps for times in decode),
        fixed_prefill=_fixed(prefill),
        fixed_decode=tuple(_fixed(times) / steps for times in decode),
        spread=max(_spread(times) for times in (prefill, *decode)),
    )


def _blocks(config: DecoderConfig, hidden: int, layer: LayerConfig) -> int:
    """N: half as many as the model has of the kind, so that weights, states and KV of 2N lie in caches as its own; fewer of large ones."""
    before, with_it = (replace(config, hidden=hidden, layers=layers) for layers in (layer.needs, (*layer.needs, layer)))
    each = 2 * (parameters(with_it) - parameters(before))
    own = sum(alike(layer, each) for each in config.layers)
    return max(1, min((own + 1) // 2, MOST_BLOCKS, MOST_BYTES // (2 * max(1, each))))


def _stack(config: DecoderConfig, hidden: int, layer: LayerConfig, count: int) -> Decoder:
    shape = replace(config, hidden=hidden, layers=(*layer.needs, *(layer,) * count))  # type: ignore[arg-type]
    drawn, tensors = 0.02 * torch.randn(2**20, generator=torch.Generator().manual_seed(0), dtype=torch.float32), shape.tensors()

    def read(name: str) -> Tensor:
        """Numbers of a usual size; that they repeat changes no time, and large stacks are made faster."""
        spec, axes = tensors[name]
        size = spec.layout.numel(axes)
        return drawn.to(torch.bfloat16).repeat(-(-size // len(drawn)))[:size].reshape(spec.layout.shape(axes))

    return assemble(shape, read, torch.bfloat16).requires_grad_(False)


def _steps(stack: Decoder, batch: int, context: int) -> Callable[[], None]:
    return decoding(stack, stack.new_state(batch, context), batch, context, min(STEPS, context))


Pairs = list[tuple[float, float]]


def _in_turns(one: Callable[[], None], two: Callable[[], None], decoder: Decoder) -> Pairs:
    """Seconds of both, again and again, so that a slow moment of the machine is in both; the first round only warms up."""
    return [(seconds(one, decoder), seconds(two, decoder)) for _ in range(REPEATS + 1)][1:]


def _least(times: Pairs) -> tuple[float, float]:
    """The shortest of each: whatever else runs on a machine only adds."""
    return min(one for one, _ in times), min(two for _, two in times)


def _more(times: Pairs) -> float:
    one, two = _least(times)
    return two - one


def _fixed(times: Pairs) -> float:
    one, two = _least(times)
    return 2 * one - two


def _spread(times: Pairs) -> float:
    quartiles = statistics.quantiles([two for _, two in times], n=4)
    return (quartiles[2] - quartiles[0]) / quartiles[1]


def _device() -> str:
    path = Path("/proc/cpuinfo")  # Linux
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
