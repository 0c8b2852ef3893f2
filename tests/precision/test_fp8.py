"""Which layers run in FP8, by hand; and a decoder in FP8 trained, packed, resumed and looked at."""

import json
import sys
from dataclasses import replace

import pytest
import torch
from tests.models.random_models import random_hymba, random_ids, random_moe

from amaru.errors import BackendError, ConfigError
from amaru.models import Decoder, DecoderConfig
from amaru.nn import MLP, Attention, Batch, Mamba2
from amaru.precision.fp8 import Fp8Recipe, coverage, describe, prepare
from amaru.precision.fp8_cast import E4M3, E5M2, encode
from amaru.precision.fp8_linear import Fp8Linear
from amaru.precision.fp8_statistics import Fp8Statistics, look
from amaru.precision.fp8_torchao import torchao_linear

LAYERS = {
    "M": Mamba2(heads=16, channels=4, groups=2, state=16),  # in_proj has 2 x 64 + 2 x 2 x 16 + 16 = 208 rows
    "*": Attention(query_heads=4, kv_heads=2, channels=8),
    "-": MLP(ffn=48),
    "G": MLP(ffn=48, gated=True, activation="silu"),
}


def decoder(pattern, *, layers=LAYERS, tied=False, hidden=32):
    config = DecoderConfig(vocab=64, hidden=hidden, layers=tuple(layers[letter] for letter in pattern), tied=tied)
    return Decoder(config).initialise(0)


def in_fp8(model, **settings):
    """`layer.projection` of everything that runs in FP8."""
    rows = coverage(model, Fp8Recipe(**settings))
    return {row.name.replace("layers.", "").replace("mixer.", "") for row in rows if row.fp8}


def test_layers_are_the_letters_of_a_pattern():
    assert in_fp8(decoder("M-M*-M-"), ends=2, counted="layers") == {
        *("2.in_proj", "2.out_proj"),
        *("3.q_proj", "3.k_proj", "3.v_proj", "3.o_proj"),
        *("4.up_proj", "4.down_proj"),
    }


def test_gemms_are_products_and_queries_keys_and_values_are_one():
    model = decoder("*M-G*")  # (q k v) o | in out | up down | (gate up) down | (q k v) o
    assert "0.o_proj" in in_fp8(model, ends=1) and "0.k_proj" not in in_fp8(model, ends=1)
    assert in_fp8(model, ends=3) == {"1.out_proj", "2.up_proj", "2.down_proj", "3.gate_proj", "3.up_proj"}
    assert in_fp8(model, ends=4) == {"2.up_proj", "2.down_proj"}


def test_four_gemms_are_two_layers_of_the_recipe_that_shipped():
    model = decoder("M-M-M*-M-M-")
    assert in_fp8(model) == in_fp8(model, ends=2, counted="layers")
    assert len(in_fp8(model, ends=0)) == 24


def test_shares_are_those_of_the_flops():
    rows = {row.name: row.share for row in coverage(decoder("-G-"), Fp8Recipe(ends=0))}
    products = 2 * (2 * 32 * 48) + 3 * 32 * 48 + 64 * 32
    assert rows["head"] == 64 * 32 / products and rows["layers.1.mixer.gate_proj"] == 32 * 48 / products
    assert sum(rows.values()) == pytest.approx(1)


def test_what_never_runs_in_fp8():
    rows = coverage(Decoder(random_hymba(0)), Fp8Recipe(ends=0, indivisible="bf16"))
    reasons = {row.name.rpartition(".")[2]: row.reason for row in rows}
    assert "scan" in reasons["dt_proj"] and "scan" in reasons["x_proj"] and reasons["head"] == "the head"
    tied = decoder("--", tied=True)
    assert {row.name for row in coverage(tied, Fp8Recipe(ends=0)) if not row.fp8} == {"head"}


def test_routers_and_experts_stay():
    moe = replace(random_moe(0), ffn=16, shared_ffn=32, latent=16)
    names = in_fp8(decoder("E", layers={"E": moe}), ends=0)
    assert names == {"0.shared_experts.up_proj", "0.shared_experts.down_proj", "0.fc1_latent_proj", "0.fc2_latent_proj"}


def test_widths_that_do_not_fit_are_refused_by_name_or_left():
    model = decoder("---", layers={"-": MLP(ffn=40)})
    with pytest.raises(ConfigError, match=r"layers\.1\.mixer\.up_proj is 40 x 32.*indivisible=bf16"):
        prepare(model, Fp8Recipe(ends=1, counted="layers"))
    assert not any(isinstance(module, Fp8Linear) for module in model.modules())  # refused before anything was changed
    rows = coverage(decoder("M-M", layers=LAYERS | {"-": MLP(ffn=40)}), Fp8Recipe(ends=0, indivisible="bf16"))
    assert {row.name: row.reason for row in rows if not row.fp8 and row.name != "head"} == {
        "layers.1.mixer.up_proj": "40 x 32: not multiples of 16",
        "layers.1.mixer.down_proj": "32 x 40: not multiples of 16",
    }
    assert in_fp8(decoder("-M-", layers=LAYERS | {"-": MLP(ffn=40)}), ends=1, counted="layers")  # an end need not fit


def test_a_recipe_that_leaves_nothing_is_refused():
    with pytest.raises(ConfigError, match="Nothing of this decoder would run in FP8 while 4 gemms"):
        prepare(decoder("M-*"), Fp8Recipe())


