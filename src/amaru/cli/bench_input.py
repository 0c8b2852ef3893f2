"""What `amaru bench` is told in one word: numbers with commas, peers and the Pythons that have them."""

from pathlib import Path

from amaru.errors import ConfigError


def numbers(flag: str, text: str) -> tuple[int, ...]:
    """`numbers("--prefill", "1024,2048")` is (1024, 2048)."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ConfigError(f"{flag} takes positive whole numbers with commas between them; got '{text}'.")
    return tuple(map(int, parts))


def pythons(text: str | None) -> dict[str, str]:
    """`pythons("vllm=/envs/vllm/bin/python")` is {"vllm": "/envs/vllm/bin/python"}."""
    pairs = [pair.partition("=") for pair in (text or "").split(",") if pair]
    if wrong := [name for name, equals, python in pairs if not equals or not Path(python).is_file()]:
        raise ConfigError(f"--peers takes NAME=PYTHON with the path of a Python that exists; '{wrong[0]}' has none.")
    return {name: python for name, _, python in pairs}
