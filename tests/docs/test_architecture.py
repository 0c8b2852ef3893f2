"""The tree of ARCHITECTURE.md names every module but those that it describes by their kind, and no package that is not there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "amaru"
BY_KIND = ("cli", "report")  # one file a verb, one file a kind of run


def sections() -> dict[str, str]:
    """The lines of the tree for each package."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    lines = text[text.index("    src/amaru/\n") : text.index("    website/")].splitlines()[1:]
    found: dict[str, str] = {}
    for line in lines:
        if begins := re.match(r"      (\w+)/", line):
            found[begins[1]] = ""
        if found:
            found[list(found)[-1]] += f"{line}\n"
    return found


TREE = sections()


def test_every_package_has_its_lines() -> None:
    assert {path.parent.name for path in SOURCE.glob("*/__init__.py")} == TREE.keys()


@pytest.mark.parametrize("package", [name for name in TREE if name not in BY_KIND])
def test_every_module_and_folder_of_a_package_is_named(package: str) -> None:
    named = set(re.findall(r"\w+", TREE[package]))
    there = {path.stem for path in (SOURCE / package).iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert there - {"__init__"} - named == set()


def test_every_round_of_alignment_is_made_of_what_the_tree_names() -> None:
    named = set(re.findall(r"\w+", TREE["recipes"]))
    assert {path.stem for path in (SOURCE / "recipes/alignment").glob("*.py")} - {"__init__"} - named == set()
