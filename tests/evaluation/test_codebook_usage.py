"""What the codes of a codebook select, and evaluations of a model that was trained on a part of the scenes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from gazekit import InputError
from gazekit.cli import main
from gazekit.datasets.datamodule import StimulusItems
from gazekit.evaluation.codebook_usage import codebook_usage, usage_lines
from gazekit.models import create_model
from gazekit.models.base import first_trial_of_each_stimulus
from tests.datasets.test_interiors import load_tiny, write_release
from tests.evaluation.path_world import rules, run, searching
from tests.models.test_model_laws import save

SMALL = {"backbone": "mobilenetv2_035", "weights": None, "width": 8, "hidden": 4}


def codebook(**options):
    torch.manual_seed(0)
    model = create_model("codebook", **{**SMALL, "bottleneck_options": {"n_codes": 12}, **options})
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.5 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interiors")
    write_release(folder)
    return folder


@torch.no_grad()
def test_usage_is_what_a_loop_over_scenes_counts(folder):
    model, data = codebook(), load_tiny(folder)
    usage = codebook_usage(model, data, top=2)
    items, weights = StimulusItems(data, with_search=True), {}
    for index, name in enumerate(items.names):
        batch = first_trial_of_each_stimulus(items.collate([items[index]]))
        weights[name] = model.scene(batch)[1].reshape(-1, 12).double().numpy()
    mean = np.mean([w.mean(0) for w in weights.values()], 0)
    np.testing.assert_allclose(usage.mean, mean, atol=1e-6)
    assert usage.mean.sum() == pytest.approx(1.0, abs=1e-5)
    assert usage.perplexity == pytest.approx(math.prod(p**-p for p in mean), rel=1e-4)
    assert usage.dead == sum(p < 0.1 / 12 for p in mean)
    own = np.mean([(-w * np.log2(np.maximum(w, 1e-12))).sum(1).mean() for w in weights.values()])
    assert usage.cell_entropy_bits == pytest.approx(own, abs=1e-4)
    for code, rows in usage.top.groupby("code"):
        peaks = {name: w[:, code].max() for name, w in weights.items()}
        expected = sorted(peaks.values(), reverse=True)[:2]
        np.testing.assert_allclose(rows.sort_values("rank")["weight"], expected, atol=1e-6)
        best = rows.sort_values("rank").iloc[0]
        assert best["stimulus"] == max(peaks, key=peaks.get)
        assert 0 <= best["x_px"] <= 1024
        assert 0 <= best["y_px"] <= 768


@pytest.mark.filterwarnings("ignore::gazekit.datasets.PartialDataWarning")
def test_the_command_writes_a_figure_and_a_table(folder, tmp_path):
    path = save(codebook(), tmp_path / "codebook.ckpt")
    out = tmp_path / "codes"
    words = ["codes", str(path), "--data-root", str(folder), "--codes", "3", "--out", str(out)]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output + str(result.exception)
    assert "codes: 12, of which" in result.output
    assert out.with_suffix(".png").stat().st_size > 10_000
    table = pd.read_csv(out.with_suffix(".csv"))
    assert sorted(table["code"].unique()) == list(range(12))
    assert table.groupby("code")["mean_weight"].first().sum() == pytest.approx(1.0, abs=1e-5)


def test_codes_of_free_viewing_need_no_targets(folder):
    """A set of searches may be scored as free viewing, and then a trial without a target is none that is missing."""
    data, model = load_tiny(folder), codebook()
    trials = data.trials.assign(target=data.trials["target"].where(data.trials.index != data.trials.index[0]))
    mixed = replace(data, trials=trials)
    with pytest.raises(InputError, match="has no target"):
        codebook_usage(model, mixed)
    free = codebook_usage(model, mixed, with_search=False)
    assert not np.allclose(free.mean, codebook_usage(model, data).mean, atol=1e-6)
    assert set(free.top["target"]) == {""}


@pytest.mark.filterwarnings("ignore::gazekit.datasets.PartialDataWarning")
def test_the_report_shows_the_codes_of_the_codebooks_in_it(folder, tmp_path):
    paths = [str(save(codebook(), tmp_path / "codebook.ckpt"))]
    paths.append(str(save(codebook(bottleneck="linear", bottleneck_options=None), tmp_path / "linear.ckpt")))
    words = [
        "evaluate",
        "interiors_search",
        "--split",
        "all",
        "--data-root",
        str(folder),
        "--out",
        str(tmp_path / "run"),
    ]
    result = CliRunner().invoke(main, [*words, *(word for path in paths for word in ("--model", path))])
    assert result.exit_code == 0, result.output + str(result.exception)
    html = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    shown = html[html.index("What the codes select") : html.index("How it was measured")]
    usage = codebook_usage(codebook(), load_tiny(folder))
    assert usage_lines(usage)[0] in shown
    assert usage_lines(usage)[2] in shown
    assert shown.count("<img") == shown.count("<h3>") == 1
    assert "places where the codes of codebook weigh most" in shown


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: codebook(bottleneck="linear", bottleneck_options=None), "found 'linear' and 'cell'"),
        (lambda: create_model("uniform"), "found Uniform"),
    ],
)
def test_models_without_codes_are_refused(folder, model, message):
    with pytest.raises(InputError, match=message):
        codebook_usage(model(), load_tiny(folder))


def protocol(**changes):
    parts = {
        "first_fixation": "design", "out_of_image": "clip", "grid": [128, 96], "metrics": ["cnss"],
        "baseline": "uniform", "empirical": "subject", "empirical_sigma_dva": 1.0,
        "shuffled_from": "all_other_images", "search": searching(4),
    }  # fmt: skip
    return rules(**{**parts, **changes})


def test_unseen_are_the_scenes_that_no_model_was_trained_on(folder, tmp_path):
    data = load_tiny(folder)
    names = data.stimuli["stimulus"].tolist()
    paths = []
    for number, seen in enumerate((names[:1], names[1:2])):
        model = codebook()
        model.train_stimuli, model.train_dataset = seen, data.name
        paths.append(save(model, tmp_path / f"model_{number}.ckpt"))
    scores = run(data, protocol(), tmp_path / "both", paths, unseen=True).scores
    assert set(scores["stimulus"]) == set(names[2:])
    assert not scores["seen_in_training"].any()
    one = run(data, protocol(), tmp_path / "one", paths[:1], unseen=True).scores
    assert set(one["stimulus"]) == set(names[1:])
    # What was trained on another dataset has seen nothing of this one.
    model = codebook()
    model.train_stimuli, model.train_dataset = names, "elsewhere"
    other = save(model, tmp_path / "other.ckpt")
    assert set(run(data, protocol(), tmp_path / "other", [other], unseen=True).scores["stimulus"]) == set(names)
    model.train_dataset = data.name
    everything = save(model, tmp_path / "everything.ckpt")
    with pytest.raises(InputError, match="on each of 3 stimuli a model was trained"):
        run(data, protocol(), tmp_path / "none", [everything], unseen=True)


@torch.no_grad()
def test_pictures_may_keep_their_size_where_maps_do_not(folder, tmp_path):
    data, model = load_tiny(folder), codebook()
    path = save(model, tmp_path / "codebook.ckpt")
    kept = run(data, protocol(pictures="stimulus"), tmp_path / "kept", [path]).scores
    small = run(data, protocol(), tmp_path / "small", [path]).scores
    kept, small = (s[s["model"] == "codebook"].set_index("trial")["cnss"] for s in (kept, small))
    assert (kept - small).abs().max() > 1e-3
    # By hand: features and target of the whole picture, fixations and maps on the grid.
    grid, whole = (StimulusItems(data, size, with_search=True) for size in ((128, 96), None))
    batch, own = (items.collate([items[0]]) for items in (grid, whole))
    search = replace(batch.search, template=own.search.template)
    shown = replace(batch, features=model.encode(own.image), search=search)
    maps = model.conditional_log_density(shown).double().exp()
    for row, trial in enumerate(batch.trial.tolist()):
        found = []
        for k in range(1, int(batch.valid[row].sum())):
            x, y = batch.xy_px[row, k].floor().long().tolist()
            x, y = min(max(x, 0), 127), min(max(y, 0), 95)
            m = maps[row, k]
            found.append(float((m[y, x] - m.mean()) / m.std(correction=0)))
        assert kept[trial] == pytest.approx(np.mean(found), rel=1e-3, abs=1e-3)
