"""Which limit of a budget counts."""

import numpy as np
import pytest

from amaru.compress import Budget
from amaru.compress.budget import Cost
from amaru.errors import ConfigError
from amaru.models.cost import Workload


def test_the_tightest_limit_counts():
    budget = Budget(parameters=100, memory=2 * 2**20)
    assert budget.used(Cost(50, 2**19)) == 0.5
    assert budget.used(Cost(50, 3 * 2**20)) == 1.5
    assert Budget(parameters=100).used(Cost(50, 10**9)) == 0.5
    assert Budget(memory=100, reserve=40).used(Cost(1, 30)) == 0.5
    timed = Budget(memory=100, prefill=2.0, decode=0.1, throughput=50.0)
    assert timed.used(Cost(1, 50, 1.0, 0.05, 100.0, 4)) == 0.5
    assert timed.used(Cost(1, 50, 3.0, 0.05, 100.0, 4)) == 1.5
    assert timed.used(Cost(1, 50, 1.0, 0.05, 25.0, 4)) == 2.0
    assert timed.used(Cost(1, 50, 1.0, 0.05, 0.0, 0)) == np.inf, "none fits"


def test_a_budget_of_many_costs_is_judged_at_once():
    costs = Cost(np.array([10, 30]), np.array([5, 50]))
    assert Budget(parameters=20, memory=10).used(costs).tolist() == [0.5, 5.0]


def test_a_budget_in_words():
    budget = Budget(parameters=100, memory=2 * 2**20)
    assert budget.describe() == "100 parameters and 2 MiB at context 4096 and batch 1 (weights bf16, KV bf16, SSM state fp32)"
    told = Budget(memory=2**21, workload=Workload(weights="fp8")).describe()
    assert told.endswith("(weights fp8 (embedding and head bf16), KV bf16, SSM state fp32)")
    timed = Budget(memory=2**21, reserve=2**20, prefill=0.25, decode=0.0031, throughput=120.0, workload=Workload(batch=8))
    assert "2 MiB less 1 MiB in reserve at" in timed.describe()
    assert "250 ms for a prompt of 1024 tokens and 3.1 ms for a step of 8 sequences at context 4096" in timed.describe()
    assert timed.describe().endswith("and 120 tokens/s with as many sequences as fit, at most 64")


def test_a_budget_limits_something():
    with pytest.raises(ConfigError, match="needs parameters, memory or both"):
        Budget()
    with pytest.raises(ConfigError, match="greater than 0"):
        Budget(memory=0)
    with pytest.raises(ConfigError, match="it needs memory"):
        Budget(throughput=10.0)
    with pytest.raises(ConfigError, match="must leave something of memory"):
        Budget(memory=10, reserve=10)
