"""Writes the .npz files beside it: outputs and gradients of others' code on tiny random weights, in our layout.

    pip install torch==2.13.0 transformers==4.57.6 numpy
    python recurrent.py                                   # mamba, mamba2 and gated_deltanet, from transformers
    python recurrent.py --rwkv path/to/rwkv_v7_numpy.py   # rwkv7, from the numpy listing of github.com/BlinkDL/RWKV-LM

A file holds params/<leaf>, the input x [B, T, D], the output y, a weight w and the gradient dx of sum(w y) by x (none
for rwkv7, a listing of the forward pass). Random numbers are seeded, so a second run writes the same.
"""

import argparse
import pathlib

import numpy as np

HERE = pathlib.Path(__file__).parent
BATCH, TIME, WIDTH = 2, 40, 12


def write(name: str, params: dict, **arrays) -> None:
    """Everything in float32, the parameters under params/."""
    rows = {f"params/{k}": v for k, v in params.items()} | arrays
    rows = {k: np.ascontiguousarray(v, np.float32) for k, v in rows.items()}
    np.savez_compressed(HERE / f"{name}.npz", **rows)
    print(f"{name}.npz: {sum(v.size for v in rows.values())} numbers")


def run_torch(module, call) -> dict:
    """x, y, w and dx of a torch module with every parameter drawn anew where it starts as ones or zeros."""
    import torch

    generator = torch.Generator().manual_seed(1)
    for p in module.parameters():
        if p.detach().flatten().std() == 0:
            p.data += 0.3 * torch.randn(p.shape, generator=generator)
    module = module.double()
    x = torch.randn(BATCH, TIME, WIDTH, generator=generator, dtype=torch.float64, requires_grad=True)
    y = call(module, x)
    w = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    (y * w).sum().backward()
    return dict(x=x.detach(), y=y.detach(), w=w, dx=x.grad)


def arrays(module) -> dict:
    return {name: p.detach().double().numpy() for name, p in module.named_parameters()}


def mamba() -> None:
    import torch
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    torch.manual_seed(0)
    config = MambaConfig(hidden_size=WIDTH, state_size=5, expand=2, conv_kernel=4, time_step_rank=3)
    module = MambaMixer(config, layer_idx=0)
    rows = run_torch(module, lambda m, x: m.slow_forward(x))
    p = arrays(module)
    down, b, c = np.split(p["x_proj.weight"], [3, 8])
    params = dict(
        into=p["in_proj.weight"].reshape(2, -1, WIDTH).transpose(2, 0, 1),
        conv=p["conv1d.weight"][:, 0], conv_bias=p["conv1d.bias"], dt_down=down.T, dt_up=p["dt_proj.weight"].T,
        dt_bias=p["dt_proj.bias"], b=b.T, c=c.T, a_log=p["A_log"], skip=p["D"], out=p["out_proj.weight"].T,
    )  # fmt: skip
    write("mamba", params, **rows)


