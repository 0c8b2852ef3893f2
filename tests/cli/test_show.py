"""`amaru show`: the counts it prints are those of the tensors, and every model is readable in 80 columns."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.cli.small_checkpoint import small_checkpoint

from amaru.cli.main import main
from amaru.models import DecoderConfig
from amaru.models.checkpoint import load
from amaru.models.families import config_of, own, presets
from amaru.models.quantised import quantised
from amaru.nn import MLP, Attention, Mamba2
from amaru.nn.hybrid_head import HybridHead


def shown(model: str | Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["show", str(model), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def written(path: Path, config: DecoderConfig) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(own.write_config(config)), encoding="utf-8")
    return path


def test_parameters_of_a_checkpoint_are_those_of_its_tensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = small_checkpoint(tmp_path / "m")
    assert main(["show", str(path), "--axes", "2", "--json"]) == 0
    facts, decoder = json.loads(capsys.readouterr().out), load(path)
    assert facts["parameters"] == sum(parameter.numel() for parameter in decoder.parameters()) == sum(facts["parameters_by_kind"].values())
    assert facts["pattern"] == "M-*-M"
    assert {row["letter"]: row["layers"] for row in facts["kinds"]} == {"M": [0, 4], "-": [1, 3], "*": [2]}
    shapes = {tensor["name"]: tensor["shape"] for tensor in facts["layer"]["tensors"]}
    assert shapes == {name: list(parameter.shape) for name, parameter in decoder.layers[2].named_parameters()}


def test_codes_are_told_with_their_scheme(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = small_checkpoint(tmp_path / "m")
    assert main(["quantize", str(path), "--to", "int4", "--out", str(tmp_path / "codes"), "--keep", "attention"]) == 0
    capsys.readouterr()
    facts, held = shown(tmp_path / "codes", capsys), quantised(load(tmp_path / "codes"))
    four, eight = ([each for name, each in held.items() if (name == "head.weight") is head] for head in (False, True))
    expected = {"int4, 32 to a scale": four, "int8": eight}
    found = {row["stored_as"]: (row["tensors"], row["parameters"]) for row in facts["codes"]}
    assert found == {name: (len(each), sum(len(one.codes) * one.cols for one in each)) for name, each in expected.items()}
    assert shown(path, capsys)["codes"] == []
    assert main(["show", str(tmp_path / "codes")]) == 0
    assert f"codes: int4, 32 to a scale, {len(four)} weights" in capsys.readouterr().out


def test_shards_are_the_parts_of_every_tensor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "nemotron-h-8b", "--shards", "4", "--json"]) == 0
    shards = json.loads(capsys.readouterr().out)["shards"]
    rows = {(row["layer"], row["name"]): row for row in shards["tensors"]}
    assert rows[0, "mixer.in_proj.weight"]["shape"] == [18560, 4096] and rows[0, "mixer.in_proj.weight"]["shape_each"] == [4640, 4096]
    assert rows[1, "mixer.down_proj.weight"]["shape_each"] == [4096, 5376] and not rows[None, "norm.weight"]["divided"]
    assert main(["show", "nemotron-h-8b", "--shards", "4"]) == 0
    assert "0 and 23 alike" in capsys.readouterr().out
    assert main(["show", "nemotron-h-8b", "--shards", "3"]) == 2
    assert "axis" not in (told := capsys.readouterr().err) and "8 indices of 'group'" in told


def test_people_see_the_stack_and_the_layouts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "nemotron-h-8b", "--axes", "0"]) == 0
    out = capsys.readouterr().out
    for text in ("M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-", "8.10 B", "109.64 M", "18560 x 4096", "[group x head x channel]"):
        assert text in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nemotron-h-8"], "Did you mean 'nemotron-h-8b'?"),
        (["nothing/like/it"], "Presets are"),
        (["nemotron-h-8b", "--axes", "52"], "0 to 51"),
    ],
)
def test_what_is_not_there_is_a_sentence(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", *words]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("model", presets())
def test_every_preset_is_readable_in_80_columns(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    facts = shown(model, capsys)
    assert main(["show", model]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    drawn = [line for line in lines if line.strip() and set(line.strip()) <= set("M*-EH")]
    assert "".join(line.strip() for line in drawn) == facts["pattern"]
    listed = sum(row["parameters_each"] * len(row["layers"]) for row in facts["kinds"])
    outside = sum(facts["parameters_by_kind"].get(name, 0) for name in ("embedding and head", "meta tokens", "norm"))
    assert listed + outside == facts["parameters"]
    assert sorted(index for row in facts["kinds"] for index in row["layers"]) == list(range(len(facts["pattern"])))


def test_hymba_shows_its_windows_and_which_layers_share_a_cache(capsys: pytest.CaptureFixture[str]) -> None:
    facts = shown("hymba-1.5b", capsys)
    groups = [[index // 2 for index in group] for group in facts["kv_groups"]]  # blocks, as Hymba counts them
    assert len(groups) == 17 and groups[:3] == [[0], [1, 2], [3, 4]] and [15] in groups and [16, 17, 18] in groups and groups[-1] == [31]
    assert set(map(str, facts["attention_layers"])) - facts["windows"].keys() == {"0", "30", "62"}
    assert set(facts["windows"].values()) == {1024} and facts["meta_tokens"] == 128
    main(["show", "hymba-1.5b"])
    out = capsys.readouterr().out
    for text in (
        "window  a w w w w",
        "kv      a b b c c",
        "29 with a window of 1024",
        "17 KV caches",
        "128 meta tokens in front",
        "ntk (factor 2",
        "64 layers in 32 blocks",
    ):
        assert text in out


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("nemotron-3-nano-30b-a3b", ["31.58 B parameters, 3.58 B of them for a token", "128 experts", "attention in 6 of 52 layers"]),
        ("nemotron-4-340b", ["LayerNorm1P 1e-05", "rotary base 10,000, 50.0 % of the channels", "192 layers in 96 blocks"]),
        ("llama-3.1-8b", ["llama3 (factor 8, low 1, high 4, original 8192)", "131,072 positions", "own head"]),
        ("qwen2.5-0.5b", ["tied head", "RoPE, bias"]),
    ],
)
def test_what_sets_a_family_apart_is_told(model: str, told: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(["show", model])
    out = capsys.readouterr().out
    assert [text for text in told if text not in out] == []


def test_widths_that_differ_from_layer_to_layer_are_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    base = config_of("nemotron-h-56b")
    widths = {index: 64 * (index + 1) for index, layer in enumerate(base.layers) if isinstance(layer, MLP)}
    layers = tuple(MLP(ffn=widths[index]) if index in widths else layer for index, layer in enumerate(base.layers))
    path = written(tmp_path / "varied", replace(base, layers=layers))
    facts = shown(path, capsys)
    assert list(facts["varying_widths"]) == ["ffn"]
    assert facts["varying_widths"]["ffn"] == [widths.get(index) for index in range(118)]
    main(["show", str(path)])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 and len(lines) < 40
    bars = "".join(f"{line[5:]:<60}" for line in lines if line.startswith("ffn  "))
    assert [index for index, bar in enumerate(bars) if bar != " "] == list(widths)
    assert bars.replace(" ", "") == "".join(sorted(bars.replace(" ", "")))  # they grow with depth
    assert any("54 shapes; ffn 128 to 7552" in line for line in lines)


def test_one_axis_of_two_kinds_is_told_apart_and_sharing_skips_plain_attention(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hybrid = HybridHead(query_heads=4, kv_heads=2, qk_channels=4, v_channels=3, state=5, rank=2)
    mamba, attention = Mamba2(heads=4, channels=3, groups=2, state=5), Attention(query_heads=2, kv_heads=1, channels=4)
    stack = (hybrid, mamba, attention, replace(hybrid, shares_kv=True, state=7), replace(mamba, state=6))
    path = written(tmp_path / "mixed", DecoderConfig(vocab=11, hidden=7, layers=stack))
    facts = shown(path, capsys)
    assert facts["kv_groups"] == [[0, 3], [2]]
    assert facts["varying_widths"] == {"hybrid_head.state": [5, None, None, 7, None], "mamba2.state": [None, 5, None, None, 6]}
