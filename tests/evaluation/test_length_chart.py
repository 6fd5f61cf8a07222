"""The chart of a score by the length of the scanpath: which protocols have it, and that it draws the summary."""

from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection
from path_world import IMAGES, make_world, run

from gazekit.evaluation import Protocol
from gazekit.evaluation.figures import length_panel
from gazekit.evaluation.report import write_report

COLUMNS = {n: f"sbtde.first_{n}" for n in range(1, 11)}


def test_which_scores_make_a_chart():
    assert Protocol.read("nevaclip2023").paths.by_length == [COLUMNS]
    # Three lengths are a table, and one length is nothing to compare.
    for name in ("hat2024", "neva2022"):
        assert Protocol.read(name).paths.by_length == []


def summary_of_models(names, unknown=()):
    rng = np.random.default_rng(0)
    rows = [
        {"model": name, "metric": metric, "mean": (at := rng.random()), "low": at - 0.1, "high": at + 0.2}
        for name in names
        for metric in COLUMNS.values()
    ]
    table = pd.DataFrame(rows)
    table.loc[table["model"].isin(unknown), ["mean", "low", "high"]] = np.nan
    return table


def test_means_and_intervals_are_drawn_side_by_side():
    roles = {"human": "ceiling", **{f"m{i}": "model" for i in range(8)}, "uniform": "control", "center": "control"}
    roles["nobody"] = "model"
    table = summary_of_models(roles, unknown=["nobody"])
    figure = length_panel(table, COLUMNS, roles, "SIMULATED")
    (axis,) = figure.axes
    lines = {line.get_label(): line for line in axis.lines}
    # Who has no score at all is not in the legend either.
    assert set(lines) == set(roles) - {"nobody"}
    bars = [c for c in axis.collections if isinstance(c, LineCollection)]
    for (name, line), bar in zip(lines.items(), bars, strict=True):
        rows = table[table["model"] == name]
        np.testing.assert_allclose(line.get_ydata(), rows["mean"])
        np.testing.assert_array_equal(np.round(line.get_xdata()), list(COLUMNS))
        segments = np.array(bar.get_segments())
        np.testing.assert_allclose(segments[:, :, 1], rows[["low", "high"]])
        np.testing.assert_allclose(segments[:, 0, 0], line.get_xdata())
    places = np.array([line.get_xdata()[0] for line in lines.values()])
    assert len(np.unique(places)) == len(places)
    # No two look alike, though controls share a color and the palette has six.
    assert len({(line.get_color(), str(line._dash_pattern)) for line in lines.values()}) == len(lines)
    assert figure.get_suptitle() == "SIMULATED"


def test_the_report_shows_one_chart_in_place_of_ten(tmp_path):
    protocol = Protocol.read("nevaclip2023")
    short = {"intervals": {**protocol.intervals, "draws": 20}, "samples": {"per_stimulus": 2, "seed": 0}}
    data = make_world(lengths=(11, 13), seed=6, images=IMAGES[:3])
    evaluation = run(data, replace(protocol, **short), tmp_path, split="all")
    write_report(evaluation, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "By the length of the scanpath" in text
    # The chart, the published score that is no part of it, and two of saccades.
    assert text.count("<svg") == 4
