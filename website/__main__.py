"""`python -m website` builds the site into build/site/html, strictly, and fails on any link that leads nowhere or out of it."""

import subprocess
import sys
from pathlib import Path

from website.built import faults
from website.gather import ROOT, gather


def main() -> int:
    into = ROOT / "build" / "site"
    settings = gather(into)
    zensical = [str(Path(sys.executable).with_name("zensical")), "build", "--strict", "--clean", "--config-file", str(settings)]
    built = subprocess.run(zensical, cwd=into, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    found = [] if built.returncode else list(faults((into / "html").resolve()))
    for line in found:
        print(line, file=sys.stderr)
    if built.returncode:
        print(built.stdout, file=sys.stderr)
    if built.returncode or found:
        return 1
    print(f"{len(list((into / 'html').rglob('*.html')))} pages; open build/site/html/index.html, no server is needed.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
