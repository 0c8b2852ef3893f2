"""Links between the Markdown pages of the repository: does what they name exist, down to the heading?"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

LINK = re.compile(r"(?<!`)!?\[[^\]]*\]\(([^()\s]+)\)")


def broken(page: Path) -> Iterator[str]:
    """`list(broken(Path("README.md")))`: each link to a file, folder or heading that is not there."""
    for target in LINK.findall(_prose(page)):
        name, _, anchor = target.partition("#")
        linked = page.parent / name if name else page
        if ":" in target:
            continue  # an address elsewhere, which a test without a network cannot follow
        if not linked.exists() or (anchor and anchor not in anchors(linked)):
            yield target


@cache
def anchors(page: Path) -> frozenset[str]:
    """The ids of a page's headings, as GitHub and the site make them; a heading that comes again gets a number."""
    seen: dict[str, int] = {}
    for heading in re.findall(r"^#+ +(.+)$", _unfenced(page), flags=re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", text.lower()).strip())
        seen[name] = seen.get(name, -1) + 1
    return frozenset(name if not again else f"{name}_{again}" for name, count in seen.items() for again in range(count + 1))


def title(page: Path) -> str:
    """The first heading."""
    found = re.search(r"^# +(.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return found[1] if found else page.stem


def _prose(page: Path) -> str:
    """A page without its code, in which nothing is a link."""
    return re.sub(r"`[^`\n]*`", "``", re.sub(r"^ {4}.*$", "", _unfenced(page), flags=re.MULTILINE))


def _unfenced(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
