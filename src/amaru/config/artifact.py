"""What one stage hands to the next: a file with a kind, a schema version and the hashes of what it was made from.

scores = Artifact(kind="scores", schema=1, made_from={"checkpoint": "9f…"}, content={...}, arrays={...})
scores.save("scores.safetensors"); Artifact.load("scores.safetensors", kind="scores", schema=1)
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from amaru.config.atomic import atomic_file
from amaru.errors import ArtifactError


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One saved stage result.

    `content` holds plain JSON values, `arrays` numpy arrays, `made_from` a hash by name of everything that
    determined the result. Saved as one safetensors file (content in its header), so reading runs no code.
    """

    kind: str
    schema: int
    made_from: dict[str, str]
    content: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        header = {"amaru": json.dumps({"kind": self.kind, "schema": self.schema, "made_from": self.made_from, "content": self.content})}
        arrays = {name: np.ascontiguousarray(array) for name, array in self.arrays.items()}
        with atomic_file(path) as temporary:
            save_file(arrays, str(temporary), metadata=header)

    @classmethod
    def load(cls, path: str | Path, *, kind: str, schema: int) -> "Artifact":
        """Read an artifact; raises `ArtifactError` when it is cut short, of another kind, or of another schema."""
        try:
            with safe_open(str(path), framework="numpy") as file:
                header = json.loads((file.metadata() or {})["amaru"])
                header = {name: header[name] for name in ("kind", "schema", "made_from", "content")}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (the handle is no dict)
        except FileNotFoundError:
            raise ArtifactError(f"There is no {kind} artifact at {path}.") from None
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{path} is not a whole amaru artifact ({error}); delete it and run the same command again.") from None
        if (header["kind"], header["schema"]) != (kind, schema):
            raise ArtifactError(
                f"{path} holds {header['kind']} of schema {header['schema']}; {kind} of schema {schema} is needed. "
                "Delete it to make it anew."
            )
        return cls(**header, arrays=arrays)

    def require(self, made_from: dict[str, str], path: str | Path) -> None:
        """Raise `ArtifactError` unless this artifact was made from exactly these things."""
        for name, fingerprint in made_from.items():
            if self.made_from.get(name) != fingerprint:
                raise ArtifactError(
                    f"{path} was made from another {name} ({self.made_from.get(name)}, not {fingerprint}); "
                    f"give another --out or delete the file."
                )


def kind_of(path: str | Path) -> str | None:
    """What kind of artifact a file holds; None when it is none."""
    try:
        with safe_open(str(path), framework="numpy") as file:
            return json.loads((file.metadata() or {})["amaru"])["kind"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def fingerprint_bytes(*parts: bytes | str) -> str:
    """A short hash (16 hex digits of SHA-256) of what determined a result."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:16]


def fingerprint_file(path: str | Path) -> str:
    """The same hash over a file's content, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
