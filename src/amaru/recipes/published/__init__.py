"""Recipes as their papers give them, as YAML that `amaru train --recipe NAME` and, in `compress`, `amaru compress --recipe NAME`
read; what a paper leaves open stands in its head."""

from pathlib import Path

import yaml

HERE = Path(__file__).parent
COMPRESS = HERE / "compress"


def names(folder: Path = HERE) -> list[str]:
    """`["hymba-1.5b", "nemotron-4-340b-continued", ...]`"""
    return sorted(file.stem for file in folder.glob("*.yaml"))


def find(recipe: Path, folder: Path = HERE) -> Path:
    """A file as it is; else the published recipe of that name, if there is one."""
    published = folder / f"{recipe}.yaml"
    return published if not recipe.exists() and str(recipe) in names(folder) else recipe


def said(recipe: Path | None) -> str | None:
    """What the paper reports of it, where the file tells (its `paper` beside `recipe`)."""
    values = yaml.safe_load(recipe.read_text(encoding="utf-8")) if recipe and recipe.exists() else {}
    return values.get("paper") if isinstance(values, dict) else None
