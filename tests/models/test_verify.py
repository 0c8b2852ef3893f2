"""Certificates: what is equal is called equal, and every planted difference is found where it was planted."""

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tests.models.random_models import FAMILIES, random_config, random_model, random_own

from amaru.errors import AmaruError, BackendError, CheckpointError
from amaru.models import Decoder
from amaru.models.checkpoint import Checkpoint, load, save
from amaru.models.families import family_for
from amaru.models.formats.megatron import export
from amaru.models.verify import seeded_sequences, verify
from amaru.nn import Batch, Mamba2

PATTERN = "M-*-M"


@pytest.fixture
def decoder() -> Decoder:
    return random_model(random_config(3, PATTERN), 3)


@pytest.fixture
def a(decoder: Decoder, tmp_path: Path) -> Path:
    save(decoder, tmp_path / "a")
    return tmp_path / "a"


def changed(decoder: Decoder, path: Path, name: str, by: float) -> Path:
    with torch.no_grad():
        decoder.get_parameter(name).view(-1)[0] += by
    save(decoder, path)
    return path


def test_a_copy_is_equal_to_the_last_bit(a: Path, decoder: Decoder, tmp_path: Path) -> None:
    save(decoder, tmp_path / "b")
    certificate = verify(a, tmp_path / "b")
    assert certificate.equal and certificate.verdict == f"equal: {len(decoder.config.tensors())} tensors, and every layer in float32"
    assert certificate.fingerprints[0] == certificate.fingerprints[1]
    (comparison,) = certificate.comparisons
    assert [place.name for place in comparison.places] == [f"layer {index}" for index in range(5)] + ["logits"]
    assert all(place.max_abs == 0 for place in comparison.places) and comparison.kl == 0 and comparison.argmax_agreement == 1


def test_a_planted_difference_is_found_in_its_tensor_and_from_its_layer_on(a: Path, decoder: Decoder, tmp_path: Path) -> None:
    b = changed(decoder, tmp_path / "b", "layers.2.mixer.o_proj.weight", 0.5)
    certificate = verify(a, b)
    assert not certificate.equal and "layers.2.mixer.o_proj.weight" in certificate.verdict and "part at layer 2" in certificate.verdict
    assert [tensor.name for tensor in certificate.tensors if not tensor.equal] == ["layers.2.mixer.o_proj.weight"]
    assert [place.max_abs > 0 for place in certificate.comparisons[0].places] == [False, False, True, True, True, True]


def test_numbers_of_the_comparison_are_those_of_the_definitions(a: Path, decoder: Decoder, tmp_path: Path) -> None:
    sequences = seeded_sequences(decoder.config.vocab, (5, 9), seed=4)
    with torch.no_grad():
        one = decoder(Batch.of(sequences)).double()
        b = changed(decoder, tmp_path / "b", "norm.weight", 1.0)
        other = decoder(Batch.of(sequences)).double()
    (comparison,) = verify(a, b, seed=4, lengths=(5, 9)).comparisons
    logits = comparison.places[-1]
    p, q = one.softmax(-1), other.softmax(-1)
    assert comparison.kl == pytest.approx(float((p * (p.log() - q.log())).sum() / 14))
    assert comparison.argmax_agreement == pytest.approx(float((one.argmax(-1) == other.argmax(-1)).double().mean()))
    assert logits.max_abs == pytest.approx(float((one - other).abs().max()))
    assert logits.cosine == pytest.approx(float(F.cosine_similarity(one.flatten(), other.flatten(), dim=0)))


def test_a_token_that_no_input_has_is_still_compared(a: Path, decoder: Decoder, tmp_path: Path) -> None:
    used = set(torch.cat(seeded_sequences(decoder.config.vocab, (4,), 0)).tolist())
    unused = next(token for token in range(decoder.config.vocab) if token not in used)
    with torch.no_grad():
        decoder.embedding.weight[unused] += 1
    save(decoder, tmp_path / "b")
    certificate = verify(a, tmp_path / "b", lengths=(4,))
    assert all(place.max_abs == 0 for place in certificate.comparisons[0].places)
    assert not certificate.equal and "embedding.weight" in certificate.verdict


