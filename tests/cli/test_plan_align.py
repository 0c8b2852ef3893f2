"""`amaru plan align`: its pace against the published pre-training of Nemotron-4 340B, its counts against the report's, and who fits."""

import json

import pytest

from amaru.cli.main import main
from amaru.models.cost import training_flops
from amaru.models.families import config_of


@pytest.mark.parametrize("gpus, batch, seconds, mfu", [(1536, 768, 10.3, 0.424), (3072, 1536, 10.3, 0.423), (6144, 2304, 8.0, 0.41)])
def test_flops_give_the_published_utilisation(gpus: int, batch: int, seconds: float, mfu: float) -> None:
    """What `amaru plan align` counts, on the report's table 2: sequences of 4,096 tokens, 989 TFLOP/s."""
    found = training_flops(config_of("nemotron-4-340b"), 4096) * batch * 4096 / (gpus * 989.4e12 * seconds)
    assert found == pytest.approx(mfu, abs=0.002)


def planned(capsys: pytest.CaptureFixture, *words: str, code: int = 0) -> dict:
    assert main(["plan", "align", *words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_the_report_s_stages(capsys: pytest.CaptureFixture) -> None:
    found = planned(capsys, "nemotron-4-340b", "--devices", "768xH100-80GB", "--length", "1000")
    stages = {each["name"]: each for each in found["stages"]}
    assert [stages[name]["steps"] for name in ("reward model", "code SFT", "DPO")] == [313, 6250, 625]
    assert stages["DPO"]["tokens"] == 2 * 160_000 * 1000 and stages["code SFT"]["tokens"] == 800_000 * 1000
    forward = training_flops(config_of("nemotron-4-340b"), 1000) / 3
    assert stages["code SFT"]["training_seconds"] == pytest.approx(3 * forward * 8e8 / (768 * 989.4e12 * 0.41))
    assert stages["DPO"]["flops"] == pytest.approx((2 * 4 + 4) * 160_000 * 1000 * forward)  # learned, read by the reference, scored
    assert (found["training"]["tensor"], found["training"]["data"]) == (4, 192) and found["serving"]["tensor"] == 16
    held = found["training"]["training"], found["training"]["training"] + found["training"]["reference"]
    assert [stages[name]["memory"] for name in ("reward model", "general SFT", "DPO", "RPO 3")] == [held[0]] * 2 + [held[1]] * 2
    assert found["seconds"] == pytest.approx(sum(each["training_seconds"] + (each["sampling_seconds"] or 0) for each in stages.values()))


def test_twice_the_devices_take_half_the_time_and_less_memory_each(capsys: pytest.CaptureFixture) -> None:
    one, two = (planned(capsys, "nemotron-h-8b", "--devices", f"{count}xH100") for count in (8, 16))
    for before, after in zip(one["stages"], two["stages"], strict=True):
        assert after["training_seconds"] == pytest.approx(before["training_seconds"] / 2)
    assert two["layouts"][0]["training"] < one["layouts"][0]["training"] and one["training"]["tensor"] == 1


def test_what_does_not_fit_is_a_finding_and_what_is_not_known_an_error(capsys: pytest.CaptureFixture) -> None:
    assert planned(capsys, "nemotron-4-340b", "--devices", "8xH100", code=1)["training"] is None
    assert main(["plan", "align", "nemotron-h-8b", "--devices", "8x80GB"]) == 2
    assert "FLOP/s of 8x80GB are not known" in capsys.readouterr().err
    assert main(["plan", "align", "nemotron-h-8b", "--devices", "8xH100"]) == 0
    said = capsys.readouterr().out
    assert "RPO 3" in said and "All stages" in said and max(map(len, said.splitlines())) <= 160
