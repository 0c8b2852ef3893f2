"""Several adapters in one engine: each request says what a model into which its adapter was folded says alone."""

import copy
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from tests.models.random_models import random_config, random_hymba, random_ids, random_model
from tests.serve.test_engine import everything_is_given_back, run
from tests.serve.test_speculation import blurred

from amaru.adapters import LoRA, Method, TiedLoRA, activate, adapt, fold
from amaru.errors import ConfigError
from amaru.models import Decoder
from amaru.ops.native import lacks
from amaru.precision.quantise import quantise
from amaru.precision.scheme import Scheme
from amaru.serve.config import EngineConfig
from amaru.serve.engine import Engine
from amaru.serve.generate import generate
from amaru.serve.recorded import RECORDED
from amaru.serve.request import Settings
from amaru.serve.sampler import GREEDY, Sampling

CONFIG = EngineConfig(memory=2**24, max_running=5, max_tokens=300, chunk_tokens=40, prefix_every=32, prefix_bytes=2**22, draft_memory=2**22)
METHODS: dict[str, Method] = {
    "wide": LoRA(rank=2, alpha=2),
    "tied": TiedLoRA(rank=2, targets=("all",)),
    "mixer": LoRA(rank=2, alpha=2, targets=("out_proj",)),
}
NAMES = (*METHODS, None)


def adapted(decoder: Decoder) -> Decoder:
    """With three adapters that each change what is said, and none of them switched on."""
    torch.manual_seed(5)
    heads = {} if decoder.config.tied else {"wide": LoRA(rank=2, alpha=2, targets=("all", "head"))}
    for name, method in (METHODS | heads).items():
        for factor in adapt(decoder, method, name).parameters():
            torch.nn.init.normal_(factor, std=0.3)
    activate(decoder)
    return decoder


def active(decoder: Decoder, name: str | None) -> Decoder:
    model = copy.deepcopy(decoder)
    activate(model, *([name] if name else []))
    return model


def alone(decoder: Decoder, name: str | None) -> Decoder:
    fold(model := active(decoder, name))
    return model


@pytest.fixture(scope="module", params=["nemotron_h", "hymba"])
def decoder(request: pytest.FixtureRequest) -> Decoder:
    return adapted(random_model(random_config(0, "MM-*-M") if request.param == "nemotron_h" else random_hymba(1), 0))


def prompts(decoder: Decoder) -> list[list[int]]:
    return [ids.tolist() for ids in random_ids(decoder.config.vocab, 70, 1, 9)]


def expected(decoder: Decoder, wishes: Sequence[Settings]) -> dict[str | None, list[list[int]]]:
    return {
        name: [each.tokens for each in generate(alone(decoder, name), prompts(decoder), wish)]
        for name, wish in zip(NAMES, wishes, strict=True)
    }


@pytest.mark.parametrize(("decoder", "speculate"), [("nemotron_h", "off"), ("nemotron_h", "draft"), ("hymba", "off")], indirect=["decoder"])
def test_each_says_what_it_says_alone_in_a_mixed_crowd_and_after_reuse(decoder: Decoder, speculate: str) -> None:
    wishes = [Settings(max_tokens=20, logprobs=0, sampling=GREEDY) for _ in NAMES]
    wanted = expected(decoder, wishes)
    draft = blurred(alone(decoder, "tied"), 0.1) if speculate == "draft" else None
    engine = Engine(decoder, config=replace(CONFIG, speculate=speculate), draft=draft)
    for again in range(2):
        asked = [(prompt, replace(wish, adapter=name)) for prompt in prompts(decoder) for name, wish in zip(NAMES, wishes, strict=True)]
        told = run(engine, *asked)
        found = {name: [each.tokens for each in told[index :: len(NAMES)]] for index, name in enumerate(NAMES)}
        assert found == wanted
        assert (engine.stats().reused_tokens > 0) == bool(again), "what one adapter read is of no use to another"
    assert len({tuple(map(tuple, answers)) for answers in wanted.values()}) == len(NAMES), "all four say something else"
    assert everything_is_given_back(engine)


def test_seeds_and_measured_prompts_are_the_adapters_own(decoder: Decoder) -> None:
    wish = Settings(max_tokens=12, logprobs=0, prompt_logprobs=True, sampling=Sampling(temperature=1.0, seed=4))
    prompt = prompts(decoder)[0]
    told = run(Engine(decoder, config=CONFIG), *((prompt, replace(wish, adapter=name)) for name in NAMES))
    for name, each in zip(NAMES, told, strict=True):
        (other,) = run(Engine(active(decoder, name), config=CONFIG), (prompt, wish))
        assert each.tokens == other.tokens and each.handle and other.handle
        ours, theirs = ([token.logprob for token in told.handle.prompt_logprobs] for told in (each, other))  # type: ignore[union-attr]
        assert len(ours) == 69 and ours == pytest.approx(theirs, rel=2e-5, abs=1e-4)


@pytest.mark.skipif(lacks() is not None, reason="exactness needs native kernels")
def test_company_changes_no_bit_in_exact_mode() -> None:
    decoder, config = adapted(random_model(random_config(0, "MM-*-M"), 0)), replace(CONFIG, exact=True)
    wish = Settings(max_tokens=12, logprobs=0, sampling=GREEDY)
    asked = [(prompt, replace(wish, adapter=name)) for prompt in prompts(decoder) for name in NAMES]
    crowd = run(Engine(decoder, config=config), *asked)
    for told, request in zip(crowd, asked, strict=True):
        (single,) = run(Engine(decoder, config=replace(config, chunk_tokens=400, prefix_bytes=0)), request)
        ours, theirs = ([(token.id, token.logprob) for event in each.events for token in event.tokens] for each in (told, single))
        assert ours == theirs


def test_adapters_are_served_on_codes() -> None:
    decoder = random_model(random_config(0, "MM-*-M"), 0)
    quantise(decoder, Scheme(to="int8"))
    wish = Settings(max_tokens=20, sampling=GREEDY)
    told = run(Engine(adapted(decoder), config=CONFIG), *((prompts(decoder)[0], replace(wish, adapter=name)) for name in NAMES))
    for name, each in zip(NAMES, told, strict=True):  # into codes nothing is folded
        assert each.tokens == generate(active(decoder, name), [prompts(decoder)[0]], wish)[0].tokens


@pytest.mark.skipif(lacks() is not None, reason="recordings hold native kernels")
def test_steps_without_adapters_are_recorded_and_those_with_them_are_not() -> None:
    decoder = adapted(random_model(random_config(0, "MM-*-M"), 0))
    engine, wish = Engine(decoder, config=CONFIG), Settings(max_tokens=5, sampling=GREEDY)
    for name in (None, "wide", None):
        run(engine, ([1, 2, 3], replace(wish, adapter=name)))
        (step,) = (step for shape, step in RECORDED[engine._pool.state].items() if shape[0] == (1,))
        assert step is not None and step.serves(decoder)
    run(other := Engine(decoder, config=CONFIG), ([1, 2, 3], replace(wish, adapter="wide")))
    assert other._pool.state not in RECORDED


def test_an_adapter_that_is_not_there_is_refused(decoder: Decoder) -> None:
    with pytest.raises(ConfigError, match="no adapter 'french'; it has: wide, tied, mixer"):
        run(Engine(decoder, config=CONFIG), ([1, 2], Settings(adapter="french")))
