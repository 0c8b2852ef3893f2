"""What an engine tells about itself."""

from amaru.config import Config

COUNTERS: tuple[str, ...] = (
    *("prompt_tokens", "reused_tokens", "generated_tokens", "drafted_tokens", "accepted_tokens"),
    *("steps", "finished", "cancelled", "failed"),
)


class EngineStats(Config):
    """Gauges of now, and counters since the start."""

    running: int
    waiting: int
    slots: int
    free_slots: int
    pages: int
    free_pages: int
    bytes: int
    snapshots: int
    snapshot_bytes: int
    prompt_tokens: int
    reused_tokens: int
    generated_tokens: int
    drafted_tokens: int
    accepted_tokens: int
    steps: int
    finished: int
    cancelled: int
    failed: int
    seconds_in_steps: float
