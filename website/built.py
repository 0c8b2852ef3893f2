"""What a built site is held to: every link leads somewhere, and no page loads anything from elsewhere."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADS = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "video": "src", "object": "data"}
OUTSIDE = re.compile(r"^(?:[a-z]+:)?//", re.IGNORECASE)


class _Page(HTMLParser):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        if target := values.get(LOADS.get(tag, "")):
            self.loads.append(target)
        if tag == "a" and "href" in values:
            self.links.append(values["href"])


def faults(site: Path) -> Iterator[str]:
    """`list(faults(Path("build/site/html")))`: one sentence for each link that leads nowhere and each thing loaded from elsewhere."""
    pages = {path: _Page(path) for path in sorted(site.rglob("*.html")) if path.name != "404.html"}
    for path, page in pages.items():
        name = path.relative_to(site)
        yield from (f"{name} loads {target}, which lies outside the site." for target in page.loads if OUTSIDE.match(target))
        for target in [*page.links, *page.loads]:
            if not urlsplit(target).scheme and not OUTSIDE.match(target) and not _leads(path, target, pages):
                yield f"{name} links to {target}, which leads nowhere."
    for path in sorted(site.rglob("*.css")):
        found = re.findall(r"(?:@import\s+|url\()[\"']?((?:https?:)?//[^\"')]+)", path.read_text(encoding="utf-8"))
        yield from (f"{path.relative_to(site)} loads {target}, which lies outside the site." for target in found)


def _leads(path: Path, target: str, pages: dict[Path, _Page]) -> bool:
    parts = urlsplit(target)
    linked = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if linked in pages and parts.fragment:
        return unquote(parts.fragment) in pages[linked].ids
    return linked.is_file()
