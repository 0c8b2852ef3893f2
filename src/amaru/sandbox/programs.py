"""Programs in what models write."""

import re

FENCED = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)


def fenced(text: str) -> list[str]:
    """`fenced("Here:\\n```python\\nx = 1\\n```\\n") == ["x = 1\\n"]`: what stands in fences of Python, or of no language.

    The last may be open, as in answers that were cut off.
    """
    return FENCED.findall(text)


def program_in(text: str) -> str | None:
    """All of it, one part after the other; None where there is none."""
    found = [part.strip() for part in fenced(text) if part.strip()]
    return "\n\n".join(found) or None
