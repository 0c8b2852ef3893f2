"""Which limit of a budget counts."""

import pytest

from amaru.compress import Budget
from amaru.errors import ConfigError
from amaru.models.cost import Workload


def test_the_tighter_limit_counts():
    budget = Budget(parameters=100, memory=2 * 2**20)
    assert budget.used(50, 2**19) == 0.5
    assert budget.used(50, 3 * 2**20) == 1.5
    assert Budget(parameters=100).used(50, 10**9) == 0.5
    assert budget.describe() == "100 parameters and 2 MiB at context 4096 and batch 1 (weights bf16, KV bf16, SSM state fp32)"
    told = Budget(memory=2**21, workload=Workload(weights="fp8")).describe()
    assert told.endswith("(weights fp8 (embedding and head bf16), KV bf16, SSM state fp32)")


def test_a_budget_limits_something():
    with pytest.raises(ConfigError, match="needs parameters, memory or both"):
        Budget()
    with pytest.raises(ConfigError, match="greater than 0"):
        Budget(memory=0)
