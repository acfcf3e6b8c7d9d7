"""Makes optim_free.npz: trajectories of the packages of optim_free.txt, for optimizers free of a learning rate or of a
schedule, and for decay inside the gradient. Run it as `python tests/golden/optim_free.py`.

Keys are "<name>/w" and "<name>/b"; `versions` holds the packages'.
"""

import importlib.metadata
import pathlib
import sys

import numpy as np

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))
from optim_problem import run_torch  # noqa: E402

PACKAGES = ("torch", "dadaptation", "prodigyopt", "schedulefree")


def distance_cases():
    import dadaptation as d
    from prodigyopt import Prodigy

    yield "dadapt_sgd_growth", lambda p: d.DAdaptSGD(p, d0=1e-3, growth_rate=1.2, momentum=0.5, weight_decay=0.1)
    yield "dadapt_adagrad", lambda p: d.DAdaptAdaGrad(p, d0=1e-2)
    yield (
        "dadapt_adagrad_growth",
        lambda p: d.DAdaptAdaGrad(p, lr=0.5, d0=1e-1, growth_rate=1.3, momentum=0.5, weight_decay=0.1),
    )
    yield "dadapt_adam", lambda p: d.DAdaptAdam(p, d0=1e-3, decouple=True, weight_decay=0.1)
    yield (
        "dadapt_adam_growth",
        lambda p: d.DAdaptAdam(p, d0=1e-3, growth_rate=1.2, use_bias_correction=True, betas=(0.8, 0.9)),
    )
    yield (
        "dadapt_adam_layers",
        lambda p: d.DAdaptAdam([dict(params=[p[0]], layer_scale=0.5), dict(params=[p[1]])], d0=1e-2),
    )
    yield "dadapt_lion", lambda p: d.DAdaptLion(p, d0=1e-3, weight_decay=0.1)
    yield "prodigy", lambda p: Prodigy(p, d0=1e-3, weight_decay=0.1)
    yield (
        "prodigy_growth",
        lambda p: Prodigy(p, d0=1e-4, growth_rate=1.1, d_coef=0.7, beta3=0.9, use_bias_correction=True),
    )
    yield "prodigy_slices", lambda p: Prodigy(p, lr=0.5, d0=1e-3, slice_p=5, safeguard_warmup=True)


def averaging_cases():
    import schedulefree as s
    import torch

    def training(made):
        made.train()
        return made

    yield (
        "schedule_free_decay",
        lambda p: training(s.SGDScheduleFree(p, lr=0.05, warmup_steps=4, weight_decay=0.1, r=1.0)),
    )
    more = dict(warmup_steps=4, weight_decay=0.1, betas=(0.9, 0.99))
    yield "schedule_free_adamw", lambda p: training(s.AdamWScheduleFree(p, lr=0.05, foreach=False, **more))
    yield (
        "schedule_free_adamw_r",
        lambda p: training(s.AdamWScheduleFree(p, lr=0.05, r=0.5, weight_lr_power=1.0, **more)),
    )
    yield "coupled_adam", lambda p: torch.optim.Adam(p, lr=0.05, betas=(0.9, 0.99), weight_decay=0.1)
    yield "coupled_sgd", lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1)


def averages():
    """Where schedule-free AdamW evaluates after its last step: "schedule_free_adamw_x/w" [4, 5] and "/b" [5]."""
    made = {}

    def keep(p):
        import schedulefree as s

        made["p"], made["o"] = p, s.AdamWScheduleFree(p, lr=0.05, warmup_steps=4, weight_decay=0.1, betas=(0.9, 0.99))
        made["o"].train()
        return made["o"]

    run_torch(keep)
    made["o"].eval()
    return {f"schedule_free_adamw_x/{k}": v.detach().numpy().copy() for k, v in zip("wb", made["p"], strict=True)}


def main():
    cases = [*distance_cases(), *averaging_cases()]
    arrays = {f"{name}/{k}": v for name, make in cases for k, v in run_torch(make).items()} | averages()
    versions = [f"{p}=={importlib.metadata.version(p)}" for p in PACKAGES]
    np.savez_compressed(HERE / "optim_free.npz", versions=np.array(versions), **arrays)
    (HERE / "optim_free.txt").write_text("\n".join(versions) + "\n")


if __name__ == "__main__":
    main()
