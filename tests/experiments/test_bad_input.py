"""What cannot run is said in one line that names the cause, with status 2, before anything is written."""

import json

import numpy as np
import pytest


def refused(result, *said):
    status, _, err = result
    assert status == 2, err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in err
    for words in said:
        assert words in lines[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("--model.mixer", "atention"), "did you mean attention"),
        (("--optimizer", "adamm"), "unknown optimizer 'adamm'; did you mean adam"),
        (("--optimizer", "adam(beta=3)"), "has no option 'beta'"),
        (("--schedule", "cosin"), "did you mean cosine"),
        (("--mesh", "fsdp=3"), "needs 3 devices, 1 are here"),
        (("--mesh", "fdsp=1"), "unknown mesh axis 'fdsp'; did you mean fsdp"),
        (("--time", "100000000"), "longer than the data"),
        (("--model.mixer", "attention(heads=2,causal=False)"), "bidirectional"),
        (("--profile", "5"), 'profile is "first:last"'),
        (("--accumulate", "3"), "accumulate=3 does not divide batch=4"),
        (("--data", "/nowhere/at/all"), "/nowhere/at/all"),
        (("--out", "/proc/nothing"), "cannot write to /proc/nothing"),
    ],
)
def test_train_refuses(train, tmp_path, change, said):
    refused(train(tmp_path / "out", "--steps", "2", *change), said)


@pytest.mark.slow
def test_an_axis_that_does_not_divide(train, tmp_path):
    refused(train(tmp_path, "--mesh", "tensor=4", JAX_NUM_CPU_DEVICES="4"), "kv_heads=2 does not divide over tensor=4")
    refused(train(tmp_path, "--mesh", "fsdp=8", JAX_NUM_CPU_DEVICES="8"), "does not divide over")


def test_an_empty_data_folder(train, tmp_path):
    (tmp_path / "data").mkdir()
    refused(train(tmp_path / "out", "--data", str(tmp_path / "data")), str(tmp_path / "data"))


def test_token_ids_beyond_the_vocabulary(train, tmp_path):
    folder = tmp_path / "tokens"
    folder.mkdir()
    meta = dict(schema=1, dtype="uint16", vocab=8)
    (folder / "meta.json").write_text(json.dumps(meta))
    for split in ("train", "eval"):
        np.arange(4000, dtype=np.uint16).tofile(folder / f"{split}.bin")
        np.save(folder / f"{split}.bounds.npy", np.array([0], np.uint64))
    status, _, err = train(tmp_path / "out", "--data", str(folder))
    assert status in (1, 2) and "error: " in err and str(folder) in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--design", "16:20k"), "too few for a law"),
        (("--design", "16-20k"), "is not width:tokens"),
        (("--design", "16:2x"), "is not a number of tokens"),
        (("--design", "16:20k,20k"), "named twice"),
        (("--only", "3/2"), 'only is "k/n"'),
        (("--mixer", "mambo"), "did you mean mamba"),
        (("--mixers", "gla,mambo"), "did you mean mamba"),
        (("--mixers", "gla"), "give two mixers or more"),
        (("--mixers", "gla,mamba", "--rates", "0.1"), "2 mixers and 1 rates"),
    ],
)
def test_ladder_refuses(run, tmp_path, arguments, said):
    refused(run("ladder.py", "--out", str(tmp_path), *arguments), said)
