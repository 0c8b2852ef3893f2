"""The cells of a claim of speed, and the verdicts from their records: a finding for each pair of shapes and each way to compare them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import torch

from amaru.config import from_dict, to_dict
from amaru.config.records import read_record
from amaru.models import cost
from amaru.recipes.bench.long import Throughput, measure
from amaru.recipes.latency import circumstances, table_for
from amaru.recipes.reproduce.intervals import interval
from amaru.recipes.reproduce.judging import HOLDS, NOT, PART, UNFINISHED, Found, above, finding, judgement, records, told
from amaru.recipes.reproduce.speed.plan import Pair, beside
from amaru.recipes.reproduce.speed.settings import Duel, SpeedClaim
from amaru.recipes.reproduce.speed.shapes import drawn, reduced, shape_of
from amaru.recipes.run import Run

Records = Mapping[str, Mapping[str, Any]]


class Cell(NamedTuple):
    """One comparison; its record is `cell-NAME.json`."""

    kind: str
    compared: Pair | Duel
    round: int | None = None

    @property
    def name(self) -> str:
        again = "" if self.round is None else f"-round{self.round}"
        return f"{self.kind}-{self.compared.name}{again}"


def cells(recipe: SpeedClaim) -> Iterator[Cell]:
    """Those that are computed first, then those that are measured."""
    yield from (Cell("plan", pair) for pair in recipe.plans)
    yield from (Cell("blocks", duel) for duel in recipe.blocks)
    yield from (Cell("engine", duel, number) for duel in recipe.engine for number in range(recipe.rounds))


def make(recipe: SpeedClaim, run: Run) -> None:
    """Fill every cell that has no record yet, one after the other."""
    for cell in cells(recipe):
        run.result(f"cell-{cell.name}", {"cell": cell.name}, lambda cell=cell: _made(recipe, run, cell), title=cell.name)


def _made(recipe: SpeedClaim, run: Run, cell: Cell) -> dict[str, Any]:
    if isinstance(cell.compared, Pair):
        return beside(cell.compared)
    return {**to_dict(cell.compared), **(_engine if cell.kind == "engine" else _blocks)(recipe, run, cell.compared)}


def _engine(recipe: SpeedClaim, run: Run, duel: Duel) -> dict[str, Any]:
    """Both in turns, with random weights in bf16."""
    rates = {name: _throughput(recipe, run, getattr(duel, name), duel.divisor) for name in ("ours", "theirs")}
    told = {name: to_dict(found) for name, found in rates.items()}
    return {"rates": told, "ratio": rates["ours"].tokens_per_second / rates["theirs"].tokens_per_second, **_here()}


def _throughput(recipe: SpeedClaim, run: Run, name: str, divisor: int) -> Throughput:
    return measure(drawn(reduced(shape_of(name), divisor)), recipe.long, lambda text: run.progress.update(f"{name}: {text}"))


def _blocks(recipe: SpeedClaim, run: Run, duel: Duel) -> dict[str, Any]:
    """Seconds of the layers of both, prefill and a step of decoding, as sums of times of their blocks."""
    seconds = {}
    for side in ("ours", "theirs"):
        config = reduced(shape_of(getattr(duel, side)), duel.divisor)
        pairs = [(config.hidden, layer) for layer in dict.fromkeys(config.layers)]
        asked: dict[str, Any] = {"prompt": recipe.prompt, "context": recipe.prompt, "batches": (1,)}
        file = run.path(f"latency-{circumstances(config, **asked).key}.safetensors")
        table = table_for(config, pairs, file=file, progress=run.progress.update, **asked)
        layers = {kind: sum(layer.kind == kind for layer in config.layers) for kind in dict.fromkeys(each.kind for each in config.layers)}
        times = {"prefill": table.prefill(config)[0], "decode": table.decode(config, 1)[0]}
        seconds[side] = {**times, "layers": layers, "parameters": cost.parameters(config)}
    ratios = {phase: seconds["theirs"][phase] / seconds["ours"][phase] for phase in ("prefill", "decode")}
    return {"seconds": seconds, "ratios": ratios, "prompt": recipe.prompt, **_here()}


def _here() -> dict[str, Any]:
    return {"threads": torch.get_num_threads()}


def judge(kind: type[SpeedClaim], directory: Path) -> Found:
    """The verdict from the records that are there: `judge(LongContext, Path("runs/reproduce-long-context"))["claims"]`."""
    recipe = from_dict(kind, read_record(directory / "run.json")["recipe"])
    wanted = list(cells(recipe))
    there = records(directory, [cell.name for cell in wanted])
    findings = [_planned(pair, there) for pair in recipe.plans]
    findings += [_timed(duel, there) for duel in recipe.blocks]
    findings += [_measured(duel, recipe, there) for duel in recipe.engine]
    return judgement(findings, [cell.name for cell in wanted if cell.name not in there], tables=[_table(there)])


def _planned(pair: Pair, there: Records) -> Found:
    """Holds where the paper's ratio is not above what is possible between the shares of the peaks that programs reach."""
    claim, record = f"{pair.ours} is {pair.paper:g} times as fast as {pair.theirs}", there.get(Cell("plan", pair).name)
    if record is None:
        return finding(claim, UNFINISHED, f"{claim}: not computed yet.")
    setting = f"No such device here: computed from bytes and FLOPs of the real shapes at published rates; {record['serving']}"
    verdict = HOLDS if record["paper"] <= record["range"][1] else NOT
    sentence = (
        f"{pair.ours} beside {pair.theirs}: {record['at_peak']:.2f} times at the peaks, {told(record['range'])} where programs reach "
        f"{_share(pair.serving.computing)} of the FLOP/s and {_share(pair.serving.moving)} of the bandwidth."
    )
    return finding(claim, verdict, sentence, setting=setting, figure=record["at_peak"], interval=record["range"], paper=record["paper"])


