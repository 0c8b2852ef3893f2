"""Models side by side, measured in this run on this machine: quality, size, memory, speed."""

from pathlib import Path
from typing import Any

import torch

from amaru.data.loader import in_order
from amaru.eval.perplexity import evaluate, token_bytes
from amaru.models import cost
from amaru.models.checkpoint import fingerprint, load
from amaru.recipes.run import Run
from amaru.recipes.text import Text
from amaru.serve.speed import Timing, measure

BATCH_ROWS = 8


def quality(run: Run, name: str, checkpoint: Path, text: Text, teacher: Path | None = None) -> dict[str, Any]:
    """Loss, accuracy and bits per byte on all validation rows, and agreement with the teacher; fp32 weights, bf16 arithmetic."""

    def make() -> dict[str, Any]:
        decoder, reference = _for_arithmetic(checkpoint), None if teacher is None else _for_arithmetic(teacher)
        found = evaluate(decoder, in_order(text.validation, BATCH_ROWS), teacher=reference, token_bytes=token_bytes(text.tokenizer))
        return {
            "loss": found.loss,
            "accuracy": found.next_token_accuracy,
            "bits_per_byte": found.bits_per_byte,
            "teacher_kl": found.teacher_kl,
            "teacher_agreement": found.teacher_agreement,
        }

    made_from = {"checkpoint": fingerprint(checkpoint), "text": text.fingerprint, "teacher": fingerprint(teacher) if teacher else ""}
    return run.result(f"quality-{name}", made_from, make, title=f"quality of {name}")


def speed(run: Run, name: str, checkpoint: Path, timing: Timing) -> dict[str, Any]:
    """Prefill and decode tokens per second and the bytes held, with weights and caches in bf16 and SSM states in fp32."""

    def make() -> dict[str, Any]:
        decoder = load(checkpoint, torch.bfloat16)
        found = measure(decoder, timing)
        return {
            "parameters": cost.parameters(decoder.config),
            "memory": found.weight_bytes + found.state_bytes,
            "weight_bytes": found.weight_bytes,
            "state_bytes": found.state_bytes,
            "prefill": found.prefill,
            "decode": found.decode,
        }

    made_from = {"checkpoint": fingerprint(checkpoint), "timing": repr(timing)}
    return run.result(f"speed-{name}", made_from, make, title=f"speed of {name}")


def _for_arithmetic(checkpoint: Path) -> Any:
    decoder = load(checkpoint)
    decoder.compute_dtype = torch.bfloat16
    return decoder
