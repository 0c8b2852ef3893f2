"""The tensors of a GGUF file: their names, their shapes, their types, and the one whose value is another."""

from torch import Tensor

from amaru.models.decoder import DecoderConfig
from amaru.nn.mamba2 import Mamba2

TYPES = ("f32", "f16", "bf16", "q8_0")
BLOCK = 32  # numbers of a row that share one scale in q8_0

NETWORK = {"embedding.weight": "token_embd.weight", "norm.weight": "output_norm.weight", "head.weight": "output.weight"}
LAYER = {
    "norm.weight": "attn_norm.weight",
    "mixer.in_proj.weight": "ssm_in.weight",
    "mixer.conv1d.weight": "ssm_conv1d.weight",
    "mixer.conv1d.bias": "ssm_conv1d.bias",
    "mixer.A_log": "ssm_a",
    "mixer.D": "ssm_d",
    "mixer.dt_bias": "ssm_dt.bias",
    "mixer.norm.weight": "ssm_norm.weight",
    "mixer.out_proj.weight": "ssm_out.weight",
    "mixer.q_proj.weight": "attn_q.weight",
    "mixer.k_proj.weight": "attn_k.weight",
    "mixer.v_proj.weight": "attn_v.weight",
    "mixer.o_proj.weight": "attn_output.weight",
    "mixer.up_proj.weight": "ffn_up.weight",
    "mixer.down_proj.weight": "ffn_down.weight",
    "mixer.gate.weight": "ffn_gate_inp.weight",
    "mixer.gate.e_score_correction_bias": "exp_probs_b.bias",
    "mixer.experts.up_proj": "ffn_up_exps.weight",
    "mixer.experts.down_proj": "ffn_down_exps.weight",
    "mixer.shared_experts.up_proj.weight": "ffn_up_shexp.weight",
    "mixer.shared_experts.down_proj.weight": "ffn_down_shexp.weight",
    "mixer.fc1_latent_proj.weight": "ffn_latent_down.weight",
    "mixer.fc2_latent_proj.weight": "ffn_latent_up.weight",
}


def stored_name(name: str) -> str:
    """`stored_name("layers.3.mixer.A_log") == "blk.3.ssm_a"`."""
    if name in NETWORK:
        return NETWORK[name]
    _, index, inner = name.split(".", 2)
    return f"blk.{index}.{LAYER[inner]}"


def stored_shape(name: str, config: DecoderConfig) -> tuple[int, ...]:
    """The shape in the file, outermost first (a GGUF header lists it the other way round)."""
    spec, axes = config.tensors()[name]
    shape = spec.layout.shape(axes)
    if name.endswith(("mixer.A_log", "mixer.D")):
        return (*shape, 1)
    if name.endswith("mixer.conv1d.weight"):
        return shape[0], shape[2]
    if name.endswith("mixer.norm.weight"):
        mamba = config.layers[int(name.split(".")[1])]
        assert isinstance(mamba, Mamba2)
        return mamba.groups, mamba.inner // mamba.groups
    return shape


def stored_type(name: str, shape: tuple[int, ...], kind: str) -> str:
    """`kind` for the matrices; fp32 for all else, as llama.cpp computes with it (its convolution takes nothing less), and for routers.

    Rows that q8_0 cannot cut into blocks stay in bf16.
    """
    if not name.endswith(("proj.weight", "embedding.weight", "head.weight", "experts.up_proj", "experts.down_proj")):
        return "f32"
    return "bf16" if kind == "q8_0" and shape[-1] % BLOCK else kind


def to_stored(name: str, tensor: Tensor) -> Tensor:
    """The value in the file: the decay itself, -exp(A_log), where we keep its logarithm."""
    return -tensor.double().exp() if name.endswith("mixer.A_log") else tensor


def from_stored(name: str, tensor: Tensor) -> Tensor:
    """The inverse; exact but for A_log, which comes back within two roundings."""
    return (-tensor.double()).log().to(tensor.dtype) if name.endswith("mixer.A_log") else tensor
