"""How many sequences fit, and how long: the published sizing of the 340B, and the next one more does not fit."""

from dataclasses import replace

import pytest

from amaru.models import DecoderConfig
from amaru.models.capacity import longest_context, sequences
from amaru.models.cost import Workload, memory
from amaru.models.families import config_of
from amaru.nn import MLP, Mamba2

GB = 10**9


@pytest.mark.parametrize(("kv", "count"), [("bf16", 93), ("fp8", 186)])
def test_the_340b_in_fp8_on_eight_devices_has_room_for_the_published_sequences(kv: str, count: int) -> None:
    workload = Workload(context=4096, weights="fp8", kv=kv)  # type: ignore[arg-type]
    assert sequences(config_of("nemotron-4-340b"), workload, devices=8, usable=72 * GB) == count


@pytest.mark.parametrize("model", ["nemotron-h-8b", "hymba-1.5b", "qwen2.5-7b"])
@pytest.mark.parametrize("devices", [1, 2])
def test_what_is_said_to_fit_fits_and_one_more_does_not(model: str, devices: int) -> None:
    config, workload, usable = config_of(model), Workload(context=5000, batch=3, state="bf16"), 20 * GB
    if model == "hymba-1.5b" and devices > 1:
        return
    count, longest = sequences(config, workload, devices, usable), longest_context(config, workload, devices, usable)
    assert count and longest
    for field, most in (("batch", count), ("context", longest)):
        assert memory(config, replace(workload, **{field: most}), devices).total <= usable
        assert memory(config, replace(workload, **{field: most + 1}), devices).total > usable


def test_nothing_fits_where_the_weights_do_not() -> None:
    config = config_of("nemotron-h-56b")
    assert sequences(config, Workload(), 1, 80 * GB) == 0 and longest_context(config, Workload(), 1, 80 * GB) == 0


def test_without_attention_any_context_fits_and_without_state_any_number() -> None:
    mamba = DecoderConfig(vocab=11, hidden=7, layers=(Mamba2(heads=2, channels=3, groups=1, state=5),))
    assert longest_context(mamba, Workload(), 1, 10**6) is None and sequences(mamba, Workload(), 1, 10**6)
    assert sequences(DecoderConfig(vocab=11, hidden=7, layers=(MLP(ffn=13),)), Workload(), 1, 10**6) is None
