"""Models side by side, measured in this run on this machine: quality, size, memory, speed."""

from pathlib import Path
from typing import Any

import torch

from amaru.data.loader import in_order
from amaru.eval.perplexity import evaluate, token_bytes
from amaru.models import cost
from amaru.models.checkpoint import fingerprint, load
from amaru.models.decoder import Decoder
from amaru.recipes.run import Run
from amaru.recipes.text import Text
from amaru.serve.speed import Timing, measure

BATCH_ROWS = 8


def quality(run: Run, name: str, checkpoint: Path, text: Text, dtype: str, teacher: Path | None = None) -> dict[str, Any]:
    """Loss, accuracy and bits per byte on all validation rows, and agreement with the teacher; arithmetic in `dtype`, weights in fp32."""

    def make() -> dict[str, Any]:
        decoder = for_arithmetic(checkpoint, dtype, run.device)
        reference = None if teacher is None else for_arithmetic(teacher, dtype, run.device)
        found = evaluate(decoder, in_order(text.validation, BATCH_ROWS), teacher=reference, token_bytes=token_bytes(text.tokenizer))
        return {
            "loss": found.loss,
            "accuracy": found.next_token_accuracy,
            "bits_per_byte": found.bits_per_byte,
            "teacher_kl": found.teacher_kl,
            "teacher_agreement": found.teacher_agreement,
        }

    made_from = {
        "checkpoint": fingerprint(checkpoint),
        "text": text.fingerprint,
        "teacher": fingerprint(teacher) if teacher else "",
        "dtype": dtype,
    }
    return run.result(f"quality-{name}", made_from, make, title=f"quality of {name}")


def speed(run: Run, name: str, checkpoint: Path, timing: Timing) -> dict[str, Any]:
    """Prefill and decode tokens per second and the bytes held, with weights and caches in bf16 and SSM states in fp32."""

    def make() -> dict[str, Any]:
        decoder = load(checkpoint, torch.bfloat16, run.device)
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


def for_arithmetic(checkpoint: Path | str, dtype: str, device: torch.device | str = "cpu") -> Decoder:
    """The checkpoint's decoder with fp32 weights, computing in bf16 or fp32."""
    decoder = load(checkpoint, torch.float32, device)
    decoder.compute_dtype = torch.bfloat16 if dtype == "bf16" else None
    return decoder
