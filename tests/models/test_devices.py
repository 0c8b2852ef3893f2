"""Names, counts and sizes of devices, and figures that contradict each other nowhere."""

import psutil
import pytest

from amaru.errors import ConfigError
from amaru.models.devices import ALIASES, DEVICES, machine


@pytest.mark.parametrize(
    ("text", "count", "name"),
    [
        ("h100", 1, "H100-80GB"),
        ("8xH100-80GB", 8, "H100-80GB"),
        ("2 x a100-40gb", 2, "A100-40GB"),
        ("16Xb200", 16, "B200"),
        ("RTX-5090", 1, "RTX-5090"),
        ("L40S", 1, "L40S"),
        ("T4-16GB", 1, "T4"),
    ],
)
def test_names_are_read_in_any_case(text: str, count: int, name: str) -> None:
    found = machine(text)
    assert (found.count, found.device.name) == (count, name)
    assert found.name == (f"{count}x{name}" if count > 1 else name)


def test_a_size_and_this_machine_have_memory_and_no_speed() -> None:
    assert machine("cpu").device.memory == psutil.virtual_memory().total
    sizes = {"8x80GB": 80 * 10**9, "2GiB": 2**31, "1e9": 10**9}
    assert {text: machine(text).device.memory for text in sizes} == sizes
    for text in ("cpu", "24GiB"):
        assert machine(text).device.bandwidth is None and machine(text).device.rate("bf16") is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("h10", "Did you mean 'h100'"),
        ("abacus", "There are: cpu, T4"),
        ("0", "is not a size"),
        ("0xh100", "one is the least"),
        ("2xcpu", "one memory"),
        ("4xh10", "Did you mean 'h100'"),
        ("-3xh100", "There is no device"),
        ("", "There is no device"),
    ],
)
def test_what_is_no_device_is_a_sentence(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        machine(text)


def test_old_names_still_mean_the_same_memory() -> None:
    old = {"t4": 15360, "l4": 23034, "rtx-4090": 24564, "rtx-5090": 32607, "a100-40gb": 40960, "l40s": 46068, "a100-80gb": 81920}
    old |= {"h100": 81559, "h200": 143771, "b200": 183359}
    assert {name: machine(name).device.memory // 2**20 for name in old} == old


@pytest.mark.parametrize("name", DEVICES)
def test_narrower_formats_are_not_slower_and_every_figure_has_a_source(name: str) -> None:
    device = DEVICES[name]
    assert device.source and device.bandwidth and device.bandwidth >= 3e11
    rates = [device.flops[number] for number in ("fp32", "fp16", "fp8", "nvfp4") if number in device.flops]
    assert rates == sorted(rates) and device.flops["int8"] >= 1.9 * device.flops["fp16"]


def test_a_format_that_the_device_does_not_calculate_in_is_widened() -> None:
    a100, t4 = DEVICES["a100-80gb"], DEVICES["t4"]
    assert a100.rate("fp8") == a100.rate("int4") == a100.rate("bf16") == 312e12 and a100.rate("int8") == 624e12
    assert t4.rate("bf16") == t4.rate("fp16") == 65e12
    assert all(name in DEVICES for name in ALIASES.values())
