"""Hymba's cache beside that of a Transformer, counted from the real shapes, and its speed by plan."""

from pathlib import Path
from typing import Any

from pydantic import Field

from amaru.config import Config, from_dict
from amaru.config.records import read_record
from amaru.models import cost
from amaru.models.cost import Workload
from amaru.models.families import config_of
from amaru.recipes.reproduce.judging import HOLDS, NOT, UNFINISHED, Found, finding, judgement, records
from amaru.recipes.reproduce.speed.plan import Pair, Serving, beside
from amaru.recipes.reproduce.speed.shapes import shape_of
from amaru.recipes.run import Run

HYMBA_SERVING = Serving(machine="A100-80GB", prompt=7168, new=1024, batch=128, weights="fp16", kv="fp16")


class HymbaCache(Config):
    """`HymbaCache()`: Hymba-1.5B beside Llama-3.2-3B at 8k in FP16 (2411.13676, tables 1 and 2).

    Contexts differ because the paper's do: 8,192 tokens for Hymba, without meta tokens, and 8,000 for the Transformer give its figures.
    """

    context: int = Field(default=8192, gt=0)
    theirs_context: int = Field(default=8000, gt=0)
    theirs: str = "llama-3.2-3b"
    paper_ratio: float = 11.67
    paper_megabytes: tuple[float, float] = (78.6, 918)
    speed: Pair = Pair(ours="hymba-1.5b", theirs="llama-3.2-3b", paper=3.49, serving=HYMBA_SERVING)


def make(recipe: HymbaCache, run: Run) -> None:
    run.result("cell-cache", {"cell": "cache"}, lambda: _caches(recipe), title="caches")
    run.result("cell-speed", {"cell": "speed"}, lambda: beside(recipe.speed), title="speed by plan")


def _caches(recipe: HymbaCache) -> dict[str, Any]:
    """Bytes of keys, values and states of one sequence; rows of meta tokens apart, as the paper leaves them out."""
    hymba, theirs = config_of("hymba-1.5b"), shape_of(recipe.theirs)
    ours = cost.memory(hymba, _fp16(recipe.context))
    other = cost.memory(theirs, _fp16(recipe.theirs_context))
    return {"ours": ours.kv + ours.ssm_state + ours.conv_state, "ours_meta": ours.kv_meta, "theirs": other.sequences}


def _fp16(context: int) -> Workload:
    return Workload(context=context, weights="fp16", kv="fp16", state="fp16", conv="fp16")


def judge(directory: Path) -> Found:
    recipe = from_dict(HymbaCache, read_record(directory / "run.json")["recipe"])
    there = records(directory, ["cache", "speed"])
    findings = [_smaller(recipe, there.get("cache")), _faster(recipe, there.get("speed"))]
    return judgement(findings, [name for name in ("cache", "speed") if name not in there])


def _smaller(recipe: HymbaCache, record: Any) -> Found:
    claim = f"Hymba-1.5B's cache is {recipe.paper_ratio:g} times smaller than that of {recipe.theirs}"
    if record is None:
        return finding(claim, UNFINISHED, f"{claim}: not counted yet.")
    ratio, with_meta = record["theirs"] / record["ours"], record["theirs"] / (record["ours"] + record["ours_meta"])
    verdict = HOLDS if ratio >= 0.99 * recipe.paper_ratio else NOT
    sentence = (
        f"{record['theirs'] / 1e6:.1f} MB against {record['ours'] / 1e6:.1f} MB: {ratio:.2f} times smaller; "
        f"{with_meta:.2f} with the rows of its meta tokens, which the paper leaves out."
    )
    setting = f"Counted from the real shapes, FP16, {recipe.context:,} and {recipe.theirs_context:,} tokens"
    return finding(claim, verdict, sentence, setting=setting, figure=ratio, interval=None, paper=recipe.paper_ratio)


def _faster(recipe: HymbaCache, record: Any) -> Found:
    pair = recipe.speed
    claim = f"Hymba-1.5B is {pair.paper:g} times as fast as {pair.theirs}"
    if record is None:
        return finding(claim, UNFINISHED, f"{claim}: not computed yet.")
    low, high = record["range"]
    verdict = HOLDS if record["paper"] <= high else NOT
    batches = " and ".join(str(each["batch"]) for each in record["rates"])
    sentence = f"{record['at_peak']:.2f} times at the peaks, {low:.2f} to {high:.2f} below them, at batches of {batches} that fit."
    setting = f"No such device here: computed from bytes and FLOPs at published rates; {record['serving']}"
    return finding(claim, verdict, sentence, setting=setting, figure=record["at_peak"], interval=[low, high], paper=record["paper"])