def mamba2() -> None:
    import torch
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer
    from transformers.models.zamba2.modeling_zamba2 import Zamba2RMSNormGated

    torch.manual_seed(0)
    h, p_, g, n = 4, 6, 2, 5
    config = Mamba2Config(
        hidden_size=WIDTH, num_heads=h, head_dim=p_, expand=2, state_size=n, n_groups=g, conv_kernel=4, chunk_size=16,
        layer_norm_epsilon=1e-5,
    )  # fmt: skip
    module = Mamba2Mixer(config, layer_idx=0)
    # The norm of the authors' package is over the heads of a group; the module's own is over all heads.
    module.norm = Zamba2RMSNormGated(h * p_, h * p_ // g, eps=1e-5)
    rows = run_torch(module, lambda m, x: m.torch_forward(x))
    p = arrays(module)
    inner, shared = h * p_, g * n
    gate, x, bc, dt = np.split(p["in_proj.weight"], np.cumsum([inner, inner, 2 * shared]))
    heads = lambda a: a.reshape(h, p_, -1)
    conv, bias = p["conv1d.weight"][:, 0], p["conv1d.bias"]
    params = dict(
        into=np.stack([heads(gate), heads(x)]).transpose(3, 0, 1, 2),
        bc=bc.reshape(2, g, n, WIDTH).transpose(3, 0, 1, 2), dt=dt.T,
        conv=heads(conv[:inner]), conv_bias=bias[:inner].reshape(h, p_),
        bc_conv=conv[inner:].reshape(2, g, n, -1), bc_bias=bias[inner:].reshape(2, g, n),
        dt_bias=p["dt_bias"], a_log=p["A_log"], skip=p["D"], norm=p["norm.weight"].reshape(h, p_),
        out=p["out_proj.weight"].T.reshape(h, p_, WIDTH),
    )  # fmt: skip
    write("mamba2", params, **rows)


def gated_deltanet() -> None:
    import torch
    from transformers import Qwen3NextConfig
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

    torch.manual_seed(0)
    h, k, v = 3, 4, 6
    config = Qwen3NextConfig(
        hidden_size=WIDTH, linear_num_value_heads=h, linear_num_key_heads=h, linear_key_head_dim=k,
        linear_value_head_dim=v, linear_conv_kernel_dim=4, rms_norm_eps=1e-6, num_hidden_layers=1,
    )  # fmt: skip
    module = Qwen3NextGatedDeltaNet(config, layer_idx=0)
    rows = run_torch(module, lambda m, x: m(x))
    p = arrays(module)
    fused = p["in_proj_qkvz.weight"].reshape(h, -1, WIDTH).transpose(2, 0, 1)
    q, key, value, z = np.split(fused, np.cumsum([k, k, v]), axis=-1)
    beta, decay = p["in_proj_ba.weight"].reshape(h, 2, WIDTH).transpose(1, 2, 0)
    q_conv, k_conv, v_conv = np.split(p["conv1d.weight"][:, 0], np.cumsum([h * k, h * k]))
    params = dict(
        q=q, k=key, v=value, read=z, beta=beta, decay=decay, dt_bias=p["dt_bias"], a_log=p["A_log"],
        q_conv=q_conv.reshape(h, k, -1), k_conv=k_conv.reshape(h, k, -1), v_conv=v_conv.reshape(h, v, -1),
        norm=p["norm.weight"], out=p["out_proj.weight"].T.reshape(h, v, WIDTH),
    )  # fmt: skip
    write("gated_deltanet", params, **rows)


def rwkv7(listing: pathlib.Path) -> None:
    """Two layers' time mixing, token by token: the first gives its values, the second mixes with them."""
    text = listing.read_text()
    names: dict = dict(N_HEAD=3, HEAD_SIZE=4)
    body = text[text.index("layer_norm = ") : text.index("def channel_mixing")]  # the rest of the file loads a model
    exec(compile("import numpy as np\n" + body, str(listing), "exec"), names)
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape)
    ranks = dict(w=5, a=6, g=7, v=3)

    def layer(first: bool) -> tuple[list, dict]:
        low = {n: (0.5 * draw(WIDTH, r), 0.5 * draw(r, WIDTH)) for n, r in ranks.items()}
        mix, vectors = (
            rng.uniform(size=(6, WIDTH)),
            {n: draw(WIDTH) for n in ("w", "a", "v", "kk", "ka", "rk", "ln", "lb")},
        )
        square = {n: draw(WIDTH, WIDTH) * WIDTH**-0.5 for n in "rkvo"}
        given = [*mix, vectors["w"], vectors["rk"], *low["w"], *low["a"], vectors["a"], *low["g"]]
        given += [] if first else [low["v"][1], low["v"][0], vectors["v"]]
        given += [vectors["kk"], vectors["ka"], *(square[n] for n in "rkvo"), vectors["ln"], vectors["lb"]]
        heads = lambda a: a.reshape(*a.shape[:-1], 3, 4)
        ours = dict(mix=mix, w_bias=heads(vectors["w"]), a_bias=heads(vectors["a"]), kappa=heads(vectors["kk"]))
        ours |= dict(alpha=heads(vectors["ka"]), rho=heads(vectors["rk"]), norm=heads(vectors["ln"]))
        ours |= dict(norm_bias=heads(vectors["lb"]), out=square["o"].T.reshape(3, 4, WIDTH))
        ours |= {n: heads(square[n].T) for n in "rkv"}
        ours |= {f"{n}_down": low[n][0] for n in low} | {f"{n}_up": heads(low[n][1]) for n in low}
        ours |= dict(v_bias=heads(vectors["v"]))
        return given, {k: v for k, v in ours.items() if not (first and k.startswith("v_"))}

    one, two = layer(True), layer(False)
    x, y = draw(2, BATCH, TIME, WIDTH), np.zeros((2, BATCH, TIME, WIDTH))
    for b in range(BATCH):
        last, s = np.zeros((2, WIDTH)), np.zeros((2, 3, 4, 4))
        for t in range(TIME):
            v0 = None
            for i, (given, _) in enumerate((one, two)):
                fresh = [a.copy() for a in given]
                y[i, b, t], v0, last[i], s[i] = names["time_mixing"](x[i, b, t], v0, last[i], s[i], fresh)
    params = {f"{i}/{k}": v for i, (_, ours) in enumerate((one, two)) for k, v in ours.items()}
    write("rwkv7", params, x=x, y=y)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rwkv", type=pathlib.Path, help="the numpy listing; writes rwkv7.npz alone")
    listing = parser.parse_args().rwkv
    if listing is not None:
        rwkv7(listing)
    else:
        mamba()
        mamba2()
        gated_deltanet()
