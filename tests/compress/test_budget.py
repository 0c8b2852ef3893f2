"""What people write as a budget, and what it means."""

import pytest
from tests.compress.oracles import small_config

from amaru.compress import Budget, parse_budget
from amaru.errors import ConfigError
from amaru.models import cost
from amaru.models.cost import Workload


@pytest.mark.parametrize(
    ("text", "parameters", "memory"),
    [
        ("300M", 300_000_000, None),
        ("1.2b", 1_200_000_000, None),
        ("1.5e6", 1_500_000, None),
        (" 500 k ", 500_000, None),
        ("2GiB", None, 2 * 2**30),
        ("800MB", None, 800_000_000),
        (".5 kib", None, 512),
    ],
)
def test_units(text, parameters, memory):
    budget = parse_budget(text, small_config(), Workload(context=7))
    assert (budget.parameters, budget.memory, budget.workload.context) == (parameters, memory, 7)


def test_percent_is_of_the_parents_parameters():
    config = small_config()
    assert parse_budget("60%", config).parameters == cost.parameters(config) * 60 // 100


@pytest.mark.parametrize("text", ["", "many", "2G", "60 percent", "-5M", "1e", "%", "2GiB 3GiB", "nan", "1/2"])
def test_nonsense_is_answered_with_examples(text):
    with pytest.raises(ConfigError, match="is not a budget; write 60% of the parent, 300M"):
        parse_budget(text, small_config())


@pytest.mark.parametrize(
    ("text", "sentence"), [("0%", "above 0"), ("130%", "at most 100"), ("0.6", "percent sign"), ("0MB", "less than one")]
)
def test_numbers_that_cannot_be_meant(text, sentence):
    with pytest.raises(ConfigError, match=sentence):
        parse_budget(text, small_config())


def test_a_budget_limits_something_and_the_tighter_limit_counts():
    with pytest.raises(ConfigError, match="needs parameters, memory or both"):
        Budget()
    budget = Budget(parameters=100, memory=2 * 2**20)
    assert budget.used(50, 2**19) == 0.5
    assert budget.used(50, 3 * 2**20) == 1.5
    assert budget.describe() == "100 parameters and 2.0 MiB at context 4096 and batch 1"