def test_it_is_told_what_runs_how():
    told = describe(prepare(decoder("M-M-"), Fp8Recipe(ends=2)))
    assert told.splitlines() == [
        "FP8 in 4 of 9 linear layers, 36% of a token's FLOPs (attention's scores aside)",
        "    fp8: layers.1.mixer up_proj down_proj, layers.2.mixer in_proj out_proj",
        "    bf16, among 2 gemms at either end: layers.0.mixer in_proj out_proj, layers.3.mixer up_proj down_proj",
        "    bf16, the head: head",
    ]


def test_names_and_master_weights_are_untouched():
    model = decoder("M*-")
    before = dict(model.named_parameters())
    prepare(model, Fp8Recipe(ends=0))
    after = dict(model.named_parameters())
    assert list(before) == list(after) and all(before[name] is after[name] for name in before)


def test_the_decoder_computes_what_its_layers_do():
    """The forward of an MLP decoder, written out with the emulated product of each layer."""
    model, plain = decoder("--"), decoder("--")
    prepare(model, Fp8Recipe(ends=0))
    batch = Batch.of([random_ids(64, 9)[0]])
    x = plain.embed(batch.ids)
    for layer in plain.layers:
        u = layer.norm(x)
        up = by_codes(u, layer.mixer.up_proj.weight)
        x = x + by_codes(up.relu().square(), layer.mixer.down_proj.weight)
    torch.testing.assert_close(model.hidden_states(batch), plain.norm(x), atol=1e-5, rtol=1e-4)


def by_codes(x, weight):
    (x8, x_scale), (w8, w_scale) = encode(x.detach(), E4M3), encode(weight.detach(), E4M3)
    return ((x8.double() / x_scale) @ (w8.double() / w_scale).t()).float()


def test_packed_documents_do_not_meet():
    """One scale serves the whole batch, so documents are compared that ask for the same one: copies of one document."""
    model = decoder("M*-M")
    prepare(model, Fp8Recipe(ends=0))
    ids = random_ids(64, 23)[0]
    alone, packed = model(Batch.of([ids])), model(Batch.of([ids, ids, ids]))
    for copy in packed.split(len(ids)):
        torch.testing.assert_close(copy, alone, atol=1e-5, rtol=1e-5)


def test_layers_that_are_run_again_change_nothing(tmp_path):
    batch, found = Batch.of(random_ids(64, 11, 5)), []
    for again in (None, 1):
        model = decoder("M*-M")
        model.compute_dtype, model.recompute_every = torch.bfloat16, again
        statistics = Fp8Statistics(tmp_path / f"{again}.jsonl", every=1)
        statistics.attach(model, prepare(model, Fp8Recipe(ends=0)))
        model(batch).logsumexp(-1).sum().backward()
        statistics.after(1)
        found.append(({name: each.grad for name, each in model.named_parameters()}, (tmp_path / f"{again}.jsonl").read_text()))
    (plain, looks), (recomputed, same_looks) = found
    assert looks == same_looks and looks.count("gradient") == 10
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)


def test_an_accelerator_without_torchao_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(BackendError, match=r"pip install 'amaru\[fp8\]'"):
        torchao_linear(decoder("-").layers[0].mixer.up_proj)


def test_looks_at_tensors_are_written_step_by_step(tmp_path):
    path = tmp_path / "fp8.jsonl"
    model = decoder("--")
    statistics = Fp8Statistics(path, every=3)
    statistics.attach(model, prepare(model, Fp8Recipe(ends=1, counted="gemms")))
    batch = Batch.of([random_ids(64, 7)[0]])
    gradients = {}

    def remember(module, dx, dy):
        gradients.setdefault("dy", dy[0])

    model.layers[0].mixer.down_proj.register_full_backward_hook(remember)

    def step(number):
        model(batch).square().mean().backward()
        with torch.no_grad():
            model(batch)  # a validation is not looked at
        statistics.after(number)

    for number in range(1, 6):
        step(number)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 3]  # the first of a process, then every third
    assert list(lines[0]["tensors"]) == ["layers.0.mixer.down_proj", "layers.1.mixer.up_proj"]
    found = lines[0]["tensors"]["layers.0.mixer.down_proj"]
    assert found["weight"]["scale"] == pytest.approx(448 / float(model.layers[0].mixer.down_proj.weight.detach().abs().max()))
    assert found["gradient"] == look(gradients["dy"], "gradient")

    again = Fp8Statistics(path, every=3)  # a process that goes on from a checkpoint after step 2
    again.attach(model, [])
    again._found, again._looking = {"x": {}}, True
    again.after(3)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 3]


def test_underflow_is_the_share_of_what_was_not_zero():
    x = torch.tensor([1.0, 0.0, 0.0, 1e-3, 1e-6, -1e-7])
    assert look(x, "input") == {"scale": 448.0, "underflow": 0.5}  # 1e-6 and 1e-7 of four numbers
    assert look(x, "gradient")["underflow"] == 0.0  # E5M2 reaches 2^-16 of 57344
    assert look(torch.zeros(4), "input")["underflow"] == 0.0
    assert look(torch.tensor([torch.nan]), "input")["scale"] is None
    assert encode(x, E5M2).scale == 57344.0
