"""How far a long computation has come, on disk, so that it goes on there after it was stopped."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amaru.config import Artifact
from amaru.errors import ArtifactError

SCHEMA = 1
NARROW = {"bfloat16": torch.bfloat16}  # what numpy has not: kept as 16-bit integers


class Halfway:
    """`Halfway("scores.halfway", made_from)`: the last place that was saved, of a computation with these inputs and no other.

        place = halfway.found("widths")                          # (plain values, tensors by name), or None
        halfway.reached("widths", {"layer": 7}, lambda: {...})   # saved, unless the last one is younger than `seconds`

    A file of other inputs, or one that cannot be read, counts as none: it is in nobody's way, and is written over.
    """

    def __init__(self, path: str | Path, made_from: dict[str, str], seconds: float = 60.0) -> None:
        self.path, self.made_from, self.seconds = Path(path), made_from, seconds
        self._saved = time.monotonic()

    def found(self, stage: str) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        try:
            artifact = Artifact.load(self.path, kind="halfway", schema=SCHEMA)
        except ArtifactError:
            return None
        if artifact.made_from != self.made_from or artifact.content.get("stage") != stage:
            return None
        dtypes = artifact.content["dtypes"]
        tensors = {name: torch.from_numpy(array) for name, array in artifact.arrays.items()}
        wide = {name: tensor.view(NARROW[dtypes[name]]) if name in dtypes else tensor for name, tensor in tensors.items()}
        return artifact.content["place"], wide

    def reached(self, stage: str, place: dict[str, Any], tensors: Callable[[], dict[str, Tensor]]) -> None:
        if time.monotonic() - self._saved < self.seconds:
            return
        dtypes: dict[str, str] = {}
        arrays = {}
        for name, tensor in tensors().items():
            dtype, tensor = str(tensor.dtype).removeprefix("torch."), tensor.detach().cpu()
            if dtype in NARROW:
                dtypes[name], tensor = dtype, tensor.view(torch.int16)
            arrays[name] = tensor.numpy()
        content = {"stage": stage, "place": place, "dtypes": dtypes}
        Artifact(kind="halfway", schema=SCHEMA, made_from=self.made_from, content=content, arrays=arrays).save(self.path)
        self._saved = time.monotonic()

    def done(self) -> None:
        """The result is on disk: what led to it is not needed any more."""
        self.path.unlink(missing_ok=True)
