"""Writes rglru.npz, lstm.npz and retention.npz beside it, in the form that recurrent.py says.

    pip install -r gated.txt && python gated.py

rglru: the recurrent block of transformers' RecurrentGemma. lstm: torch.nn.LSTM, which has no peepholes, and a matrix
after it. retention: torchscale's, with the paper's group norm put where the released code has a root mean square.
"""

import argparse
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from recurrent import BATCH, TIME, WIDTH, arrays, run_torch, write

HEADS = 3


def rglru() -> None:
    import torch
    from transformers import RecurrentGemmaConfig
    from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaRecurrentBlock

    torch.manual_seed(0)
    config = RecurrentGemmaConfig(hidden_size=WIDTH, lru_width=WIDTH, num_attention_heads=HEADS, conv1d_width=4)
    module = RecurrentGemmaRecurrentBlock(config, layer_idx=0)
    for p in module.rg_lru.parameters():  # the module leaves them as they lie in memory
        torch.nn.init.normal_(p, std=0.7)
    position = torch.arange(TIME).expand(BATCH, TIME)
    rows = run_torch(module, lambda m, x: m(x, position, None, use_cache=False)[0])
    p = arrays(module)
    heads = lambda a: a.reshape(*a.shape[:-1], HEADS, -1)
    r, i = (np.asarray(p[f"rg_lru.{name}_gate_weight"]) for name in ("recurrent", "input"))
    params = dict(
        x=heads(p["linear_x.weight"].T), x_bias=heads(p["linear_x.bias"]),
        y=heads(p["linear_y.weight"].T), y_bias=heads(p["linear_y.bias"]),
        conv=p["conv_1d.weight"][:, 0].reshape(HEADS, WIDTH // HEADS, -1), conv_bias=heads(p["conv_1d.bias"]),
        gates=np.stack([r, i], 2), gates_bias=np.stack([p[f"rg_lru.{n}_gate_bias"] for n in ("recurrent", "input")]),
        speed=heads(p["rg_lru.recurrent_param"]), out=p["linear_out.weight"].T.reshape(HEADS, -1, WIDTH),
        out_bias=p["linear_out.bias"],
    )  # fmt: skip
    write("rglru", params, **rows)


def lstm() -> None:
    import torch

    torch.manual_seed(0)
    cells, order = 7, [2, 0, 1, 3]  # torch has input, forget, cell, output; we have the cell's input first
    module = torch.nn.ModuleDict(
        dict(lstm=torch.nn.LSTM(WIDTH, cells, batch_first=True), out=torch.nn.Linear(cells, WIDTH, bias=False))
    )
    rows = run_torch(module, lambda m, x: m["out"](m["lstm"](x)[0]))
    p = arrays(module)
    gates = lambda a: a.reshape(4, cells, -1)[order].transpose(2, 0, 1)
    bias = (p["lstm.bias_ih_l0"] + p["lstm.bias_hh_l0"]).reshape(4, cells)[order]
    params = dict(into=gates(p["lstm.weight_ih_l0"]), back=gates(p["lstm.weight_hh_l0"]), bias=bias)
    write("lstm", params | dict(out=p["out.weight"].T), **rows)


def retention() -> None:
    import torch
    from torchscale.architecture.retnet import RetNetRelPos
    from torchscale.component.multiscale_retention import MultiScaleRetention

    torch.manual_seed(0)
    args = argparse.Namespace(
        multiway=False, layernorm_eps=1e-12, decoder_embed_dim=WIDTH, decoder_retention_heads=HEADS,
        recurrent_chunk_size=TIME,
    )  # fmt: skip
    module = MultiScaleRetention(args, WIDTH, 2 * WIDTH, HEADS)
    for p in module.parameters():
        torch.nn.init.normal_(p, std=WIDTH**-0.5)
    module.group_norm = torch.nn.LayerNorm(2 * WIDTH // HEADS, eps=args.layernorm_eps, elementwise_affine=False)
    (sin, cos), mask = RetNetRelPos(args)(TIME)
    turns = ((sin.double(), cos.double()), mask.double())
    rows = run_torch(module, lambda m, x: m(x, turns))
    p = arrays(module)
    heads = lambda name: p[f"{name}_proj.weight"].T.reshape(WIDTH, HEADS, -1)
    halves = lambda a: np.concatenate([a[..., 0::2], a[..., 1::2]], -1)  # they turn neighbours, we turn halves
    params = dict(q=halves(heads("q")), k=halves(heads("k")), v=heads("v"), read=heads("g"))
    write("retention", params | dict(out=p["out_proj.weight"].T.reshape(HEADS, -1, WIDTH)), **rows)


if __name__ == "__main__":
    rglru()
    lstm()
    retention()
