"""The benchmark runs its own rows and a real peer's, and says what it cannot run."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.cli.small_checkpoint import TEXT, small_checkpoint
from tests.models.random_models import random_config, random_model

from amaru.errors import BackendError, ConfigError, DataError
from amaru.models import roofline
from amaru.models.checkpoint import save
from amaru.models.cost import Workload
from amaru.models.devices import Device, Machine
from amaru.precision.scheme import Scheme
from amaru.recipes.bench import beside, guesses
from amaru.recipes.bench.infer import Bench, run
from amaru.recipes.bench.limits import Probe, product_rate, read_rate
from amaru.recipes.quantize import Job, QuantizeRecipe

DEVICE = Device(name="here", memory=2**30, bandwidth=1e9, flops={"bf16": 1e9, "fp32": 1e9})
BENCH = Bench(prefill=(9,), decode=(1, 3), context=5, steps=2, repeats=1)
BOTH = replace(BENCH, decode=(3,), states=("fp32", "bf16"))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    save(random_model(random_config(0, "MM-*-M")), tmp_path / "model")
    return tmp_path / "model"


def test_rows_of_ours_the_limit_and_a_peer(checkpoint: Path) -> None:
    said: list[str] = []
    result = run(checkpoint, {"transformers": sys.executable}, BENCH, lambda text: None, DEVICE, said.append)
    assert [each.partition(": ")[0] for each in said] == ["amaru", "transformers, eager", "amaru"], "figures are told as they are taken"
    assert [row.name for row in result.rows] == ["prefill 9", "decode 1", "decode 3"]
    assert all(row.ours > 0 and (row.peers["transformers"] or 0) > 0 for row in result.rows)
    config = random_config(0, "MM-*-M")
    bound = roofline.decode(config, Workload(context=6, batch=3, weights="fp32", kv="fp32"), Machine(count=1, device=DEVICE)).seconds
    assert bound and result.rows[2].limit == result.rows[2].then == pytest.approx(3 / bound)
    assert result.versions.keys() == {"amaru", "torch", "transformers"}


def test_states_in_bf16_have_rows_and_a_limit_of_their_own(checkpoint: Path) -> None:
    fast = replace(DEVICE, flops={"bf16": 1e15, "fp32": 1e15})
    wide, narrow = run(checkpoint, {}, BOTH, lambda text: None, fast).rows[1:]
    assert (wide.name, narrow.name) == ("decode 3", "decode 3, states in bf16")
    assert narrow.ours > 0 and narrow.limit > wide.limit


def test_a_peer_that_fails_or_is_unknown_is_told(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no peer 'ollama'"):
        run(checkpoint, {"ollama": sys.executable}, BENCH, lambda text: None, DEVICE)
    with pytest.raises(BackendError, match="vllm failed"):
        run(checkpoint, {"vllm": sys.executable}, BENCH, lambda text: None, DEVICE)


def test_rates_of_this_machine_are_believable() -> None:
    assert 1e8 < read_rate(2**26) < 1e13
    assert 1e8 < product_rate(torch.float32, 256) < 1e15
    now = Probe(torch.bfloat16, 2**26, 256)()
    assert 1e8 < (now.bandwidth or 0) < 1e13 and now.flops.keys() == {"bf16"} and 1e8 < now.flops["bf16"] < 1e15


def test_a_copy_in_codes_is_measured_beside_its_original(checkpoint: Path, tmp_path: Path) -> None:
    Job(QuantizeRecipe(checkpoint=str(checkpoint), out=str(tmp_path / "codes"), scheme=Scheme(to="int4"))).run()
    turns: list[str] = []
    found = beside.run([checkpoint, tmp_path / "codes"], BENCH, turns.append)
    original, codes = found.columns
    assert list(original.rates) == list(codes.rates) == ["prefill 9", "decode 1", "decode 3"]
    assert set(original.ratios.values()) == {1.0}
    assert codes.ratios.keys() == codes.rates.keys() and min(codes.ratios.values()) > 0
    assert original.codes == 0 < codes.codes
    for column in found.columns:
        held = sum(tensor.nbytes for tensor in load_file(Path(column.checkpoint) / "model.safetensors").values())
        assert column.codes + column.numbers == held
    assert turns == [f"{row}, turn {turn + 1} of {beside.TURNS}" for row in BENCH.rows for turn in range(beside.TURNS)]


def test_guesses_are_counted_and_change_no_answer(tmp_path: Path) -> None:
    model, text = small_checkpoint(tmp_path / "small"), tmp_path / "text.txt"
    text.write_text("<|endoftext|>".join(TEXT[place:] for place in range(5)), encoding="utf-8")
    settings = guesses.Guesses(prompts=2, prompt=9, new=13, most=3, rounds=2)
    plain, lookup, draft = guesses.run(model, model, [str(text)], settings, lambda said: None).rows
    assert [row.guesses for row in (plain, lookup, draft)] == ["off", "lookup", "draft"]
    assert [row.same for row in (plain, lookup, draft)] == [2, 2, 2]
    assert (plain.drafted, plain.passes, plain.times) == (0, 26, 1.0)
    assert draft.accepted == draft.drafted == 26 - draft.passes, "a model guesses itself right"
    assert lookup.accepted == 26 - lookup.passes and all(row.times == pytest.approx(row.rate / plain.rate) for row in (lookup, draft))
    with pytest.raises(DataError, match="of the 5 texts have more than 90 tokens; 2 are needed"):
        guesses.run(model, None, [str(text)], replace(settings, prompt=90), lambda said: None)
