"""Recipes as their papers give them, as YAML that `amaru train --recipe NAME` reads; what a paper leaves open stands in its head."""

from pathlib import Path

HERE = Path(__file__).parent


def names() -> list[str]:
    """`["hymba-1.5b", "nemotron-4-340b-continued", ...]`"""
    return sorted(file.stem for file in HERE.glob("*.yaml"))


def find(recipe: Path) -> Path:
    """A file as it is; else the published recipe of that name, if there is one."""
    published = HERE / f"{recipe}.yaml"
    return published if not recipe.exists() and str(recipe) in names() else recipe
