"""`amaru plan` against published sizes, its answer to "does it fit?", and how it looks in a narrow terminal."""

import json

import pytest

from amaru.cli.main import main


def test_the_numbers_are_those_of_the_specification(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "nemotron-h-8b", "--context", "65536", "--batch", "2", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    memory = facts["memory"]
    assert facts["kv_bytes_per_token"] == 16_384 and memory["kv"] == 2 * 2**30 and memory["ssm_state"] == 2 * 96 * 2**20
    assert memory["total"] == memory["weights"] + memory["kv"] + memory["ssm_state"] + memory["conv_state"]
    assert facts["state_bytes_per_sequence"] == (memory["ssm_state"] + memory["conv_state"]) / 2
    assert 2 * (memory["weights"] - 2 * 131072 * 4096) / 2 < facts["decode_flops_per_token"] < 1.5 * memory["weights"]


@pytest.mark.parametrize(("device", "code", "said"), [("h100", 0, "fits,"), ("16GiB", 1, "does not fit"), ("t4", 1, "does not fit")])
def test_a_model_that_does_not_fit_is_a_finding(device: str, code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "nemotron-h-8b", "--context", "65536", "--device", device]) == code
    told = capsys.readouterr()
    assert said in told.out and bool(told.err) == bool(code)


def test_the_context_changes_only_the_cache(capsys: pytest.CaptureFixture[str]) -> None:
    memories = []
    for context in ("1000", "3000"):
        main(["plan", "nemotron-h-56b", "--context", context, "--kv", "fp8", "--json"])
        memories.append(json.loads(capsys.readouterr().out)["memory"])
    assert memories[1]["total"] - memories[0]["total"] == memories[1]["kv"] - memories[0]["kv"] == 2000 * 40_960 // 2


def test_training_is_planned_for_a_layout(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "nemotron-h-8b", "--train", "4096", "--processes", "8", "--tensor-parallel", "4", "--sequence-parallel"]
    assert main([*words, "--json"]) == 0
    training = json.loads(capsys.readouterr().out)["training"]
    each, again = training["each"], training["recomputed"]
    assert training["layout"] == {"data": 2, "tensor": 4, "sequence": True}
    assert each["total"] == sum(value for name, value in each.items() if name != "total")
    assert each["optimizer"] == 2 * each["weights"] == 2 * each["gradients"]
    assert again["activations"] < each["activations"] / 5 and again["weights"] == each["weights"]
    assert main(words) == 0
    assert "2 share every batch, 4 every layer, the tokens between layers too" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--kv", "int3"], "'nvfp4'"),
        (["--batch", "0"], "batch"),
        (["--context", "-1"], "context"),
        (["--device", "h10"], "'h100'"),
        (["--device", "0"], "is not a size"),
        (["--device", "3xh100"], "1, 2, 4, 8 would do"),
        (["--device", "h100", "--reserve", "100%"], "leaves nothing"),
        (["--device", "h100", "--reserve", "some"], "is not a size"),
        (["--bandwidth", "1TB"], "--device cpu"),
        (["--device", "h100", "--bandwidth", "fast"], "is not a size"),
        (["--embedding", "int3"], "embedding"),
        (["--processes", "2"], "--train"),
        (["--train", "64", "--processes", "6", "--tensor-parallel", "4"], "6 processes do not make groups of 4"),
        (["--train", "64", "--processes", "3", "--tensor-parallel", "3"], "a mamba2 layer has 8 indices of 'group'"),
    ],
)
def test_wrong_settings_are_sentences(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "nemotron-h-8b", *words]) == 2
    assert told in capsys.readouterr().err


def test_the_340b_in_fp8_on_eight_devices_is_the_published_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "nemotron-4-340b", *["--weights", "fp8", "--kv", "fp8", "--device", "8xH100-80GB", "--json"]]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [round(facts[name]["weights"] / 1e9, 1) for name in ("memory", "memory_per_device")] == [350.5, 43.8]
    assert facts["kv_bytes_per_token"] == 294_912
    assert round(facts["lower_bounds"]["weights_once_seconds"] * 1000, 1) == 13.1
    assert facts["lower_bounds"]["decode"]["bound_by"] == "memory"
    main(["plan", "nemotron-4-340b", *["--weights", "fp8", "--device", "8x80GB", "--reserve", "8GB", "--json"]])
    facts = json.loads(capsys.readouterr().out)
    assert facts["device"]["usable"] == 72_000_000_000 and facts["sequences_that_fit"] == 93
    assert facts["lower_bounds"]["decode"]["seconds"] is None


def test_windows_and_meta_tokens_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "hymba-1.5b", "--context", "8192", "--state", "bf16"]
    main([*words, "--json"])
    facts = json.loads(capsys.readouterr().out)
    memory = facts["memory"]
    assert round((memory["kv"] + memory["ssm_state"] + memory["conv_state"]) / 1e6, 1) == 78.6
    assert memory["kv_meta"] == 17 * 128 * 1920
    assert (facts["kv_bytes_per_token"], facts["kv_bytes_per_further_token"]) == (17 * 1920, 3 * 1920)
    main(words)
    out = capsys.readouterr().out
    assert "kv, 128 meta tokens" in out and "5,760 B behind full windows" in out


def test_reserves_are_shares_or_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    usable = {}
    for reserve in ("0", "10%", "6GiB"):
        main(["plan", "llama-3.2-1b", "--device", "24GiB", "--reserve", reserve, "--json"])
        usable[reserve] = json.loads(capsys.readouterr().out)["device"]["usable"] / 2**30
    assert usable == {"0": 24, "10%": pytest.approx(21.6), "6GiB": 18}


def test_given_figures_make_times_of_any_device(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "llama-3.2-1b", *["--device", "64GiB", "--bandwidth", "50GB", "--flops", "2T", "--context", "100", "--json"]])
    facts = json.loads(capsys.readouterr().out)
    bounds = facts["lower_bounds"]
    assert bounds["weights_once_seconds"] == facts["memory"]["weights"] / 50e9
    assert bounds["prefill"]["compute_seconds"] == pytest.approx(facts["prefill_flops"] / 2e12)
    assert facts["device"]["source"] == "as given"


@pytest.mark.parametrize("model", ["nemotron-h-56b", "nemotron-4-340b", "hymba-1.5b"])
def test_it_is_readable_in_80_columns(model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    devices = "" if model == "hymba-1.5b" else "8x"
    main(["plan", model, *f"--weights fp8 --device {devices}H100-80GB --batch 32 --context 100000".split()])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    for text in ("First-order lower bound", "at least", "decode 32 x 1", "compute-bound", "memory-bound", "fp8: matrices of layers"):
        assert text in out
