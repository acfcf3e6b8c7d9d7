"""Five published design tasks, at a tenth of what all their runs cost: R2 in the target region.

Bars are those of the method's authors, means over ten law forms a task; ours is one form a task.
"""

import numpy as np
import pytest

from jaxlib_ext import scaling
from jaxlib_ext.scaling import LAWS, Data, lsq

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::jaxlib_ext.scaling.DataWarning"),  # repeated rows of the tables
]
LR = dict(lr="lr", B="bsz", N="non_embedding_param_size", D="data_size")
TASKS = {  # name -> (table, law, loss, columns, y, cost, published R2 of the design)
    "moe": (
        "moe_routed", "moe_routed", lsq("raw"), dict(N="dense_parameter_count", X="num_experts"), "loss_validation",
        lambda x: x["N"] * x["X"], 0.83,
    ),
    "vocab": (
        "vocab", "vocab", lsq("raw"), dict(N="non_vocab_parameters", V="vocab_size", D="num_characters"),
        "unigram_normalized_loss", lambda x: x["N"] * x["D"], 0.98,
    ),
    "parallel": ("parallel", "parallel", lsq(), dict(N="num_params", P="parallel_size"), "loss",
                 lambda x: x["N"], 0.99),
    "lr and batch": ("steplaw_lr_bsz", "response_surface", lsq(), LR, "lm_loss", lambda x: x["N"] * x["D"], 0.22),
    "farseer": ("farseer_dense", "farseer", lsq(), dict(N="N", D="D"), "loss", lambda x: x["N"] * x["D"], 0.93),
}  # fmt: skip


def r2(y, value):
    return 1 - np.sum((y - value) ** 2) / np.sum((y - y.mean()) ** 2)


def parts(table, task):
    """(law, loss, [(runs, cost, target inputs, target losses)]): one, or one for each data set with its own law."""
    name, law, loss, columns, y, price, _ = TASKS[task]
    t, found = table(f"{name}.csv"), []
    for group in np.unique(t["group"]) if "group" in t else [None]:
        here = np.ones(len(t[y]), bool) if group is None else t["group"] == group
        train, test = here & (t["split"] == "train"), here & (t["split"] == "test")
        data = Data({k: t[c][train] for k, c in columns.items()}, t[y][train])
        found.append((data, price(data.x), {k: t[c][test] for k, c in columns.items()}, t[y][test]))
    return scaling.named(law, LAWS), loss, found


def score(law, loss, found, choose):
    """R2 over all targets of the law fitted to the runs that choose(data, cost, target) takes; -inf where it cannot."""
    truth, value = [], []
    for data, cost, target, y in found:
        try:
            fit = choose(data, cost, target)
        except ValueError as error:
            if "too few points" not in str(error):
                raise
            return -np.inf
        truth.append(y)
        value.append(fit.predict(target))
    got = r2(np.concatenate(truth), np.concatenate(value))
    return float(got) if np.isfinite(got) else -np.inf


def by_design(law, loss, found, power):
    def choose(data, cost, target):
        got = scaling.rehearse(law, data, cost, 0.1 * cost.sum(), target, loss=loss, power=power)
        assert got.spent <= 0.1 * cost.sum()
        return got.fit

    return score(law, loss, found, choose)


def by_chance(law, loss, found, seed):
    """Runs drawn until a tenth is spent, fitted as a design's are."""

    def choose(data, cost, _):
        rng, rows, spent = np.random.default_rng(seed), [], 0.0
        for i in rng.permutation(len(cost)):
            if spent + cost[i] <= 0.1 * cost.sum():
                rows.append(i)
                spent += cost[i]
        return scaling.fit(law, data.take(np.array(rows), "random"), loss)

    return score(law, loss, found, choose)


@pytest.mark.parametrize(
    ("task", "power"), [("moe", 0.4), ("vocab", 0.4), ("parallel", 0.4), ("lr and batch", 0.0), ("farseer", 0.0)]
)
def test_a_designed_tenth_reaches_the_published_score_and_beats_random_tenths(table, task, power):
    """By gain per cost^0.4, the authors' choice and the default, or by gain alone where that loses to random runs:
    there the law misfits cheap runs, and 0.4 takes many of them (0.535 and 0.924)."""
    law, loss, found = parts(table, task)
    ours, chance = by_design(law, loss, found, power), [by_chance(law, loss, found, seed) for seed in range(3)]
    print(f"{task}: {ours:.4f}; random {', '.join(f'{s:.3f}' for s in chance)}")
    assert ours >= TASKS[task][-1] - 0.005, (ours, chance)  # the published scores have two digits
    assert ours > np.mean(np.maximum(chance, -1)), (ours, chance)
