"""Programs in what models write."""

import re

FENCED = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)


def program_in(text: str) -> str | None:
    """`program_in("Here:\\n```python\\nx = 1\\n```") == "x = 1"`: all fenced parts one after the other; None where there is none."""
    found = [part.strip() for part in FENCED.findall(text) if part.strip()]
    return "\n\n".join(found) or None