def _timed(duel: Duel, there: Records) -> Found:
    claim, record = f"Layers of {duel.ours} are {duel.aim:g} times as fast as those of {duel.theirs}", there.get(Cell("blocks", duel).name)
    if record is None:
        return finding(claim, UNFINISHED, f"{claim}: not measured yet.")
    ratios = record["ratios"]
    verdict = HOLDS if min(ratios.values()) >= duel.aim else NOT if max(ratios.values()) < duel.aim else PART
    sentence = (
        f"Layers of {duel.ours} beside {duel.theirs}: prefill {ratios['prefill']:.2f} and decode {ratios['decode']:.2f} times as fast."
    )
    widths = "at real widths" if duel.divisor == 1 else f"at widths divided by {duel.divisor}"
    setting = f"Blocks timed on this CPU {widths}, bf16, {record['threads']} threads, and added up; {record['prompt']:,} tokens in, batch 1"
    return finding(claim, verdict, sentence, setting=setting, figure=ratios["decode"], interval=None, paper=duel.aim)


def _measured(duel: Duel, recipe: SpeedClaim, there: Records) -> Found:
    claim = f"{duel.ours} writes {duel.aim:g} times the output tokens of {duel.theirs}"
    found = [there[name] for number in range(recipe.rounds) if (name := Cell("engine", duel, number).name) in there]
    ratios = [each["ratio"] for each in found]
    bounds = interval(ratios)
    if bounds is None:
        return finding(claim, UNFINISHED, f"{claim}: {len(ratios)} of the rounds are there, and an interval needs two.")
    sentence = f"{duel.ours} beside {duel.theirs} in one engine here: {mean(ratios):.2f} times the output tokens a second ({told(bounds)})."
    sizes = " and ".join(f"{found[0]['rates'][side]['parameters'] / 1e6:.1f} M" for side in ("ours", "theirs"))
    setting = (
        f"This CPU, {found[0]['threads']} threads: copies with widths divided by {duel.divisor} ({sizes} parameters), bf16, "
        f"{recipe.long.prompt:,} tokens in, {recipe.long.new:,} out, {recipe.long.memory / 1e9:g} GB for states; {len(ratios)} rounds"
    )
    return finding(claim, above(bounds, duel.aim), sentence, setting=setting, figure=mean(ratios), interval=bounds, paper=duel.aim)


def _share(span: tuple[float, float]) -> str:
    return f"{span[0]:.0%} to {span[1]:.0%}"


def _table(there: Records) -> Found:
    """A row a side of each planned or measured pair."""
    rows = []
    for name, record in there.items():
        if "rates" not in record:
            continue
        rates = record["rates"].values() if isinstance(record["rates"], dict) else record["rates"]
        for side, found in zip(("ours", "theirs"), rates, strict=True):
            seconds = (found["prefill_seconds"], found["step_seconds"])
            rows.append([name, record[side], found["batch"], *(1e3 * each for each in seconds), found["tokens_per_second"]])
    headers = ["cell", "model", "batch", "a prompt, ms", "a step, ms", "output tokens/s a device"]
    return {"title": "Rates", "headers": headers, "rows": rows}
