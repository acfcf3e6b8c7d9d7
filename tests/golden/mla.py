"""Makes mla.npz: latent attention of transformers on random weights. Run it as `python tests/golden/mla.py`.

Keys: x [B, T, D], y [B, T, D], the module's weights by their names as torch stores them, and the packages' versions.
"""

import importlib.metadata
import pathlib

import numpy as np

HERE = pathlib.Path(__file__).parent
PACKAGES = ("torch", "transformers")
B, T, D, HEADS, NOPE, ROPE, RANK, Q_RANK = 2, 9, 12, 2, 6, 4, 5, 7


def main():
    import torch
    from transformers import DeepseekV3Config
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention

    torch.manual_seed(0)
    config = DeepseekV3Config(
        hidden_size=D, num_attention_heads=HEADS, num_key_value_heads=HEADS, q_lora_rank=Q_RANK, kv_lora_rank=RANK,
        qk_rope_head_dim=ROPE, qk_nope_head_dim=NOPE, v_head_dim=NOPE, attn_implementation="eager",
    )  # fmt: skip
    module = DeepseekV3Attention(config, layer_idx=0).double().eval()
    for weight in module.parameters():
        torch.nn.init.normal_(weight, mean=1.0 if weight.ndim == 1 else 0.0, std=0.5)
    x = torch.randn(B, T, D, dtype=torch.float64)
    angle = torch.arange(T)[:, None] * 10000.0 ** (-torch.arange(0, ROPE, 2) / ROPE)[None]
    angle = torch.cat([angle, angle], -1)[None].double()
    hidden = torch.triu(torch.full((T, T), float("-inf"), dtype=torch.float64), 1)[None, None]
    with torch.no_grad():
        y = module(hidden_states=x, position_embeddings=(angle.cos(), angle.sin()), attention_mask=hidden)[0]
    arrays = {name: weight.detach().numpy().astype(np.float32) for name, weight in module.named_parameters()}
    versions = [f"{p}=={importlib.metadata.version(p)}" for p in PACKAGES]
    np.savez_compressed(HERE / "mla.npz", x=x.numpy(), y=y.numpy(), versions=np.array(versions), **arrays)
    (HERE / "mla.txt").write_text("\n".join(versions) + "\n")


if __name__ == "__main__":
    main()
