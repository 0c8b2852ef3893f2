"""Settings from plain values and assignments: what was written arrives, what cannot be is one sentence."""

from typing import Any

import pytest
from pydantic import Field

from amaru.config import Config, build, from_dict, to_dict
from amaru.errors import ConfigError

FLOORS = {"mamba2": 0.25, "mlp": 0.75}


class Space(Config):
    widths: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    floors: dict[str, float] = Field(default_factory=FLOORS.copy)
    limit: int = Field(default=32, gt=0)


class Learning(Config):
    tokens: int = Field(default=1000, gt=0)
    lr: float = 1e-3
    warmup: float | None = None


class Text(Config):
    data: tuple[str, ...]
    field: str = "text"
    note: str | None = None


class Recipe(Config):
    text: Text
    source: str
    learning: Learning = Learning(tokens=7, lr=0.5)
    space: Space = Space(floors={"attention": 0.5})
    seed: int = 0

    def check(self) -> None:
        if self.seed == 13:
            raise ConfigError("13 is no seed.")


class Forgiving(Config):
    text: Text = Field(default_factory=Text)  # type: ignore[arg-type]


GIVEN: dict[str, Any] = {"source": "here", "text": {"data": ["a.txt"]}}


def built(*assignments: str) -> Recipe:
    return build(Recipe, GIVEN, list(assignments))


def test_required_settings_may_come_from_assignments_alone() -> None:
    recipe = build(Recipe, {}, ["source=here", "text.data=[a.txt]", "seed=3"])
    assert recipe == Recipe(source="here", text=Text(data=("a.txt",)), seed=3)
    assert build(Forgiving, {}, ["text.data=[b]", "text.field=body"]).text == Text(data=("b",), field="body")


def test_nested_settings_keep_the_default_of_their_field() -> None:
    assert built("learning.lr=3e-4").learning == Learning(tokens=7, lr=3e-4)
    assert build(Recipe, GIVEN | {"learning": {"tokens": 9}}, []).learning == Learning(tokens=9, lr=0.5)
    assert build(Recipe, GIVEN | {"learning": {"tokens": 9}}, ["learning.warmup=0.1"]).learning == Learning(tokens=9, lr=0.5, warmup=0.1)
    assert built("learning={lr: 2e-3}").learning == Learning(tokens=7, lr=2e-3)


def test_assignments_merge_into_a_dict_and_values_replace_it() -> None:
    assert built("space.floors.mamba2=0.5", "space.limit=3").space == Space(floors={"attention": 0.5, "mamba2": 0.5}, limit=3)
    assert build(Space, {}, ["floors.mamba2=1"]).floors == {"mamba2": 1.0, "mlp": 0.75}
    assert build(Space, {"floors": {}}, []).floors == {}
    assert built("space.widths.ffn=[512, 384]").space.widths == {"ffn": (512, 384)}


def test_the_last_assignment_wins_and_given_values_are_left_alone() -> None:
    before = repr(GIVEN)
    assert built("seed=1", "seed=2", "learning.tokens=2e6").seed == 2
    assert repr(GIVEN) == before


@pytest.mark.parametrize(
    "text", ["*-M-", "-", "&a", "30000", "1e9", "60%", "yes", "2026-13-01", "2026-01-01", "[1", "null", "@x", "a=b", ""]
)
def test_text_is_what_was_written(text: str) -> None:
    assert built(f"source={text}").source == text


def test_text_that_may_be_left_out() -> None:
    assert built("text.note=30000").text.note == "30000"
    assert built("text.note=null").text.note is None and built("text.note=").text.note is None
    assert built('text.note="null"').text.note == "null"


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("seed", "written name=value; got 'seed'"),
        ("sead=1", "Recipe has no field 'sead'. Did you mean 'seed'?"),
        ("learning.lrr=1", "Recipe.learning has no field 'lrr'. Did you mean 'lr'?"),
        ("learning.zzz=1", "Recipe.learning has no field 'zzz'. It has: tokens, lr, warmup."),
        ("learning.=1", "Recipe.learning has no field ''"),
        ("seed.x=1", "Recipe.seed is a single value, so it has no part 'x'; write seed=value."),
        ("learning.warmup.x.y=1", "Recipe.learning.warmup is a single value, so it has no part 'x'"),
        ("space.floors.mlp.x=1", "Recipe.space.floors.mlp is a single value"),
        ("text.data.0=b", "Recipe.text.data is a single value"),
        ("space.limit=[1", "Recipe.space.limit: input should be a valid integer"),
        ("space.limit=*a", "got '*a'"),
        ("space.limit=0", "Recipe.space.limit: input should be greater than 0; got 0."),
        ("space.floors.mlp=much", "Recipe.space.floors.mlp: input should be a valid number"),
        ("learning=5", "Recipe.learning: input should be"),
        ("seed=13", "13 is no seed."),
        ("seed=" + 5000 * "[", "Recipe.seed: input should be a valid integer"),
    ],
)
def test_what_cannot_be_is_one_sentence(assignment: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        built(assignment)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"text": {"data": ["a"]}}, "Recipe needs 'source', which is missing."),
        ({"source": "x", "text": {}}, "Recipe.text needs 'data', which is missing."),
        (GIVEN | {"sourse": 1}, "Recipe has no field 'sourse'. Did you mean 'source'?"),
        (GIVEN | {"learning": {"token": 1}}, "Recipe.learning has no field 'token'. Did you mean 'tokens'?"),
        (GIVEN | {"learning": {"lr": "fast"}}, "Recipe.learning.lr: input should be a valid number"),
        (GIVEN | {"seed": 13}, "13 is no seed."),
        ([1], "Recipe: input should be"),
    ],
)
def test_explanations_name_the_field_and_what_it_has(values: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_dict(Recipe, values)
    assert str(caught.value).startswith(said)


def test_construction_explains_itself_too() -> None:
    with pytest.raises(ConfigError, match=r"Learning has no field 'tokns'\. Did you mean 'tokens'\?"):
        Learning(tokns=3)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match=r"Learning\.tokens: input should be a valid integer; got '3'\."):
        Learning(tokens="3")  # type: ignore[arg-type]


def test_plain_values_there_and_back() -> None:
    recipe = built("space.widths.ffn=[5, 4]", "learning.lr=.inf", "text.note=~")
    values = to_dict(recipe)
    assert values["space"] == {"widths": {"ffn": [5, 4]}, "floors": {"attention": 0.5}, "limit": 32}
    assert from_dict(Recipe, values) == recipe == build(Recipe, values)
