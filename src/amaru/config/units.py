"""Sizes and counts as people write them (`report.numbers` writes them back)."""

import re

from amaru.errors import ConfigError

COUNTS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
BYTES = {"": 1, "b": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
NUMBER = r"(\d{1,18}(?:\.\d{1,18})?(?:e\d{1,2})?)"  # so many digits that a float holds all of them


def parse_bytes(text: str) -> int:
    """`parse_bytes("31.7GiB")`; also "24GB", "512 MiB", "80g" or plain bytes. Raises `ConfigError` for anything else."""
    match = re.fullmatch(rf"\s*{NUMBER}\s*([kmgt]i?)?b?\s*", text.lower())
    value = round(float(match[1]) * BYTES[match[2] or ""]) if match else 0
    if value < 1:
        raise ConfigError(f"'{text}' is not a size; write it as 24GiB, 24GB, 512MiB, or a number of bytes.")
    return value


def parse_count(text: str) -> int:
    """`parse_count("1.5M") == 1_500_000`; k, M, B and T are powers of 1000. Raises `ConfigError` for anything else."""
    match = re.fullmatch(rf"\s*{NUMBER}\s*([kmbt]?)\s*", text.lower().replace("_", "").replace(",", ""))
    value = round(float(match[1]) * COUNTS[match[2]]) if match else 0
    if value < 1:
        raise ConfigError(f"'{text}' is not a count; write it as 300000, 300k, 2M or 4.5B.")
    return value


def parse_seconds(text: str) -> float:
    """`parse_seconds("30ms") == 0.03`; s, ms and us. Raises `ConfigError` for anything else."""
    match = re.fullmatch(rf"\s*{NUMBER}\s*(s|ms|us)\s*", text.lower())
    value = float(match[1]) * SECONDS[match[2]] if match else 0.0
    if value <= 0:
        raise ConfigError(f"'{text}' is not a time; write it as 1.5s, 30ms or 200us.")
    return value


def parse_share(text: str, whole: float) -> int | None:
    """`parse_share("60%", 1000) == 600`; None when it is not a percentage. Raises `ConfigError` outside 0 to 100 %."""
    match = re.fullmatch(rf"\s*{NUMBER}\s*%\s*", text.lower())
    if match is None:
        return None
    share = float(match[1]) / 100
    if not 0 < share <= 1:
        raise ConfigError(f"A share lies above 0 % and at most at 100 %; got '{text}'.")
    return int(share * whole)
