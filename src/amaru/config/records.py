"""JSON records of a run, read back with a sentence when they are damaged."""

import json
from pathlib import Path
from typing import Any

from amaru.errors import ArtifactError


def read_record(path: str | Path) -> Any:
    """`read_record("runs/demo/run.json")`; raises `ArtifactError` when the file is missing or is not whole."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"There is no {path.name} in {path.parent}: the run has not come so far; finish it first.") from None
    except ValueError as error:
        raise ArtifactError(f"{path} cannot be read ({error}); delete it and run the same command again.") from None


def read_lines(path: str | Path) -> list[dict[str, Any]]:
    """The records of a .jsonl file; a last line that a kill cut short does not count."""
    path = Path(path)
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    except FileNotFoundError:
        raise ArtifactError(f"There is no {path.name} in {path.parent}: the run has not come so far.") from None
    except ValueError as error:
        raise ArtifactError(f"{path} cannot be read ({error}); delete it and run the same command again.") from None
