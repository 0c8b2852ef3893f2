"""What the site is made from: pages of the repository at their own paths, so that links hold, and pages made of docstrings."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from website import api
from website.links import LINK, title

ROOT = Path(__file__).parents[1]
FRONT = ("README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md")
LOOK = Path(__file__).parent / "look"


def gather(into: Path) -> Path:
    """`gather(Path("build/site"))` writes `into/pages` and the settings that build them; returns the path of the settings."""
    shutil.rmtree(into, ignore_errors=True)
    pages = into / "pages"
    for path in sorted({*documents(), *_linked(documents())}):
        target = pages / _place(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(_without_folders(path).encode() if path.suffix == ".md" else path.read_bytes())
    shutil.copytree(LOOK, pages / "look")
    for package in api.PACKAGES:
        target = pages / "api" / f"{package}.md"
        target.parent.mkdir(exist_ok=True)
        target.write_text(api.page(package), encoding="utf-8")
    settings = into / "mkdocs.yml"
    settings.write_text(yaml.safe_dump(_settings(), sort_keys=False), encoding="utf-8")
    return settings


def documents() -> list[Path]:
    """Every page that people read and every drawing on one."""
    return [ROOT / name for name in FRONT] + sorted(path for path in (ROOT / "docs").rglob("*") if path.suffix in (".md", ".svg"))


def unlisted() -> set[str]:
    """Guides and concepts that the list in site.yml lacks, and entries of it that do not exist."""
    listed = {name for name in _names(_settings()["nav"]) if not name.startswith("api/")}
    return listed ^ {_place(path) for path in documents() if path.suffix == ".md"}


def _place(path: Path) -> str:
    name = path.relative_to(ROOT).as_posix()
    return "index.md" if name == "README.md" else name


def _linked(paths: list[Path]) -> Iterator[Path]:
    """Files of the repository that a page links to: an example, a README beside benchmarks."""
    for path in paths:
        if path.suffix == ".md":
            for target in LINK.findall(path.read_text(encoding="utf-8")):
                linked = (path.parent / target.partition("#")[0]).resolve()
                if ":" not in target and linked.is_file() and linked.is_relative_to(ROOT):
                    yield linked


def _without_folders(page: Path) -> str:
    """Its text, in which links to folders, that a site has no page for, are plain words."""

    def plain(link: re.Match[str]) -> str:
        return link[0][1 : link[0].index("](")] if (page.parent / link[1]).is_dir() else link[0]

    return LINK.sub(plain, page.read_text(encoding="utf-8"))


def _settings() -> dict[str, Any]:
    settings = yaml.safe_load((Path(__file__).parent / "site.yml").read_text(encoding="utf-8"))
    results = sorted((ROOT / "docs" / "results").glob("*.md"), key=lambda path: title(path).lower())
    fill = {"results": [str(path.relative_to(ROOT)) for path in results], "api": [f"api/{package}.md" for package in api.PACKAGES]}
    for section in settings["nav"]:
        for name, entries in section.items() if isinstance(section, dict) else ():
            section[name] = fill.get(entries, entries) if isinstance(entries, str) else entries
    settings["theme"]["custom_dir"] = str(Path(__file__).parent / "theme")
    return settings


def _names(nav: list[Any]) -> Iterator[str]:
    for entry in nav:
        if isinstance(entry, str):
            yield entry
        else:
            for below in entry.values():
                yield from _names(below if isinstance(below, list) else [below])
