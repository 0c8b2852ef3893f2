"""What adapters reach: every linear layer of every family, by kind, name, segment and layer; and what is said of names that are none."""

import pytest
from tests.models.random_models import FAMILIES, random_config, random_model

from amaru.adapters import LoRA, chosen, coverage, describe, sites
from amaru.errors import ConfigError
from amaru.nn.linear import Linear


@pytest.mark.parametrize("family", FAMILIES)
def test_all_reaches_every_linear_layer_but_the_head(family):
    config = FAMILIES[family](0)
    linears = {name: m for name, m in random_model(config).named_modules() if type(m) is Linear and name != "head"}
    reached = chosen(config, ("all",))
    assert [site.path for site in reached] == [*linears]
    assert all((site.rows, site.cols) == tuple(linears[site.path].weight.shape) for site in reached)
    rows = [row for row in coverage(config, reached) if row.kind != "head"]
    assert all(row.layers[0] == row.layers[1] and row.linears[0] == row.linears[1] for row in rows)
    assert sum(row.linears[0] for row in rows) == len(linears)
    experts = sum(p.numel() for name, p in random_model(config).named_parameters() if ".experts." in name and "shared" not in name)
    assert sum(row.weights[1] - row.weights[0] for row in rows) == experts


@pytest.mark.parametrize("family", ["nemotron_h", "hymba"])
def test_segments_are_all_rows_of_a_projection_once_and_in_order(family):
    config = FAMILIES[family](0)
    path = next(name for name in sites(config) if name.endswith("in_proj"))
    segments = [site for site in sites(config).values() if site.path == path and site.segment]
    assert [site.start for site in segments] == [0, *(site.stop for site in segments[:-1])]
    assert segments[-1].stop == sites(config)[path].rows
    assert [site.segment for site in segments] in (["z", "x", "B", "C", "dt"], ["q", "k", "v", "x", "gate"])


def test_targets_are_kinds_names_segments_and_layers():
    config = random_config(0, "MM-*-M")
    names = [site.name for site in chosen(config, ("mamba.in_proj.x", "q_proj", "head"), layers=(1, 3))]
    assert names == ["layers.1.mixer.in_proj.x", "layers.3.mixer.q_proj", "head"]
    assert {site.kind for site in chosen(config, ("mamba", "mlp"))} == {"mamba2", "mlp"}
    assert [site.name for site in chosen(config, ("layers.2.mixer.up_proj",))] == ["layers.2.mixer.up_proj"]


@pytest.mark.parametrize(
    ("targets", "layers", "said"),
    [
        (("out_prj",), None, r"meant by 'out_prj'. There is: all; kinds mamba2, mlp, attention; names in_proj, in_proj.z,"),
        (("proj",), None, "meant by 'proj'"),
        (("attention.up_proj",), None, "meant by 'attention.up_proj'"),
        (("q_proj",), (0, 1), "'q_proj' is in none of the layers"),
        (("q_proj", "mlp"), (0, 2, 3), "Layer 0 is mamba2, of which q_proj, mlp reaches nothing"),
        (("all",), (6,), "no layer 6; this model's are 0 to 5"),
        (("mamba", "in_proj.x"), None, "layers.0.mixer.in_proj.x is reached twice"),
        ((), None, "at least one target"),
    ],
)
def test_what_means_nothing_is_an_error_that_lists_what_there_is(targets, layers, said):
    with pytest.raises(ConfigError, match=said):
        chosen(random_config(0, "MM-*-M"), targets, layers)


def test_a_head_that_is_the_embedding_cannot_be_reached():
    with pytest.raises(ConfigError, match="head of this model is its embedding"):
        chosen(random_config(0, "M-", tied=True), ("all", "head"))


def test_the_table_counts_what_is_reached_of_what_there_is():
    config = random_config(0, "MM-*-M")
    table = describe(coverage(config, chosen(config, ("out_proj", "attention"), layers=(0, 3)))).splitlines()
    assert [line.split()[:4] for line in table[1:]] == [
        ["mamba2", "1", "of", "3"],
        ["mlp", "0", "of", "2"],
        ["attention", "1", "of", "1"],
        ["head", "0", "of", "1"],
        ["all", "2", "of", "6"],
    ]
    assert "5 of 15" in table[-1] and len({len(line) for line in table}) == 1


def test_a_rank_above_a_dimension_is_refused():
    with pytest.raises(ConfigError, match=r"Rank 27 is above a dimension of layers.0.mixer.in_proj"):
        LoRA(rank=27).blocks(random_config(0, "M"))
