"""The runner on simulated scanpaths: who is scored, on what, by which rules; resuming; the report."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from gazekit import InputError
from gazekit.datasets import load
from gazekit.datasets.readers import simulated
from gazekit.evaluation import Protocol, evaluate, runner, summarize
from gazekit.evaluation.report import write_report
from gazekit.evaluation.saccades import saccades
from gazekit.metrics import nss
from gazekit.models import create_model
from gazekit.models.uniform import Uniform

# All kinds of metric, without the slower ones of each kind.
METRICS = ("ig", "nss", "auc", "sauc", "ll", "cc", "cig", "cnss", "cauc")
BUILTIN = ("uniform", "center_bias", "shuffled_human", "human")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Three of the photographs, four of the observers: a fifth of the set, split as the card says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulated, "_PHOTOGRAPHS", ("coins", "rocket", "coffee"))
        data = load("simulated", root=tmp_path_factory.mktemp("simulated"))
    stimuli = [name for name in data.stimuli["stimulus"] if name[-1] in "0123"]
    return data.subset(stimuli=stimuli, subjects=["sim01", "sim02", "sim03", "sim04"])


@pytest.fixture
def data(whole, monkeypatch):
    """What the runner loads."""
    serve(monkeypatch, whole)
    return whole


def serve(monkeypatch, data):
    monkeypatch.setattr(runner, "load", lambda name, root=None: data)


def protocol(**changes):
    """Map metrics alone; scores of scanpaths have a file of their own, test_path_protocols."""
    maps_alone = {"split": "val", "metrics": METRICS, "paths": None, "overall": (), "chance": None}
    return replace(Protocol.read("simulated_free_viewing"), **{**maps_alone, **changes})


@pytest.fixture(scope="module")
def done(whole, tmp_path_factory):
    """One evaluation for all tests that only look, with the folder that it wrote."""
    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        serve(patch, whole)
        return evaluate(protocol(), [], out), out


def means(scores, metric):
    return scores.groupby("model")[metric].mean()


# Who is scored on what


def test_rows_are_models_times_trials(done, whole):
    scores = done[0].scores
    trials = whole.split("val").trials
    assert len(trials) == 16
    assert sorted(set(scores["model"])) == sorted(BUILTIN)
    assert len(scores) == len(BUILTIN) * len(trials)
    assert not scores.duplicated(["model", "trial"]).any()
    for _, of_model in scores.groupby("model"):
        joined = of_model.merge(trials, on=["trial", "subject", "stimulus"], validate="one_to_one")
        assert len(joined) == len(trials)
    roles = dict(zip(scores["model"], scores["role"], strict=True))
    assert roles == {"uniform": "control", "center_bias": "control", "shuffled_human": "control", "human": "ceiling"}


def test_what_every_row_carries(done):
    evaluation, out = done
    scores = evaluation.scores
    for key, value in {
        "dataset": "simulated", "simulated": True, "protocol": "simulated_free_viewing v2", "split": "val",
        "seen_in_training": False,
    }.items():  # fmt: skip
        assert set(scores[key]) == {value}, key
    # A flat map has no correlation with anything; every other score is a number.
    assert scores.loc[scores["model"] == "uniform", "cc"].isna().all()
    defined = scores[list(METRICS)].notna() | scores[["model"]].eq("uniform").to_numpy() & np.isin(METRICS, "cc")
    assert defined.all(axis=None)
    assert pd.read_parquet(out / "scores.parquet").equals(scores)
    assert pd.read_parquet(out / "samples.parquet").equals(evaluation.samples)
    record = json.loads((out / "evaluation.json").read_text())
    assert record["protocol"]["metrics"] == list(METRICS)
    assert record["data"]["simulated"] is True
    assert set(record["models"]) == set(BUILTIN)
    assert record["models"]["center_bias"]["fitted"]["sigma_of_width"] > 0


def test_people_beat_the_center_beats_nothing(done):
    scores = done[0].scores
    gain, auc = means(scores, "ig"), means(scores, "auc")
    assert gain["uniform"] < 0
    # The baseline over itself, to the last bit.
    assert (scores.loc[scores["model"] == "center_bias", "ig"] == 0).all()
    assert gain["human"] > 0
    assert (scores.loc[scores["model"] == "uniform", "auc"] == 0.5).all()
    assert auc["human"] > auc["center_bias"] > 0.5
    # The right image beats another one.
    assert gain["human"] > gain["shuffled_human"]


def test_a_static_model_scores_the_same_under_the_conditional_metrics(done):
    scores = done[0].scores
    for static, conditional in (("ig", "cig"), ("nss", "cnss"), ("auc", "cauc")):
        assert np.array_equal(scores[static], scores[conditional]), conditional


def test_scores_are_those_of_the_metric_on_the_models_map(done, whole):
    """One column worked out outside the runner: NSS of the center bias, first fixations left out."""
    fixations = whole.fixations[whole.fixations["fixation"] > 0]
    model = create_model("center_bias").fit_fixations(fixations, whole.stimuli, whole.screen.px_per_dva)
    scores = done[0].scores.query("model == 'center_bias'").set_index("trial")
    for (stimulus, trial), part in fixations.groupby(["stimulus", "trial"]):
        if trial not in scores.index:
            continue
        xy = torch.from_numpy(part[["x_px", "y_px"]].to_numpy())[None]
        density = model.density(stimulus, whole.screen.size_wh_px)[None]
        expected = nss(density, xy, torch.ones(xy.shape[:2], dtype=torch.bool))
        # The runner's map has passed through a float32 logarithm.
        assert scores.loc[trial, "nss"] == pytest.approx(float(expected), rel=1e-4)
        assert scores.loc[trial, "n_fixations"] == len(part)


def test_samples_are_paths_on_the_scored_images(done, whole):
    samples = done[0].samples
    per_stimulus = protocol().samples["per_stimulus"]
    width, height = whole.screen.size_wh_px
    assert samples["x_px"].between(0, width, inclusive="left").all()
    assert samples["y_px"].between(0, height, inclusive="left").all()
    counts = samples.groupby(["model", "stimulus"])["sample"].nunique()
    assert len(counts) == len(BUILTIN) * 4
    assert (counts == per_stimulus).all()


# The protocol's rules


def test_first_fixation_is_dropped_or_kept(data, tmp_path):
    changes = {"metrics": ("nss",), "controls": ("uniform",), "ceiling": None}
    dropped = evaluate(protocol(**changes), ["center_bias"], tmp_path).scores
    kept = evaluate(protocol(first_fixation="keep", **changes), ["center_bias"], tmp_path).scores
    lengths = data.fixations.groupby("trial").size()
    assert (kept["n_fixations"].to_numpy() == lengths[kept["trial"]].to_numpy()).all()
    assert (dropped["n_fixations"].to_numpy() == lengths[dropped["trial"]].to_numpy() - 1).all()
    assert not np.allclose(means(kept, "nss")["center_bias"], means(dropped, "nss")["center_bias"])
    # A named control becomes a model where the protocol has it not.
    assert set(kept["role"]) == {"control", "model"}


@pytest.fixture
def spoiled(whole, monkeypatch):
    """Two fixations of one scored trial lie off the image, beyond either corner."""
    fixations = whole.fixations.copy()
    stimulus = whole.split("val").stimuli["stimulus"].iloc[0]
    rows = fixations.index[(fixations["stimulus"] == stimulus) & (fixations["fixation"].isin([1, 2]))][:2]
    fixations.loc[rows, ["x_px", "y_px"]] = [[-5.0, 10.0], [400.0, 350.0]]
    data = replace(whole, fixations=fixations)
    serve(monkeypatch, data)
    return data, int(fixations.loc[rows[0], "trial"]), rows


def test_out_of_image_raises(spoiled, tmp_path):
    with pytest.raises(InputError, match=r"2 fixations outside their image .*\(-5\.0, 10\.0\).*drop or clip") as caught:
        evaluate(protocol(), [], tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "scores.parquet").exists()


@pytest.mark.parametrize(("rule", "fewer"), [("drop", 2), ("clip", 0)])
def test_out_of_image_drops_or_clips(spoiled, tmp_path, rule, fewer):
    data, trial, rows = spoiled
    rules = protocol(out_of_image=rule, metrics=("nss", "cnss", "ig"), controls=("center_bias",), ceiling=None)
    table = runner.apply_fixation_rules(data, rules)
    assert table.loc[rows, "scored"].tolist() == [rule == "clip"] * 2
    # History for a scanpath model, at the nearest pixel.
    assert np.floor(table.loc[rows, ["x_px", "y_px"]].to_numpy()).tolist() == [[0, 10], [399, 299]]
    assert table.drop(rows)[["x_px", "y_px"]].equals(data.fixations.drop(rows)[["x_px", "y_px"]])
    scores = evaluate(rules, [], tmp_path).scores.set_index("trial")
    lengths = data.fixations.groupby("trial").size() - 1
    assert scores.loc[trial, "n_fixations"] == lengths[trial] - fewer
    others = scores.drop(trial)
    assert (others["n_fixations"] == lengths[others.index]).all()
    assert np.isfinite(scores[["nss", "ig"]].to_numpy()).all()


def test_pooled_density_is_not_for_those_who_have_seen_it(data, tmp_path):
    changes = {"metrics": ("cc", "nss"), "controls": ("center_bias",)}
    scores = evaluate(protocol(empirical="pooled", **changes), [], tmp_path).scores
    people = scores["model"] == "human"
    assert scores.loc[people, "cc"].isna().all()
    assert scores.loc[~people, "cc"].notna().all()
    assert scores["nss"].notna().all()
    # One target per image: everyone's trials get the same score.
    assert (scores[~people].groupby("stimulus")["cc"].nunique() == 1).all()


def test_a_grid_scales_maps_and_fixations(data, done, tmp_path):
    scores = evaluate(protocol(grid=(200, 150), controls=("uniform", "center_bias"), ceiling=None), [], tmp_path).scores
    whole = done[0].scores
    # A quarter of the pixels: the log-density of the uniform is larger by log 4.
    gained = means(scores, "ll")["uniform"] - means(whole, "ll")["uniform"]
    assert gained == pytest.approx(np.log(4), abs=1e-5)
    assert means(scores, "nss")["center_bias"] == pytest.approx(means(whole, "nss")["center_bias"], rel=0.05)


def test_split_overrides_the_protocol(data, tmp_path):
    changes = {"metrics": ("nss",), "controls": ("uniform",), "ceiling": None}
    scores = evaluate(protocol(**changes), [], tmp_path, split="all").scores
    assert set(scores["stimulus"]) == set(data.stimuli["stimulus"])
    assert set(scores["split"]) == {"all"}


def test_models_that_need_training_need_a_checkpoint(data, tmp_path):
    with pytest.raises(InputError, match=r"model 'saliency_readout' needs training; give its checkpoint file"):
        evaluate(protocol(), ["saliency_readout"], tmp_path)
    with pytest.raises(InputError, match=r"no model or file named 'human2'; did you mean 'human'\?.*center_bias"):
        evaluate(protocol(), ["human2"], tmp_path)


# Checkpoints


def checkpoint(path, train_stimuli, dataset="simulated"):
    torch.manual_seed(0)
    model = create_model("saliency_readout", weights=None, members=1, hidden=4)
    model.train_stimuli, model.train_dataset = train_stimuli, dataset
    content = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    model.on_save_checkpoint(content)
    torch.save(content, path)
    return str(path)


def test_images_seen_in_training_are_marked(data, tmp_path):
    names = data.split("val").stimuli["stimulus"].tolist()
    mine = checkpoint(tmp_path / "mine.ckpt", names[:1])
    elsewhere = checkpoint(tmp_path / "elsewhere.ckpt", names, dataset="another_set")
    changes = {"metrics": ("ig", "cig"), "controls": ("uniform",), "ceiling": None}
    evaluation = evaluate(protocol(**changes), [mine, elsewhere], tmp_path / "out")
    seen = evaluation.scores.groupby(["model", "stimulus"])["seen_in_training"].first()
    assert [seen["mine", name] for name in names] == [True, False, False, False]
    # An image of the same name in another dataset is another image.
    assert not seen["elsewhere"].any()
    assert not seen["uniform"].any()
    roles = evaluation.scores.groupby("model")["role"].first()
    assert roles.to_dict() == {"uniform": "control", "mine": "model", "elsewhere": "model"}
    digests = evaluation.scores.groupby("model")["checkpoint"].first()
    assert len(digests["mine"]) == 16
    assert digests["uniform"] == ""
    assert evaluation.record["models"]["mine"]["train_stimuli"] == names[:1]


def test_checkpoints_of_one_name_stay_apart(data, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    paths = [checkpoint(tmp_path / folder / "last.ckpt", []) for folder in "ab"]
    named_as_control = checkpoint(tmp_path / "uniform.ckpt", [])
    changes = {"metrics": ("nss",), "controls": ("uniform",), "ceiling": None}
    scores = evaluate(protocol(**changes), [*paths, named_as_control], tmp_path / "out").scores
    assert list(dict.fromkeys(scores["model"])) == ["uniform", "last", "last-2", "uniform-2"]


# Resuming


@pytest.fixture
def pieces(monkeypatch):
    """Names of the models of which stimuli are really scored, one entry per stimulus."""
    scored = []
    original = runner._score_stimulus

    def counted(model, *args):
        scored.append(type(model).__name__)
        return original(model, *args)

    monkeypatch.setattr(runner, "_score_stimulus", counted)
    return scored


SMALL = {"metrics": ("nss", "ig"), "controls": ("uniform", "center_bias"), "ceiling": None}


def test_a_second_run_scores_nothing_again(data, pieces, tmp_path):
    first = evaluate(protocol(**SMALL), [], tmp_path)
    assert sorted(set(pieces)) == ["CenterBias", "Uniform"]
    assert len(pieces) == 8
    pieces.clear()
    again = evaluate(protocol(**SMALL), [], tmp_path)
    assert pieces == []
    assert again.scores.equals(first.scores)
    assert again.samples.equals(first.samples)
    # An added model costs itself; those before it are taken as they are.
    evaluate(protocol(**SMALL), ["shuffled_human"], tmp_path)
    assert pieces == ["ShuffledHuman"] * 4


@pytest.mark.parametrize("change", ["rule", "data"])
def test_pieces_of_something_else_are_not_reused(data, pieces, tmp_path, monkeypatch, change):
    evaluate(protocol(**SMALL), [], tmp_path)
    pieces.clear()
    if change == "data":
        fixations = data.fixations.copy()
        fixations.loc[3, "x_px"] += 0.5
        serve(monkeypatch, replace(data, fixations=fixations))
    evaluate(protocol(**SMALL, first_fixation="keep" if change == "rule" else "drop"), [], tmp_path)
    assert len(pieces) == 8
    # The stale pieces are gone: two files for each of two models.
    assert len(list((tmp_path / "parts").glob("*.parquet"))) == 4


def test_an_interrupted_run_leaves_the_earlier_result(data, pieces, tmp_path, monkeypatch):
    evaluate(protocol(**SMALL), [], tmp_path)
    files = ("scores.parquet", "samples.parquet", "evaluation.json")
    before = {name: (tmp_path / name).read_bytes() for name in files}
    longer = protocol(**{**SMALL, "metrics": ("nss", "ig", "auc")})
    sample = Uniform.sample
    calls = []

    def failing(self, *args):
        calls.append(self)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return sample(self, *args)

    # The first model of the table is done, the second is interrupted at its third image.
    reordered = replace(longer, controls=("center_bias", "uniform"))
    with monkeypatch.context() as patch:
        patch.setattr(Uniform, "sample", failing)
        with pytest.raises(KeyboardInterrupt):
            evaluate(reordered, [], tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in files} == before
    pieces.clear()
    resumed = evaluate(reordered, [], tmp_path)
    assert pieces == ["Uniform"] * 4
    fresh = evaluate(reordered, [], tmp_path / "fresh")
    assert resumed.scores.equals(fresh.scores)
    assert not list(tmp_path.rglob("*.part"))


def test_progress_counts_stimuli(data, tmp_path):
    seen = []
    evaluate(protocol(**SMALL), [], tmp_path, progress=lambda *args: seen.append(args))
    assert seen == [("uniform", 4, 4), ("center_bias", 4, 4)]


# The report


@pytest.fixture(scope="module")
def html(whole, tmp_path_factory):
    """The report of an evaluation with one model, so that best and worst images are shown."""
    out = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        serve(patch, whole)
        names = whole.split("val").stimuli["stimulus"].tolist()
        mine = checkpoint(out / "mine.ckpt", names[:1])
        evaluation = evaluate(protocol(metrics=("ig", "nss", "kld")), [mine], out)
    write_report(evaluation, out / "report.html")
    return evaluation, (out / "report.html").read_text(encoding="utf-8")


def test_report_says_that_data_are_simulated(html):
    _, text = html
    visible = re.sub(r"<[^>]*>", " ", re.sub(r"(?s)<(style|svg)\b.*?</\1>", " ", text))
    assert "SIMULATED DATA, no person was measured" in visible
    # Every picture says it for itself: it may be copied out of the page.
    captions = re.findall(r"(?s)<figcaption>(.*?)</figcaption>", text)
    assert captions
    assert all("SIMULATED" in caption for caption in captions)
    assert not any("people" in caption or "person" in caption for caption in captions)


def test_report_loads_nothing(html):
    _, text = html
    targets = re.findall(r"""(?:src|href|srcset)\s*=\s*["']?([^"'\s>]*)""", text)
    assert targets
    assert [t for t in targets if not t.startswith(("#", "data:"))] == []
    assert not re.search(r"""url\(\s*["']?(?!#|data:)|@import|<script|<link|<iframe""", text)


def test_report_draws_scores_and_saccades(html):
    evaluation, text = html
    n_charts = len(evaluation.record["protocol"]["metrics"]) + 2  # and two of saccades
    assert text.count("<svg") == text.count("</svg>") == n_charts
    for name in ("mine", *BUILTIN):
        assert name in text
    # The panels of four images: each is the best or the worst once, six views of each.
    assert text.count("data:image/jpeg;base64,") == 24
    summary = summarize(evaluation.scores, ("ig",), "human", protocol().intervals).set_index("model")
    for name in ("mine", "uniform", "human"):
        assert f"{summary.loc[name, 'mean']:.3f}" in text


def test_report_says_what_was_seen_in_training(html):
    evaluation, text = html
    n = int(evaluation.scores["seen_in_training"].sum())
    assert n == 4
    assert re.search(rf"\b{n}\b[^<]*train", text)


# Saccades


def test_saccades_by_hand():
    rows = [
        ("p", 0, 100.0, 100.0), ("p", 0, 124.0, 100.0),  # right
        ("p", 0, 124.0, 64.0),  # up: rows grow downward
        ("p", 0, 100.0, 64.0),  # left
        ("p", 0, 100.0, 76.0),  # down
        ("p", 1, 10.0, 10.0),  # another path: no saccade from one to the next
        ("q", 1, 0.0, 0.0), ("q", 1, 36.0, 48.0),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["stimulus", "sample", "x_px", "y_px"])
    got = saccades(table, ["stimulus", "sample"], px_per_dva=12.0)
    assert list(got["stimulus"]) == ["p"] * 4 + ["q"]
    np.testing.assert_allclose(got["amplitude_dva"], [2.0, 3.0, 2.0, 1.0, 5.0])
    np.testing.assert_allclose(got["direction_deg"], [0.0, 90.0, -180.0, -90.0, -np.degrees(np.arctan2(4, 3))])
    assert got["direction_deg"].between(-180.0, 180.0, inclusive="left").all()


def test_one_fixation_makes_no_saccade():
    table = pd.DataFrame({"trial": [0, 1], "x_px": [1.0, 2.0], "y_px": [1.0, 2.0]})
    assert len(saccades(table, ["trial"], 12.0)) == 0
