"""Artifacts: there and back, and refused in one sentence when they are not what is asked for."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from amaru.config.artifact import Artifact, fingerprint_bytes, fingerprint_file
from amaru.errors import ArtifactError


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    arrays = {"b": np.arange(12, dtype=np.float32).reshape(3, 4).T, "a": np.array([1, 2], dtype=np.int64)}
    content = {"rows": [1, 2.5, None], "name": "ñ"}
    Artifact(kind="scores", schema=2, made_from={"checkpoint": "9f"}, content=content, arrays=arrays).save(tmp_path / "x.safetensors")
    return tmp_path / "x.safetensors"


def test_there_and_back(saved: Path) -> None:
    artifact = Artifact.load(saved, kind="scores", schema=2)
    assert (artifact.kind, artifact.schema, artifact.made_from) == ("scores", 2, {"checkpoint": "9f"})
    assert artifact.content == {"rows": [1, 2.5, None], "name": "ñ"} and artifact.arrays.keys() == {"a", "b"}
    assert np.array_equal(artifact.arrays["b"], np.arange(12).reshape(3, 4).T) and artifact.arrays["a"].dtype == np.int64


@pytest.mark.parametrize("kept", [0, 5, 40, -1])
def test_one_that_is_cut_short(saved: Path, kept: int) -> None:
    saved.write_bytes(saved.read_bytes()[:kept])
    with pytest.raises(ArtifactError, match=r"x\.safetensors is not a whole amaru artifact .* delete it"):
        Artifact.load(saved, kind="scores", schema=2)


def test_safetensors_of_someone_else(tmp_path: Path) -> None:
    for metadata in (None, {"format": "pt"}, {"amaru": "{"}, {"amaru": "[1]"}, {"amaru": '{"kind": "scores"}'}):
        save_file({"x": np.zeros(1)}, tmp_path / "x.safetensors", metadata=metadata)
        with pytest.raises(ArtifactError, match="is not a whole amaru artifact"):
            Artifact.load(tmp_path / "x.safetensors", kind="scores", schema=2)


@pytest.mark.parametrize(("kind", "schema"), [("plan", 2), ("scores", 3)])
def test_another_kind_or_schema(saved: Path, kind: str, schema: int) -> None:
    with pytest.raises(ArtifactError, match=f"holds scores of schema 2; {kind} of schema {schema} is needed"):
        Artifact.load(saved, kind=kind, schema=schema)


def test_none_at_all(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="There is no scores artifact at"):
        Artifact.load(tmp_path / "x.safetensors", kind="scores", schema=2)


def test_what_it_was_made_from(saved: Path) -> None:
    artifact = Artifact.load(saved, kind="scores", schema=2)
    artifact.require({"checkpoint": "9f"}, saved)
    with pytest.raises(ArtifactError, match=r"another checkpoint \(9f, not 9e\); give another --out or delete"):
        artifact.require({"checkpoint": "9e"}, saved)
    with pytest.raises(ArtifactError, match=r"another corpus \(None, not 9f\)"):
        artifact.require({"checkpoint": "9f", "corpus": "9f"}, saved)


def test_fingerprints_tell_parts_apart(tmp_path: Path) -> None:
    assert len({fingerprint_bytes("ab", "c"), fingerprint_bytes("a", "bc"), fingerprint_bytes("abc"), fingerprint_bytes("abc", "")}) == 4
    assert fingerprint_bytes("ñ") == fingerprint_bytes("ñ".encode())
    (tmp_path / "empty").write_bytes(b"")
    assert fingerprint_file(tmp_path / "empty") == "e3b0c44298fc1c14"  # of SHA-256("")