def test_a_weight_that_is_no_number_is_a_difference(a: Path, decoder: Decoder, tmp_path: Path) -> None:
    certificate = verify(a, changed(decoder, tmp_path / "b", "layers.4.mixer.D", float("nan")))
    assert not certificate.equal and "layers.4.mixer.D" in certificate.verdict and "part at layer 4" in certificate.verdict
    certificate.save(tmp_path / "c.json")
    told = json.loads((tmp_path / "c.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert told["comparisons"][0]["kl"] is None


def test_another_stack_is_told_by_names(a: Path, decoder: Decoder, tmp_path: Path) -> None:
    shorter = replace(decoder.config, layers=decoder.config.layers[:-1])
    save(random_model(shorter, 3), tmp_path / "b")
    certificate = verify(a, tmp_path / "b")
    assert not certificate.equal
    assert all(name.startswith("layers.4.") for name in certificate.only_in_a) and len(certificate.only_in_a) == 9
    assert certificate.only_in_b == ()


def test_another_vocabulary_is_different_without_being_run(a: Path, decoder: Decoder, tmp_path: Path) -> None:
    save(random_model(replace(decoder.config, vocab=50), 3), tmp_path / "b")
    certificate = verify(a, tmp_path / "b")
    assert not certificate.equal and certificate.comparisons == () and "50 tokens" in certificate.verdict


def test_a_bf16_copy_is_equal_in_tensors_up_to_its_rounding_and_not_in_fp32(a: Path, decoder: Decoder, tmp_path: Path) -> None:
    save(decoder, tmp_path / "b", dtype=torch.bfloat16)
    certificate = verify(a, tmp_path / "b")
    assert all(tensor.equal for tensor in certificate.tensors)
    assert not certificate.equal and "in float32 they part" in certificate.verdict


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_transformers_agrees_in_fp32_and_in_the_stored_dtype(decoder: Decoder, tmp_path: Path, dtype: torch.dtype) -> None:
    pytest.importorskip("transformers")
    save(decoder, tmp_path / "a", dtype=dtype)
    certificate = verify(tmp_path / "a", f"transformers:{tmp_path / 'a'}")
    assert certificate.equal, certificate.verdict
    assert len(certificate.tensors) == len(decoder.config.tensors()) and certificate.notes == ()
    assert [comparison.dtype for comparison in certificate.comparisons] == ["float32", "bfloat16"][: 1 + (dtype == torch.bfloat16)]
    assert certificate.comparisons[0].places[-1].max_abs < 5e-5


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in ("amaru", "hymba")])
def test_transformers_agrees_with_every_family_it_has(family: str, tmp_path: Path) -> None:
    """A stock layer that is two of ours is compared where it ends."""
    pytest.importorskip("transformers")
    config = FAMILIES[family](3)
    save(random_model(config, 3), tmp_path / "a", dtype=torch.bfloat16)
    certificate = verify(tmp_path / "a", f"transformers:{tmp_path / 'a'}")
    assert certificate.equal, certificate.verdict
    assert {each.name for each in certificate.tensors} == set(config.tensors()) and certificate.notes == ()
    layers, step = len(config.layers), family_for(config).LAYERS_PER_BLOCK
    for comparison in certificate.comparisons:
        assert [place.name for place in comparison.places] == [f"layer {i}" for i in range(step - 1, layers, step)] + ["logits"]


def test_what_transformers_does_not_have_is_said(tmp_path: Path) -> None:
    """Also when amaru itself has taught it: that would compare the model with itself."""
    pytest.importorskip("transformers")
    save(random_model(random_own(1), 1), tmp_path / "a")
    with pytest.raises(CheckpointError, match=r"transformers 5\S* has no model of type 'amaru'"):
        verify(tmp_path / "a", f"transformers:{tmp_path / 'a'}")
    importlib.import_module("amaru.models.hf")
    with pytest.raises(CheckpointError, match=r"transformers 5\S* has no model of type 'amaru'"):
        verify(tmp_path / "a", f"transformers:{tmp_path / 'a'}")


