"""Training for codes: the forward pass is that of the quantised model, and the gradient that of the weights it sees."""

import pytest
import torch

from amaru.errors import ConfigError
from amaru.models import Decoder, DecoderConfig
from amaru.models.quantised import quantised
from amaru.nn import MLP, Attention, Batch, Mamba2, MoE
from amaru.nn.linear import Linear
from amaru.ops.quantised_linear import Encoding, Kind
from amaru.precision import Scheme, encode, quantise
from amaru.precision.fp8 import Fp8Recipe, prepare
from amaru.precision.in_training import CodedLinear, through_codes, train_for
from amaru.train.optim import adamw

LAYERS = (
    Mamba2(heads=4, channels=8, groups=2, state=8),
    MLP(ffn=48),
    Attention(query_heads=2, kv_heads=1, channels=8),
    MoE(experts=4, top_k=2, ffn=16, shared_ffn=16),
)
BATCH = Batch.of([torch.arange(11) % 37, torch.arange(6) * 5 % 37])


def decoder(seed: int = 0) -> Decoder:
    return Decoder(DecoderConfig(vocab=37, hidden=32, layers=LAYERS)).initialise(seed)


@pytest.mark.parametrize("scheme", [Scheme(to="int8"), Scheme(to="int4", group=64), Scheme(to="fp8"), Scheme(to="int4", keep=("moe",))])
def test_it_computes_what_the_quantised_model_computes(scheme: Scheme) -> None:
    student, expected = decoder(), decoder()
    assert train_for(student, scheme) == {each.name: each.encoding for each in quantise(expected, scheme)}
    with torch.no_grad():
        torch.testing.assert_close(student(BATCH), expected(BATCH), rtol=1e-3, atol=1e-3)  # a few tokens go through 16-bit integers there
        plain = decoder()(BATCH)
        assert (student(BATCH) - plain).abs().max() > 10 * (student(BATCH) - expected(BATCH)).abs().max()


@pytest.mark.parametrize("to", ["int8", "int4"])
def test_quantising_afterwards_gives_the_codes_that_were_trained_for(to: str) -> None:
    scheme, student = Scheme(to=to), decoder()
    train_for(student, scheme)
    optimizer = adamw(student, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1)
    for _ in range(3):
        student(BATCH).logsumexp(-1).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    finished = decoder(1)
    finished.load_state_dict(student.state_dict())
    quantise(finished, scheme)
    for name, module in quantised(finished).items():
        codes, scales = encode(student.get_parameter(name), scheme.encodings(student.config)[name])
        assert torch.equal(module.codes, codes) and torch.equal(module.scales, scales), name
    with torch.no_grad():
        torch.testing.assert_close(student(BATCH), finished(BATCH), rtol=1e-3, atol=1e-3)


def test_the_gradient_is_that_of_the_rounded_weight() -> None:
    torch.manual_seed(0)
    plain, x = Linear(8, 40, bias=True), torch.randn(5, 40)
    torch.nn.init.normal_(plain.weight)
    coded, rounded = CodedLinear(plain, Encoding(Kind.INT4, 32)), Linear(8, 40, bias=True)
    rounded.weight.data = through_codes(plain.weight, Encoding(Kind.INT4, 32)).detach()
    assert not torch.equal(rounded.weight, plain.weight)
    for layer in (coded, rounded):
        layer(x).square().sum().backward()
    assert torch.equal(plain.weight.grad, rounded.weight.grad) and torch.equal(plain.bias.grad, rounded.bias.grad)


def test_names_of_master_weights_stay() -> None:
    student = decoder()
    train_for(student, Scheme(to="int8"))
    assert {name: tensor.shape for name, tensor in student.named_parameters()} == {n: t.shape for n, t in decoder().named_parameters()}


def test_layers_that_compute_otherwise_are_refused() -> None:
    student = decoder()
    prepare(student, Fp8Recipe(ends=1, indivisible="bf16"))
    with pytest.raises(ConfigError, match="belongs to a Fp8Linear"):
        train_for(student, Scheme(to="int8"))
