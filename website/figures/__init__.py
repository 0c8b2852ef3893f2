"""The drawings of docs/concepts, each computed from a formula or from amaru's own counts; `python -m website.figures` writes them."""

from collections.abc import Callable
from pathlib import Path

from website.figures import cache, frontier, gap, groups, mask, shapes, tied

CONCEPTS = Path(__file__).parents[2] / "docs" / "concepts"
DRAWINGS: dict[str, Callable[[], str]] = {
    "hybrids": cache.draw,
    "group_aware_pruning": groups.draw,
    "minipuzzle": shapes.draw,
    "frontier": frontier.draw,
    "meta_tokens": mask.draw,
    "tied_adapters": tied.draw,
    "rpo": gap.draw,
}