def test_a_difference_behind_a_window_is_reached(tmp_path: Path) -> None:
    """Sequences of the default lengths would fit into this window; one that crosses it is added."""
    config = random_own(1)
    wide = tuple(replace(layer, window=199) if getattr(layer, "window", None) else layer for layer in config.layers)
    wider = tuple(replace(layer, window=210) if getattr(layer, "window", None) else layer for layer in config.layers)
    assert wide != config.layers
    for name, layers in (("a", wide), ("b", wider)):
        save(random_model(replace(config, layers=layers), 1), tmp_path / name)
    certificate = verify(tmp_path / "a", tmp_path / "b")
    assert certificate.lengths == (1, 7, 61, 150, 236, 247)
    assert all(tensor.equal for tensor in certificate.tensors) and not certificate.equal and "they part at layer" in certificate.verdict


def test_a_window_too_wide_to_cross_is_said(tmp_path: Path) -> None:
    config = random_own(1)
    wide = tuple(replace(layer, window=10**9) if getattr(layer, "window", None) else layer for layer in config.layers)
    save(random_model(replace(config, layers=wide), 1), tmp_path / "a")
    certificate = verify(tmp_path / "a", tmp_path / "a")
    assert certificate.equal and certificate.lengths == (1, 7, 61, 150) and "window of 1000000000 tokens" in certificate.notes[0]


def test_formats_have_one_fingerprint_for_one_model(a: Path, decoder: Decoder, tmp_path: Path) -> None:
    export(Checkpoint(a), tmp_path / "m", ranks=1)
    certificate = verify(a, tmp_path / "m")
    assert certificate.equal and certificate.fingerprints[0] == certificate.fingerprints[1]
    assert all(tensor.max_abs == 0 for tensor in certificate.tensors)


def test_unmatched_names_are_all_listed(a: Path, decoder: Decoder, tmp_path: Path) -> None:
    save(random_model(replace(decoder.config, layers=decoder.config.layers[:-1]), 3), tmp_path / "b")
    verdict = verify(a, tmp_path / "b").verdict
    assert all(f"layers.4.{name}" in verdict for name in decoder.config.layer_tensors(4))


def test_the_clamp_of_transformers_is_set_equal_and_said(a: Path) -> None:
    pytest.importorskip("transformers")
    values = json.loads((a / "config.json").read_text())
    (a / "config.json").write_text(json.dumps(values | {"time_step_min": 1e-3}))
    certificate = verify(a, f"transformers:{a}")
    assert certificate.equal
    (note,) = certificate.notes
    assert "(0.001, inf)" in note and "time_step_min" in note and "(0.0, inf)" in note


def test_without_that_the_clamp_would_matter(a: Path) -> None:
    """The note above is not about nothing: with dt clamped at 1e-3 this model is another function."""
    decoder = load(a)
    limit = (1e-3, float("inf"))
    layers = tuple(replace(layer, time_step_limit=limit) if isinstance(layer, Mamba2) else layer for layer in decoder.config.layers)
    other = Decoder(replace(decoder.config, layers=layers))
    other.load_state_dict(decoder.state_dict())
    batch = Batch.of(seeded_sequences(decoder.config.vocab, (60,), 0))
    with torch.no_grad():
        assert float((decoder(batch) - other(batch)).abs().max()) > 1e-2


def test_a_missing_transformers_is_a_sentence_that_says_how_to_install_it(a: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(BackendError, match="pip install transformers"):
        verify(a, f"transformers:{a}")


def test_transformers_is_kept_from_pickles(a: Path) -> None:
    pytest.importorskip("transformers")
    (a / "model.safetensors").rename(a / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"no file named model\.safetensors") as caught:
        verify(f"transformers:{a}", a)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_is_not_there_is_a_sentence(a: Path) -> None:
    for b in ("nowhere", "transformers:nowhere"):
        with pytest.raises(AmaruError, match="nowhere"):
            verify(a, b)


def test_the_saved_certificate_is_json_with_every_number(a: Path, tmp_path: Path) -> None:
    certificate = verify(a, a)
    certificate.save(tmp_path / "certificate.json")
    told = json.loads((tmp_path / "certificate.json").read_text())
    assert told["equal"] is True and told["comparisons"][0]["places"][-1]["name"] == "logits"
    assert told["seed"] == 0 and len(told["tensors"]) == len(certificate.tensors)
