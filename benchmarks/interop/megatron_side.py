"""The side of Megatron-Core: load a checkpoint into its own model, compute logits, save the model again. Needs no amaru.

    python megatron_side.py CHECKPOINT LOGITS.safetensors SAVED RANK RANKS PORT

Runs on a CPU, as one of `RANKS` tensor-parallel processes that meet at a port. Megatron-Core's own modules compute; what stands in
are kernels that exist for GPUs alone: Apex's fused LayerNorm, mamba_ssm's scan and gated norm, three kernels in triton that dynamic
batching uses, Transformer Engine's norm, and calls to CUDA that only wait or draw random numbers.
"""

import argparse
import contextlib
import importlib.machinery
import json
import os
import sys
import types
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

warnings.simplefilter("ignore")


class FusedLayerNormAffineFunction:
    """Apex: layer norm with the weight as given (Megatron has added the one already)."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, shape: Any, eps: float, memory_efficient: bool = False) -> Tensor:
        return F.layer_norm(x, shape, weight, bias, eps)

    apply = forward


class RMSNorm(nn.Module):
    """mamba_ssm: x * silu(z), then a root mean square over each group of channels."""

    def __init__(self, width: int, eps: float, group_size: int, norm_before_gate: bool, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        assert not norm_before_gate
        self.weight = nn.Parameter(torch.ones(width, dtype=dtype))
        self.eps, self.group_size = eps, group_size

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        gated = (x * F.silu(z)).unflatten(-1, (-1, self.group_size))
        return (gated * torch.rsqrt(gated.square().mean(-1, keepdim=True) + self.eps)).flatten(-2) * self.weight


def mamba_chunk_scan_combined(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk_size: int, D: Tensor, dt_bias: Tensor, **_: Any
) -> Tensor:
    """mamba_ssm: the scan step by step; x [b, l, heads, p], dt [b, l, heads], B and C [b, l, groups, n]."""
    dt = F.softplus(dt + dt_bias)
    B, C = (each.repeat_interleave(x.shape[2] // each.shape[2], dim=2) for each in (B, C))
    state, ys = x.new_zeros(x.shape[0], *x.shape[2:], B.shape[-1]), []
    for t in range(x.shape[1]):
        decay = torch.exp(dt[:, t] * A)[..., None, None]
        state = decay * state + (dt[:, t, :, None] * x[:, t])[..., None] * B[:, t, :, None]
        ys.append((state * C[:, t, :, None]).sum(-1) + D[:, None] * x[:, t])
    return torch.stack(ys, 1)


def stand_in(name: str, **attributes: Any) -> None:
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    module.__path__ = []
    module.__dict__.update(attributes)
    sys.modules[name] = module


def stand_in_for_gpu_kernels() -> None:
    torch.cuda.synchronize = lambda *_, **__: None  # type: ignore[assignment]
    torch.cuda.current_device = lambda: torch.device("cpu")  # type: ignore[assignment,return-value]
    for name in ("apex", "apex.normalization", "mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.triton"):
        stand_in(name)
    stand_in("apex.normalization.fused_layer_norm", FusedLayerNormAffineFunction=FusedLayerNormAffineFunction)
    stand_in("mamba_ssm.ops.triton.layernorm_gated", RMSNorm=RMSNorm)
    scans = {"mamba_chunk_scan_combined": mamba_chunk_scan_combined, "mamba_split_conv1d_scan_combined": None}
    stand_in("mamba_ssm.ops.triton.ssd_combined", **scans)
    kernels = "tensor_get_slice_after tensor_masked_update tensor_merge"
    stand_in("megatron.core.inference.contexts.attention_context.triton.tensor_ops", **dict.fromkeys(kernels.split()))


def transformer_config(a: argparse.Namespace) -> Any:
    from megatron.core.activations import squared_relu
    from megatron.core.transformer.transformer_config import TransformerConfig

    names = ("mamba_num_heads", "mamba_head_dim", "mamba_num_groups", "mamba_state_dim")
    mamba = {name: getattr(a, name) for name in names if hasattr(a, name)}
    return TransformerConfig(
        tensor_model_parallel_size=torch.distributed.get_world_size(),
        num_layers=a.num_layers,
        hidden_size=a.hidden_size,
        num_attention_heads=a.num_attention_heads,
        num_query_groups=a.num_query_groups,
        kv_channels=a.kv_channels,
        ffn_hidden_size=a.ffn_hidden_size,
        activation_func=squared_relu,
        add_bias_linear=a.add_bias_linear,
        normalization=a.normalization,
        layernorm_zero_centered_gamma=a.apply_layernorm_1p,
        layernorm_epsilon=a.norm_epsilon,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        use_cpu_initialization=True,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        persist_layer_norm=False,
        apply_rope_fusion=False,
        gradient_accumulation_fusion=False,
        use_mamba_mem_eff_path=False,
        is_hybrid_model=a.is_hybrid_model,
        **mamba,
        **(experts(a) if a.num_experts else {}),
    )


def experts(a: argparse.Namespace) -> dict[str, Any]:
    names = """moe_router_topk moe_ffn_hidden_size moe_shared_expert_intermediate_size moe_router_num_groups moe_router_group_topk
        moe_router_topk_scaling_factor moe_router_score_function moe_router_enable_expert_bias moe_router_dtype"""
    said = {name: getattr(a, name) for name in names.split()}
    return {"num_moe_experts": a.num_experts, "moe_token_dispatcher_type": "allgather", "moe_router_load_balancing_type": "none", **said}


def gpt(a: argparse.Namespace) -> nn.Module:
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.models.gpt.gpt_model import GPTModel

    return GPTModel(
        transformer_config(a),
        get_gpt_layer_local_spec(normalization=a.normalization),
        vocab_size=a.padded_vocab_size,
        max_sequence_length=a.max_position_embeddings,
        position_embedding_type=a.position_embedding_type,
        rotary_percent=a.rotary_percent,
        rotary_base=a.rotary_base,
        share_embeddings_and_output_weights=not a.untie_embeddings_and_output_weights,
    )


def hybrid(a: argparse.Namespace) -> nn.Module:
    """MambaModel with the linear layers of Megatron-Core in the places of Transformer Engine's, whose names are kept."""
    from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
    from megatron.core.models.gpt.moe_module_specs import get_moe_module_spec
    from megatron.core.models.mamba.mamba_model import MambaModel
    from megatron.core.ssm import mamba_block
    from megatron.core.ssm.mamba_block import MambaStack, MambaStackSubmodules
    from megatron.core.ssm.mamba_layer import MambaLayer, MambaLayerSubmodules
    from megatron.core.ssm.mamba_mixer import MambaMixer, MambaMixerSubmodules
    from megatron.core.ssm.mlp_layer import MLPLayer
    from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
    from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
    from megatron.core.transformer.dot_product_attention import DotProductAttention
    from megatron.core.transformer.enums import AttnMaskType
    from megatron.core.transformer.mlp import MLP, MLPSubmodules
    from megatron.core.transformer.moe import moe_utils
    from megatron.core.transformer.spec_utils import ModuleSpec
    from megatron.core.transformer.torch_norm import WrappedTorchNorm
    from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules

    mamba_block.TENorm = WrappedTorchNorm
    moe_utils.te_general_gemm = None  # which 0.16.1 forgets to say where Transformer Engine is missing
    mixer = ModuleSpec(module=MambaMixer, submodules=MambaMixerSubmodules(in_proj=ColumnParallelLinear, out_proj=RowParallelLinear))
    attention = SelfAttentionSubmodules(
        linear_qkv=ColumnParallelLinear, core_attention=DotProductAttention, linear_proj=RowParallelLinear
    )
    stack = MambaStackSubmodules(
        mamba_layer=ModuleSpec(
            module=MambaLayer,
            submodules=MambaLayerSubmodules(
                norm=WrappedTorchNorm,
                mixer=mixer,
                mamba_bda=get_bias_dropout_add,
                sharded_state_dict_keys_map={"norm.": "mixer.in_proj.layer_norm_"},
            ),
        ),
        attention_layer=ModuleSpec(
            module=TransformerLayer,
            submodules=TransformerLayerSubmodules(
                input_layernorm=WrappedTorchNorm,
                self_attention=ModuleSpec(module=SelfAttention, params={"attn_mask_type": AttnMaskType.causal}, submodules=attention),
                self_attn_bda=get_bias_dropout_add,
                sharded_state_dict_keys_map={"input_layernorm.": "self_attention.linear_qkv.layer_norm_"},
            ),
        ),
        mlp_layer=ModuleSpec(
            module=MLPLayer,
            submodules=TransformerLayerSubmodules(
                pre_mlp_layernorm=WrappedTorchNorm,
                mlp=ModuleSpec(module=MLP, submodules=MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)),
                mlp_bda=get_bias_dropout_add,
                sharded_state_dict_keys_map={"pre_mlp_layernorm.": "mlp.linear_fc1.layer_norm_"},
            ),
        ),
        moe_layer=ModuleSpec(
            module=TransformerLayer,
            submodules=TransformerLayerSubmodules(
                pre_mlp_layernorm=WrappedTorchNorm,
                mlp=get_moe_module_spec(use_te=False, num_experts=a.num_experts or 1, moe_grouped_gemm=False),
                mlp_bda=get_bias_dropout_add,
            ),
        ),
    )
    return MambaModel(
        transformer_config(a),
        ModuleSpec(module=MambaStack, submodules=stack),
        vocab_size=a.padded_vocab_size,
        max_sequence_length=a.max_position_embeddings,
        hybrid_override_pattern=a.hybrid_override_pattern,
        position_embedding_type=a.position_embedding_type,
        share_embeddings_and_output_weights=not a.untie_embeddings_and_output_weights,
    )


