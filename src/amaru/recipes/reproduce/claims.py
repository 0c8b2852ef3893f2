"""Which claims there are. A new one is a row here, and a module beside this one."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from amaru.config import Config, atomic_file
from amaru.errors import ConfigError
from amaru.recipes.reproduce import fp8, synthetic_share, tied_lora, tied_lora_verdict
from amaru.recipes.reproduce.alignment import claim as alignment
from amaru.recipes.reproduce.alignment.settings import AlignmentClaims
from amaru.recipes.reproduce.compression import claim as compression
from amaru.recipes.reproduce.compression.settings import CompressionClaims, GroupAware
from amaru.recipes.reproduce.speed import claim as speed
from amaru.recipes.reproduce.speed import constant, fits, hymba_cache
from amaru.recipes.reproduce.speed.settings import FortySevenB, FourB, LongContext, SpeedClaim
from amaru.recipes.reproduce.trained import ladder, scaling, shares, trials, twins
from amaru.recipes.reproduce.trained.trials import Trials


class Claim(NamedTuple):
    """`sentence` is what the paper says; `make(recipe, run)` fills the cells that are missing, `judge(directory)` reads them all.

    `judge` gives a verdict, a sentence, the names of what is missing, and findings under "claims" where there are several. `setting` is
    how they were found where they do not say it themselves. `side_by_side` says that `make` takes `jobs`, how many cells are made at a
    time.
    """

    sentence: str
    recipe: type[Config]
    make: Callable[..., None]
    judge: Callable[[Path], dict[str, Any]]
    side_by_side: bool = False
    setting: str = ""


def _speed(sentence: str, recipe: type[SpeedClaim]) -> Claim:
    return Claim(sentence, recipe, speed.make, partial(speed.judge, recipe))


def _trained(sentence: str, recipe: type[Trials], module: ModuleType) -> Claim:
    """A module with `shapes` and `judge`."""
    return Claim(sentence, recipe, partial(trials.make, module.shapes), module.judge, side_by_side=True)


CLAIMS = {
    "long-context": _speed("Nemotron-H is up to 3 times as fast as Transformers of its size, 64k in, 1k out (2504.03624).", LongContext),
    "constant-cost": Claim(
        "Mamba-2 layers take constant computation and memory per generated token (2504.03624, 1).",
        constant.ConstantCost,
        constant.make,
        constant.judge,
    ),
    "twins": _trained("A hybrid is as accurate as a Transformer of its size on the same tokens (2504.03624, 2.1).", twins.Twins, twins),
    "inference-scaling": Claim(
        "Cheap tokens buy accuracy: more samples of an answer in the same time (2504.03624, 1).",
        scaling.Scaling,
        scaling.make,
        scaling.judge,
    ),
    "4b": _speed("Nemotron-H-4B is 2.2 times as fast as Phi-4-mini and 1.35 times as fast as its parent (2504.11409).", FourB),
    "attention-share": _trained("About 8 % attention layers are enough (2504.03624, 2.1).", shares.Shares, shares),
    "47b": _speed("MiniPuzzle: Nemotron-H-47B is 1.2 times as fast as the 56B (2504.03624, 3).", FortySevenB),
    "fp8": Claim(
        "Trained in FP8, the loss is within 0.1 % of that in BF16 (2504.03624, 2.3).",
        fp8.Fp8Pairs,
        fp8.make,
        fp8.judge,
        setting="Pairs of 3.7 M parameters, three seeds, and one of 15 M; no FP8 hardware here: its arithmetic is emulated",
    ),
    "compression": Claim(
        "Group-aware pruning, Mamba axes, distillation with 40 times fewer tokens (Minitron-SSM, MiniPuzzle, Puzzle).",
        CompressionClaims,
        compression.make,
        partial(compression.judge, CompressionClaims),
        side_by_side=True,
        setting="Three parents of 3.7 M parameters and one of 15 M, trained, cut and distilled on this CPU",
    ),
    "group-aware": Claim(
        "Mamba heads are pruned within their groups (Minitron-SSM, 2504.11409, 3).",
        GroupAware,
        compression.make,
        partial(compression.judge, GroupAware),
        side_by_side=True,
        setting="Three parents of 4.0 M parameters whose 16 heads are in 8 groups, trained, cut and distilled on this CPU",
    ),
    "hymba-cache": Claim(
        "Hymba-1.5B's cache is 11.67 times smaller than that of Llama-3.2-3B, and it is 3.49 times as fast (2411.13676).",
        hymba_cache.HymbaCache,
        hymba_cache.make,
        hymba_cache.judge,
    ),
    "hymba-ladder": _trained(
        "Parallel heads beat sequential ones and either alone; meta tokens raise recall; windows and shared KV cost little (2411.13676).",
        ladder.Ladder,
        ladder,
    ),
    "alignment": Claim(
        "DPO and rounds of RPO raise what a model does as asked; RPO beside DPO; reward models; weak to strong (2406.11704).",
        AlignmentClaims,
        alignment.make,
        alignment.judge,
        side_by_side=True,
        setting="A model of 0.3 M parameters in a world of requests that a program can check, 512 of them held out, three seeds",
    ),
    "tied-lora": Claim(
        "Tied-LoRA is within 1 to 2 % of LoRA with an eighth of its numbers, at ranks 2 to 128 (2311.09578).",
        tied_lora.TiedLoraTrials,
        tied_lora.make,
        tied_lora_verdict.judge,
        side_by_side=True,
        setting="A hybrid and a Transformer of about 2 M parameters, trained on this CPU, three seeds",
    ),
    "synthetic-share": Claim(
        "Over 98 % of the data that aligns Nemotron-4 340B is synthetic (2406.11704, 3).",
        synthetic_share.SyntheticShare,
        synthetic_share.make,
        synthetic_share.judge,
    ),
    "nemotron-4-fits": Claim("Nemotron-4 340B in FP8 fits eight H100 (2406.11704).", fits.Fits, fits.make, fits.judge),
}


def verdict(claim: Claim, directory: Path) -> dict[str, Any]:
    """Judge the records of a run directory, and write what is found beside them, where the report reads it."""
    found = {"paper": claim.sentence, **claim.judge(directory)}
    with atomic_file(directory / "verdict.json") as temporary:
        temporary.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return found


def claim_named(name: str) -> Claim:
    """Raises `ConfigError` with the names there are."""
    if name not in CLAIMS:
        raise ConfigError(f"There is no claim '{name}' to reproduce; there is: {', '.join(CLAIMS)}. `amaru reproduce` tells what they say.")
    return CLAIMS[name]
