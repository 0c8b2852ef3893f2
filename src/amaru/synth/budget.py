"""What calls cost, and budgets that are never overspent: each call sets aside the most that it can cost before it is sent."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from pydantic import Field

from amaru.config import Config
from amaru.errors import BudgetError

MILLION = 1_000_000


class Price(Config):
    """`Price(prompt=0.5, completion=1.5)`: money for a million tokens, in whatever currency the budget has."""

    prompt: float = Field(ge=0)
    completion: float = Field(ge=0)

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (self.prompt * prompt_tokens + self.completion * completion_tokens) / MILLION


class Budget(Config):
    """`Budget(money=5.0)`: the most that all runs on one store may use together; None is no limit."""

    calls: int | None = Field(default=None, ge=1)
    tokens: int | None = Field(default=None, ge=1)
    money: float | None = Field(default=None, gt=0)


@dataclass(frozen=True)
class Usage:
    """Calls, tokens of prompts and answers, and money."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    money: float = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(*(mine + its for mine, its in zip(vars(self).values(), vars(other).values(), strict=True)))

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(*(mine - its for mine, its in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class Receipt:
    """What a call really used; whoever made the call writes it here."""

    used = Usage()


class Ledger:
    """`Ledger(Budget(calls=100), spent=store.usage())`: what was used by all runs so far, and what calls under way may use at most."""

    def __init__(self, budget: Budget, spent: Usage | None = None) -> None:
        self.budget = budget
        self.spent = spent or Usage()
        self._reserved = Usage()
        self._settled = asyncio.Condition()

    @asynccontextmanager
    async def reserved(self, most: Usage) -> AsyncIterator[Receipt]:
        """Set aside `most` for one call; waits while only calls under way stand against it.

        Raises `BudgetError` when it would not fit even if nothing were under way.
        """
        async with self._settled:
            while short := self._exceeded(self.spent + self._reserved + most):
                if self._exceeded(self.spent + most):
                    raise BudgetError(f"The budget is used up: {short}. Give a larger one, and the same command goes on from here.")
                await self._settled.wait()
            self._reserved += most
        receipt = Receipt()
        try:
            yield receipt
        finally:
            self._reserved -= most
            self.spent += receipt.used
            async with self._settled:
                self._settled.notify_all()

    def _exceeded(self, usage: Usage) -> str:
        """Which part of the budget this is too much for, as words; empty when it fits."""
        for name, allowed, needed in (
            ("calls", self.budget.calls, usage.calls),
            ("tokens", self.budget.tokens, usage.tokens),
            ("money", self.budget.money, usage.money),
        ):
            if allowed is not None and needed > allowed:
                return f"{name} {allowed:,}, of which {getattr(self.spent, name):,} are spent, and the next call may need more than is left"
        return ""
