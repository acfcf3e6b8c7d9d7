"""Tasks keep what they promise: every target follows from what stands before it, and nothing else does."""

import functools
import itertools

import jax
import numpy as np
import pytest

from jaxlib_ext.contracts import Seq
from jaxlib_ext.training import losses
from jaxlib_ext.training.data.tasks import TASKS, Induction, Mqar, SelectiveCopying, Task, Word, group, make_task

ALL = (
    Mqar(time=32, vocab=24, pairs=5), Mqar(time=16, vocab=12, pairs=2, filler="blank", power=1.0),
    Induction(time=16, vocab=10), SelectiveCopying(time=20, vocab=8, symbols=6), Word(time=12, group="s3"),
)  # fmt: skip
ROWS = 64
by_task = pytest.mark.parametrize("task", ALL, ids=repr)


@functools.partial(jax.jit, static_argnums=(0, 2))
def sample(task, key, batch):
    return task.sample(jax.random.key(key), batch)


def rows(task, key=0, batch=ROWS):
    return {k: np.asarray(v) for k, v in sample(task, key, batch).items()}


def answers(task, tokens):
    """(targets, mask) of one row by the words of the task's definition, from tokens alone and left to right."""
    targets, mask, seen = np.zeros(len(tokens), int), np.zeros(len(tokens), bool), []
    if isinstance(task, Mqar):
        context = tokens[: 2 * task.pairs].tolist()
        bound = dict(zip(context[::2], context[1::2], strict=True))
    for t, token in enumerate(tokens.tolist()):
        if isinstance(task, Mqar):
            mask[t] = t >= 2 * task.pairs and token in bound
            targets[t] = bound.get(token, 0)
        elif isinstance(task, Induction):
            first = tokens[: task.time // 2].tolist()
            mask[t] = t >= len(first) and token != first[-1]
            targets[t] = first[first.index(token) + 1] if mask[t] else 0
        elif isinstance(task, SelectiveCopying):
            mask[t] = token == task.vocab - 1
            targets[t] = seen.pop(0) if mask[t] else 0
            seen += [token] if token and not mask[t] else []
        else:
            mask[t], table = True, group(task.group)
            targets[t] = token if t == 0 else table[token, targets[t - 1]]
    return np.where(mask, targets, 0), mask


@by_task
def test_a_reader_of_the_definition_is_right_everywhere(task):
    batch = rows(task)
    for tokens, targets, mask in zip(*(batch[k] for k in ("tokens", "targets", "mask")), strict=True):
        expected, where = answers(task, tokens)
        np.testing.assert_array_equal(mask, where)
        np.testing.assert_array_equal(targets, expected)


@by_task
def test_rows_are_a_pure_function_of_the_key(task):
    assert isinstance(task, Task)
    one, again, other = rows(task), task.sample(jax.random.key(0), ROWS), rows(task, 1)
    for name, value in one.items():
        assert value.shape == (ROWS, task.time) and value.dtype == (bool if name == "mask" else np.int32)
        np.testing.assert_array_equal(value, np.asarray(again[name]))
    assert (one["tokens"] != other["tokens"]).any()
    assert len({row.tobytes() for row in one["tokens"]}) == ROWS
    assert 0 <= one["tokens"].min() and max(one["tokens"].max(), one["targets"].max()) < task.vocab


@by_task
def test_no_target_can_be_had_without_the_context(task):
    """The best guess from the token at the place itself is hardly better than the most frequent target: no leak."""
    batch = rows(task, batch=4096)
    tokens, targets = batch["tokens"][batch["mask"]], batch["targets"][batch["mask"]]
    table = np.zeros((task.vocab, task.vocab))
    np.add.at(table, (tokens, targets), 1)
    chance = 1 / np.count_nonzero(table.sum(0))
    assert table.max(1).sum() / table.sum() < 1.6 * chance
    assert table.sum(0).max() / table.sum() < 1.3 * chance


def test_mqar_keys_are_distinct_and_appear_twice():
    """Disjoint halves of the vocabulary, no key in the filler, as many queries as pairs, at every other place."""
    task = ALL[0]
    batch, half, n = rows(task), task.vocab // 2, 2 * task.pairs
    for tokens, mask in zip(batch["tokens"], batch["mask"], strict=True):
        keys, values = tokens[:n:2], tokens[1:n:2]
        assert len(set(keys)) == task.pairs == len(set(values)) == mask.sum()
        assert ((keys >= 1) & (keys < half)).all() and (values >= half).all()
        assert all(np.count_nonzero(tokens == k) == 2 for k in keys)
        assert sorted(tokens[mask]) == sorted(keys) and (np.flatnonzero(mask) % 2 == 0).all()
    assert len(set(batch["tokens"][:, n:].ravel())) == task.vocab  # fillers are of both halves, and blank


def test_mqar_example_of_the_authors():
    """The example in the docstring of HazyResearch/zoology's generator."""
    tokens = np.array([2, 8, 4, 7, 0, 0, 4, 0, 0, 0, 0, 0, 2, 0, 0, 0])
    targets, mask = answers(ALL[1], tokens)
    assert np.flatnonzero(mask).tolist() == [6, 12] and targets[mask].tolist() == [7, 8]
    assert set(np.unique(rows(ALL[1])["tokens"][:, 4:])) <= {0, 1, 2, 3, 4, 5}  # blank but for keys


@pytest.mark.parametrize("power", [0.01, 1.0])
def test_mqar_distances_follow_the_power_law(power):
    """With one pair its place is one draw of p(g) ~ g^(power - 1): frequencies within four standard errors."""
    task, n = Mqar(time=16, vocab=8, pairs=1, power=power), 4096
    place = (np.nonzero(rows(task, batch=n)["mask"])[1] - 2) // 2
    p = np.arange(1.0, 8) ** (power - 1)
    p, found = p / p.sum(), np.bincount(place, minlength=7) / n
    assert (np.abs(found - p) < 4 * np.sqrt(p * (1 - p) / n)).all()


def test_mqar_two_layers_of_attention_solve_it():
    """By hand, on one-hot symbols: the first layer brings the symbol before, the second looks for a place whose symbol
    before is the present one and takes the symbol there. All answers are right, with random filler too."""
    task = ALL[0]
    batch = rows(task)
    x = np.eye(task.vocab)[batch["tokens"]]
    before = np.concatenate([np.zeros_like(x[:, :1]), x[:, :-1]], 1)
    logits = 50 * np.einsum("bqv,bkv->bqk", x, before)
    logits = np.where(np.tri(task.time, dtype=bool), logits, -np.inf)
    weight = np.exp(logits - logits.max(-1, keepdims=True))
    guess = np.argmax(np.einsum("bqk,bkv->bqv", weight / weight.sum(-1, keepdims=True), x), -1)
    assert (guess == batch["targets"])[batch["mask"]].all()


def test_induction_turns_the_second_part():
    batch, half = rows(ALL[2]), 8
    first, second = batch["tokens"][:, :half], batch["tokens"][:, half:]
    assert all(sorted(a) == sorted(b) and len(set(a)) == half for a, b in zip(first, second, strict=True))
    turns = [int(np.flatnonzero(a == b[0])[0]) for a, b in zip(first, second, strict=True)]
    assert set(turns) == set(range(half))


def test_selective_copying_spreads_its_symbols():
    batch = rows(ALL[3])
    body = batch["tokens"][:, :-6]
    assert ((body > 0).sum(1) == 6).all() and (body < 7).all() and (batch["tokens"][:, -6:] == 7).all()
    assert ((body > 0).mean(0) > 0.2).all()  # of 6 / 14


@pytest.mark.parametrize(("name", "order", "commutes"), [("z2", 2, True), ("s3", 6, False), ("a5", 60, False)])
def test_tables_are_groups(name, order, commutes):
    table = group(name)
    assert table.shape == (order, order) and (table[0] == np.arange(order)).all() and (table[:, 0] == table[0]).all()
    assert all(len(set(line)) == order for line in (*table, *table.T))  # inverses
    assert (table[table] == table[:, table]).all()  # (ab)c = a(bc)
    assert (table == table.T).all() == commutes
    assert len(group("s5")) == 120


def test_a5_is_perfect():
    """Commutators make all of A5, which is why no tower of commuting groups tracks it; in S3 they make three."""
    for name, size in (("a5", 60), ("s3", 3)):
        table = group(name)
        inverse = np.argwhere(table == 0)[:, 1]
        pairs = itertools.product(range(len(table)), repeat=2)
        made = {table[table[a, b], table[inverse[a], inverse[b]]] for a, b in pairs}
        made = {table[a, b] for a in made for b in made}
        assert len(made) == size


def test_parity_is_the_sum_of_the_bits():
    batch = rows(Word(time=9, group="z2"))
    np.testing.assert_array_equal(batch["targets"], np.cumsum(batch["tokens"], 1) % 2)


def test_a_batch_is_what_the_losses_take():
    """Nats are counted at the targets alone: a model that knows all is at 0, one that knows nothing at log V."""

    class Oracle:
        def __init__(self, task, scale):
            self.task, self.scale = task, scale

        def hidden(self, params, tokens, seq: Seq):
            from jaxlib_ext.contracts import Aux

            targets = np.stack([answers(self.task, row)[0] for row in np.asarray(tokens)])
            return self.scale * jax.nn.one_hot(targets, self.task.vocab), Aux()

        def logits(self, params, h):
            return h

    batch = rows(ALL[0], 3, 8)
    for scale, nats in ((100.0, 0.0), (0.0, np.log(24))):
        loss = losses.next_token(Oracle(ALL[0], scale), {}, batch, None)
        assert float(loss.weight) == 8 * 5 and float(loss.total / loss.weight) == pytest.approx(nats, abs=1e-6)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("mqar(pairs=17)", "time=64 has no room for 4 tokens a pair"),
        ("mqar(pairs=4,vocab=8)", "pairs=4 needs 1 to vocab/2 - 1 pairs"),
        ("mqar(time=63)", "must be even"),
        ("mqar(power=0)", "power must be positive"),
        ("mqar(filler='none')", 'filler is "random" or "blank"'),
        ("induction(vocab=16)", "less than time/2 distinct symbols"),
        ("selective_copying(symbols=33)", "do not fit into time=64"),
        ("word(group='q8')", "group is z2 to z512"),
        ("wrod", "did you mean word"),
    ],
)
def test_bad_tasks_are_refused_by_name(spec, said):
    with pytest.raises(ValueError, match=said) as error:
        make_task(spec)
    assert "\n" not in str(error.value)


def test_names():
    assert make_task("mqar(pairs=8)", time=128) == Mqar(time=128, pairs=8) and set(TASKS) == {
        "mqar", "induction", "selective_copying", "word",
    }  # fmt: skip
