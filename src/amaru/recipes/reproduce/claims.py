"""Which claims there are. A new one is a row here, and a module beside this one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from amaru.config import Config, atomic_file
from amaru.errors import ConfigError
from amaru.recipes.reproduce import fp8, tied_lora, tied_lora_verdict
from amaru.recipes.reproduce.compression import claim as compression
from amaru.recipes.reproduce.compression.settings import CompressionClaims


class Claim(NamedTuple):
    """`sentence` is what the paper says; `make(recipe, run)` fills the cells that are missing, `judge(directory)` reads them all.

    `side_by_side` says that `make` takes `jobs`, how many cells are made at a time.
    """

    sentence: str
    recipe: type[Config]
    make: Callable[..., None]
    judge: Callable[[Path], dict[str, Any]]
    side_by_side: bool = False


CLAIMS = {
    "compression": Claim(
        "Group-aware pruning, Mamba axes, distillation with 40 times fewer tokens (Minitron-SSM, MiniPuzzle, Puzzle).",
        CompressionClaims,
        compression.make,
        compression.judge,
        side_by_side=True,
    ),
    "fp8": Claim("Trained in FP8, the loss is within 0.1 % of that in BF16 (Nemotron-H, 2.3).", fp8.Fp8Pairs, fp8.make, fp8.judge),
    "tied-lora": Claim(
        "Tied-LoRA is within 1 to 2 % of LoRA with an eighth of its numbers, at ranks 2 to 128 (arXiv 2311.09578).",
        tied_lora.TiedLoraTrials,
        tied_lora.make,
        tied_lora_verdict.judge,
        side_by_side=True,
    ),
}


def verdict(claim: Claim, directory: Path) -> dict[str, Any]:
    """Judge the records of a run directory, and write what is found beside them, where the report reads it."""
    found = claim.judge(directory)
    with atomic_file(directory / "verdict.json") as temporary:
        temporary.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return found


def claim_named(name: str) -> Claim:
    """Raises `ConfigError` with the names there are."""
    if name not in CLAIMS:
        told = "; ".join(f"{known}: {claim.sentence}" for known, claim in CLAIMS.items())
        raise ConfigError(f"There is no claim '{name}' to reproduce. There is {told}")
    return CLAIMS[name]
