"""Lower bounds of time, against the published one of the 340B and against sums done by hand."""

import pytest

from amaru.models import DecoderConfig
from amaru.models.cost import Workload, memory
from amaru.models.devices import Device, Machine, machine
from amaru.models.families import config_of
from amaru.models.roofline import decode, prefill, weights_once
from amaru.nn import MLP, Attention, Mamba2
from amaru.nn.moe import MoE

TOY = Device(name="toy", memory=10**9, bandwidth=1000.0, flops={"bf16": 500.0, "fp8": 2000.0})
ATTENTION = Attention(query_heads=6, kv_heads=2, channels=5)


def test_the_340b_in_fp8_reads_its_weights_in_the_published_time() -> None:
    eight = machine("8xH100-80GB")
    seconds = weights_once(config_of("nemotron-4-340b"), Workload(weights="fp8"), eight)
    assert seconds and round(seconds * 1000, 1) == 13.1 and round(1 / seconds) == 76
    bound = decode(config_of("nemotron-4-340b"), Workload(context=0, weights="fp8"), eight)
    assert bound.binds == "memory"
    assert bound.seconds and round((seconds - bound.seconds) * 3.35e12) == 256_000 // 8 * 18432 * 2  # the embedding is looked up


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("tied", [False, True])
def test_a_decoded_token_reads_weights_and_cache_and_carries_its_states(devices: int, tied: bool) -> None:
    mamba = Mamba2(heads=4, channels=3, groups=2, state=5)
    config = DecoderConfig(vocab=12, hidden=8, layers=(mamba, ATTENTION, MLP(ffn=14)), tied=tied)
    workload = Workload(context=9, batch=3, weights="fp8", state="bf16")
    need = memory(config, workload, devices)
    embedding = 0 if tied else 2 * (12 // devices) * 8
    moved = need.weights - embedding + need.kv + 2 * (need.ssm_state + need.conv_state)
    assert decode(config, workload, Machine(count=devices, device=TOY)).memory == pytest.approx(moved / 1000, rel=1e-12)


def test_flops_are_done_at_the_rate_of_their_format_by_all_devices() -> None:
    config = DecoderConfig(vocab=12, hidden=8, layers=(ATTENTION, MLP(ffn=14)))
    matrices, head = 2 * 8 * (5 * (6 + 2 + 2 + 6) + 2 * 14), 2 * 12 * 8
    scores = 4 * 6 * 5
    workload, two = Workload(context=9, batch=3, weights="fp8"), Machine(count=2, device=TOY)
    assert decode(config, workload, two).compute == pytest.approx(3 * (matrices / 2000 + (9 * scores + head) / 500) / 2, rel=1e-12)
    seen = sum(range(1, 10))
    assert prefill(config, workload, two).compute == pytest.approx((9 * matrices / 2000 + (seen * scores + head) / 500) / 2, rel=1e-12)


def test_experts_that_no_token_is_sent_to_are_not_read() -> None:
    moe = MoE(experts=8, top_k=2, ffn=5, shared_ffn=3)
    config, one = DecoderConfig(vocab=12, hidden=8, layers=(moe,), tied=True), Machine(count=1, device=TOY)
    whole, expert = memory(config, Workload()).weights, 2 * 2 * 5 * 8
    for batch, touched in ((1, 2), (2, 8 * (1 - 0.75**2)), (10**6, 8)):
        moved = decode(config, Workload(batch=batch), one).memory
        assert moved and whole - moved * 1000 == pytest.approx((8 - touched) * expert)


def test_prefill_moves_one_sequence_and_decode_all() -> None:
    config = DecoderConfig(vocab=12, hidden=8, layers=(ATTENTION,))
    workload, one = Workload(context=50, batch=4), Machine(count=1, device=TOY)
    row = 2 * 2 * 2 * 5
    first, step = prefill(config, workload, one).memory, decode(config, workload, one).memory
    assert first and step and round((step - first) * 1000) == 3 * 50 * row


def test_which_side_binds() -> None:
    hybrid, dense, device = config_of("nemotron-h-8b"), config_of("llama-3.1-8b"), machine("h100")
    assert prefill(hybrid, Workload(context=8192), device).binds == "compute"
    assert decode(hybrid, Workload(context=8192), device).binds == "memory"
    many = Workload(context=1, batch=4096)
    assert decode(dense, many, device).binds == "compute"
    assert decode(hybrid, many, device).binds == "memory"  # each sequence carries its states through memory


def test_what_is_not_known_is_not_told() -> None:
    bound = decode(config_of("nemotron-h-8b"), Workload(), machine("24GiB"))
    assert bound == (None, None) and bound.seconds is None and bound.binds is None
    assert weights_once(config_of("nemotron-h-8b"), Workload(), machine("cpu")) is None
