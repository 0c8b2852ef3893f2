"""Divergences between the teacher's and the student's next-token distributions: pure functions of logits."""

import torch
from torch import Tensor


def forward_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """`forward_kl(student_logits, teacher_logits)`: KL(teacher || student) summed over tokens, in nats.

    student, teacher [n, vocab] logits in at least fp32. With a temperature T both are divided by T and the result is
    multiplied by T^2, so that gradients keep their size (Hinton 2015). Minitron and MiniPuzzle use T = 1 and nothing else.
    """
    log_p = torch.log_softmax(teacher / temperature, dim=-1)
    log_q = torch.log_softmax(student / temperature, dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum() * temperature**2
