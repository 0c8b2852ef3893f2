"""Choices of blocks against trying every one."""

import itertools

import numpy as np
import pytest

from amaru.compress.mip import Program, at_random, largest
from amaru.errors import BudgetError, ConfigError


def drawn(seed, layers=5, blocks=4, limits=2):
    """A program whose limits tell choices apart; the last block of each layer is none."""
    rng = np.random.default_rng(seed)
    scores = [np.sort(rng.random(blocks)) for _ in range(layers)]  # what costs less quality costs more of the limits
    costs = [np.sort(rng.random((blocks, limits)) * [1e9, 1e-3], axis=0)[::-1] for _ in range(layers)]
    for each in costs:
        each[-1] = 0
    whole = sum(each[0] for each in costs)
    return Program(scores, costs, 0.5 * whole, [np.arange(blocks) < blocks - 1 for _ in range(layers)])


def feasible(program):
    for choice in itertools.product(*(range(len(each)) for each in program.scores)):
        taken = sum(costs[block] for costs, block in zip(program.costs, choice, strict=True))
        present = any(held[block] for held, block in zip(program.present, choice, strict=True))
        if present and (taken <= program.limits).all():
            yield choice


@pytest.mark.parametrize("seed", range(6))
def test_the_best_choice_is_that_of_trying_all(seed):
    program = drawn(seed)
    best = min(feasible(program), key=program.score)
    assert program.solve(1) == [best]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("alike", [0.4, 0.6])
def test_later_choices_are_the_best_of_those_that_differ_enough(seed, alike):
    program, earlier = drawn(seed), []
    for found in program.solve(4, alike):
        most = alike * len(found) + 1e-9
        differ = [choice for choice in feasible(program) if all(sum(map(int.__eq__, choice, one)) <= most for one in earlier)]
        assert program.score(found) == pytest.approx(min(map(program.score, differ)))
        assert found in differ
        earlier.append(found)
    assert len(earlier) == 4


def test_fewer_where_nothing_else_fits_and_a_sentence_where_nothing_does():
    program = drawn(0, layers=2, blocks=2)
    everything = list(feasible(program))
    assert 0 < len(program.solve(10, alike=0.5)) <= len(everything) < 4
    with pytest.raises(BudgetError, match="No choice of blocks"):
        Program(program.scores, program.costs, np.array([-1.0, 1.0]), program.present).solve()


def test_a_stack_is_never_empty():
    """Nothing is free and everything costs, yet a layer stays."""
    scores, costs = [np.array([1.0, 0.0])] * 3, [np.array([[1.0], [0.0]])] * 3
    found = Program(scores, costs, np.array([9.0]), [np.array([True, False])] * 3).solve()
    assert sorted(found[0]) == [0, 1, 1]


def test_controls_keep_to_the_limits_and_look_elsewhere():
    program = drawn(3)
    parameters = [costs[:, 0] for costs in program.costs]
    (most,) = largest(program, parameters).solve()
    count = {choice: sum(each[block] for each, block in zip(parameters, choice, strict=True)) for choice in feasible(program)}
    assert count[most] == pytest.approx(max(count.values()), rel=1e-3)
    chosen = {at_random(program, seed).solve()[0] for seed in range(5)}
    assert len(chosen) > 1 and chosen <= set(feasible(program))
    assert at_random(program, 1).solve() == at_random(program, 1).solve()


def test_the_most_parameters_within_a_limit_of_parameters_are_found_at_once():
    """Exactly it would be a subset sum: seven blocks for each of eleven layers took more than ten minutes for the fourth choice."""
    rng = np.random.default_rng(0)
    parameters = [np.append(np.sort(rng.integers(20_000, 400_000, 6))[::-1], 0).astype(float) for _ in range(11)]
    limit = 0.8 * sum(each[0] for each in parameters)
    costs, present = [each[:, None] for each in parameters], [np.arange(7) < 6] * 11
    found = largest(Program(parameters, costs, np.array([limit]), present), parameters).solve(8, alike=0.8)
    taken = [sum(each[block] for each, block in zip(parameters, choice, strict=True)) for choice in found]
    assert len(found) == 8 and all(0.998 * limit <= each <= limit for each in taken)


def test_programs_that_are_none():
    with pytest.raises(ConfigError, match="at least one layer"):
        Program([], [], np.array([]), [])
    with pytest.raises(ConfigError, match="not finite"):
        Program([np.array([np.nan])], [np.array([[1.0]])], np.array([1.0]), [np.array([True])])
