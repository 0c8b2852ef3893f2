"""Sizes as people write them on a command line (`amaru.report.numbers` writes them back)."""

import re

from amaru.errors import ConfigError

UNITS = {"": 1, "b": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def parse_bytes(text: str) -> int:
    """`parse_bytes("31.7GiB")`; also "24GB", "512 MiB", "80g" or plain bytes. Raises `ConfigError` for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", text.lower())
    if not match or match[2] not in UNITS:
        raise ConfigError(f"'{text}' is not a size; write it as 24GiB, 24GB, 512MiB, or a number of bytes.")
    return round(float(match[1]) * UNITS[match[2]])
