"""All candidates of a search with their figures: `search.json`, which the report reads."""

from typing import Any, Protocol

from amaru.compress.candidate import Candidate
from amaru.compress.search import Outcome, Ranked
from amaru.config import to_dict
from amaru.models.cost import prompt_flops
from amaru.models.decoder import DecoderConfig


class Found(Protocol):
    """The candidates of a search: `compress.space.Enumeration` of one width for all layers of a kind, `Choices` of blocks."""

    @property
    def candidates(self) -> tuple[Candidate, ...]: ...

    @property
    def shapes(self) -> int: ...

    @property
    def fitting(self) -> int: ...

    def describe(self) -> str: ...


def table(parent: DecoderConfig, found: Found, ranked: list[Ranked], outcome: Outcome, prompt: int) -> dict[str, Any]:
    """Every candidate with its figures, for the report; FLOPs are of a token of a prompt so long."""
    finalists = {each.candidate.key: each for each in outcome.contenders}
    rows = []
    for each in ranked:
        final = finalists.get(each.candidate.key)
        rows.append(
            {
                "shape": each.candidate.describe(),
                "layers": list(each.candidate.layers),
                "parameters": each.candidate.parameters,
                "memory": each.candidate.memory,
                "flops": prompt_flops(each.candidate.config, prompt).total // prompt,
                **{name: getattr(each.candidate, name) for name in ("prefill", "decode", "throughput", "batch")},
                "zero_shot_rank": len(rows) + 1,
                **each.result,
                "rounds": [round["loss"] for round in final.rounds] if final else [],
                "loss_after": final.after["loss"] if final else None,
                "rank_before": final.rank_before if final else None,
                "rank_after": final.rank_after if final else None,
                "winner": each.candidate == outcome.winner,
            }
        )
    shapes = {"shapes": found.shapes, "fitting": found.fitting, "described": found.describe(), "parent": to_dict(parent)}
    return shapes | {"kendall_tau": outcome.kendall_tau, "candidates": rows}
