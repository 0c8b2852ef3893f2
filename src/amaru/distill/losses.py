"""Divergences between the teacher's and the student's next-token distributions: pure functions, in nats, summed over tokens.

p is the teacher's distribution, q the student's; each comes as its logarithm, [n, outcomes] in at least fp32. Outcomes are the tokens
of the vocabulary, or some of them and all others together.
"""

import math
from typing import Literal

import torch
from torch import Tensor

Divergence = Literal["forward_kl", "reverse_kl", "jensen_shannon"]


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q): what is lost where the teacher has mass, so the student covers all that the teacher may say."""
    return (log_p.exp() * (log_p - log_q)).sum()


def jensen_shannon(log_p: Tensor, log_q: Tensor, beta: float = 0.5) -> Tensor:
    """beta KL(p || m) + (1 - beta) KL(q || m) with m = beta p + (1 - beta) q: bounded, by log 2 at beta = 0.5 (Agarwal et al. 2023)."""
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log(1 - beta))
    return beta * kl(log_p, log_m) + (1 - beta) * kl(log_q, log_m)


def divergence(name: Divergence, log_p: Tensor, log_q: Tensor, beta: float = 0.5) -> Tensor:
    """`divergence("reverse_kl", log_p, log_q)`; `beta` is that of Jensen-Shannon."""
    if name == "forward_kl":
        return kl(log_p, log_q)
    return kl(log_q, log_p) if name == "reverse_kl" else jensen_shannon(log_p, log_q, beta)


def forward_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """`forward_kl(student_logits, teacher_logits)`: KL(teacher || student) summed over tokens, in nats.

    student, teacher [n, vocab] logits in at least fp32. With a temperature T both are divided by T and the result is
    multiplied by T^2, so that gradients keep their size (Hinton 2015). Minitron and MiniPuzzle use T = 1 and nothing else.
    """
    log_p = torch.log_softmax(teacher / temperature, dim=-1)
    log_q = torch.log_softmax(student / temperature, dim=-1)
    return kl(log_p, log_q) * temperature**2