def main() -> None:
    checkpoint, logits, saved, rank, ranks, port = sys.argv[1:]
    stand_in_for_gpu_kernels()
    import megatron.core
    from megatron.core import dist_checkpointing, parallel_state
    from megatron.core.dist_checkpointing.validation import StrictHandling
    from megatron.core.tensor_parallel import gather_from_tensor_model_parallel_region
    from megatron.core.tensor_parallel.random import CudaRNGStatesTracker

    CudaRNGStatesTracker.fork = lambda *_, **__: contextlib.nullcontext()  # type: ignore[assignment]
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=int(rank), world_size=int(ranks))
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=int(ranks))
    arguments = dist_checkpointing.load_common_state_dict(checkpoint)["args"]
    model = (hybrid if arguments.is_hybrid_model else gpt)(arguments).eval()
    wanted = {"model": model.sharded_state_dict(metadata=None)}
    state, unread, absent = dist_checkpointing.load(wanted, checkpoint, strict=StrictHandling.RETURN_ALL)
    model.load_state_dict(state["model"], strict=True)
    ids = torch.randint(arguments.padded_vocab_size, (2, 37), generator=torch.Generator().manual_seed(0))
    positions, mask = torch.arange(37).expand(2, -1), torch.ones(37, 37).tril().logical_not()[None, None]
    with torch.no_grad():
        whole = gather_from_tensor_model_parallel_region(model(ids, positions, mask).float())
    if rank == "0":
        save_file({"ids": ids, "logits": whole.contiguous()}, logits)
        os.makedirs(saved)
    torch.distributed.barrier()
    common = {"args": arguments, "iteration": 0, "checkpoint_version": 3.0}
    dist_checkpointing.save({"model": model.sharded_state_dict(metadata=None), **common}, saved, content_metadata={})
    versions = {"megatron-core": megatron.core.__version__, "torch": torch.__version__}
    print(json.dumps({"versions": versions, "absent": sorted(absent), "unread": sorted(unread)}))


if __name__ == "__main__":
    main()
