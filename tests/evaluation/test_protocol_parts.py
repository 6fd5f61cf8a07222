"""The parts of a protocol about scanpaths, searches and objects: every wrong key and value is one line."""

from __future__ import annotations

import pytest
import yaml
from path_world import MEAN, comparing, rules, searching, written

from gazekit import InputError
from gazekit.evaluation import Protocol
from gazekit.evaluation.columns import OVERALL, SEARCH_COLUMNS, score_column
from gazekit.evaluation.protocol_parts import read_objects, read_paths, read_search
from gazekit.metrics import PATH_METRICS


def refused(match, **changes):
    """The protocol is refused in one line that names it."""
    with pytest.raises(InputError, match=match) as caught:
        rules(**changes)
    text = str(caught.value)
    assert "\n" not in text
    # Where it stands is said, but for a metric that nobody knows.
    assert "mine" in text or "no path metric named" in text


def one(**keys):
    return comparing({"dtw": {"reduce": "mean", **keys}})


@pytest.mark.parametrize(
    ("paths", "match"),
    [
        ("dtw", r"paths is 'dtw', expected a mapping"),
        ({}, r"paths lacks \['length', 'cut_at_target', 'scores'\]"),
        ({"length": 5, "scores": {"dtw": MEAN}}, r"paths lacks \['cut_at_target'\]"),
        ({**comparing({"dtw": MEAN}), "lenght": 5}, r"no protocol key .*named 'lenght'; did you mean 'length'"),
        (comparing({"dtw": MEAN}, length=0), r"paths\.length is 0, expected a whole number >= 1 or 'median'"),
        (comparing({"dtw": MEAN}, length="mean"), r"paths\.length is 'mean'"),
        (comparing({"dtw": MEAN}, length=7.5), r"paths\.length is 7\.5"),
        (comparing({"dtw": MEAN}, length=True), r"paths\.length is True"),
        (comparing({"dtw": MEAN}, length=None), r"paths\.length is None"),
        (comparing({"dtw": MEAN}, cut_at_target="yes"), r"paths\.cut_at_target is 'yes', expected true or false"),
        (comparing({"dtw": MEAN}, cut_at_target=1), r"paths\.cut_at_target is 1, expected true or false"),
        (comparing({}), r"paths\.scores is \{\}, expected columns"),
        (comparing(["dtw"]), r"paths\.scores is \['dtw'\], expected columns"),
        (comparing({"dwt": MEAN}), r"no path metric named 'dwt'; did you mean 'dtw'"),
        (comparing({"search_accuracy": MEAN}), r"no path metric named 'search_accuracy'"),
        (comparing({"nss": MEAN}), r"no path metric named 'nss'"),
        (comparing({3: MEAN}), r"no path metric named '3'"),
        (comparing({"dtw": "mean"}), r"paths\.scores\.dtw is 'mean', expected a mapping"),
        (comparing({"dtw": None}), r"paths\.scores\.dtw is None, expected a mapping"),
        (comparing({"dtw": {}}), r"paths\.scores\.dtw lacks \['reduce'\]"),
        (one(name="x"), r"no protocol key \(in .*paths\.scores\.dtw\) named 'name'"),
        (one(frist=3), r"named 'frist'; did you mean 'first'"),
        (
            one(reduce="worst"),
            r"paths\.scores\.dtw\.reduce is 'worst', expected one of \['mean', 'best', 'best_of_all'\]",
        ),
        (one(reduce=["mean"]), r"paths\.scores\.dtw\.reduce is \['mean'\]"),
        (one(first=0), r"paths\.scores\.dtw\.first is 0, expected a whole number >= 1"),
        (one(first="7"), r"paths\.scores\.dtw\.first is '7'"),
        (one(at_least=-1), r"paths\.scores\.dtw\.at_least is -1"),
        (one(at_least=True), r"paths\.scores\.dtw\.at_least is True"),
        (one(positions="cells"), r"positions is 'cells', expected one of \['fixations', 'objects'\]"),
        (one(positions="objects"), r"\['dtw'\] need the part 'objects'"),
        (one(only="found"), r"only is 'found', expected one of \['all', 'both_found'\]"),
        (one(only="both_found"), r"\['dtw'\] needs the part 'search'"),
        (comparing({"dtw": MEAN}, cut_at_target=True), r"cut_at_target needs the part 'search'"),
        (comparing({"object_ss": MEAN}), r"\['object_ss'\] need the part 'objects'"),
        (one(options=[5]), r"paths\.scores\.dtw\.options is \[5\], expected a mapping"),
        (one(options={"k": 2}), r"paths\.scores\.dtw\.options is \{'k': 2\}: dtw does not take that"),
        (comparing({"ss": {"reduce": "mean", "options": {"k": 2}}}), r"options is \{'k': 2\}, expected none for ss"),
        (comparing({"sed": {"reduce": "mean", "options": {"bins_wh": [0, 4]}}}), r"sed\.options is .*bins"),
        (comparing({"sed": {"reduce": "mean", "options": {"size_wh_px": [3, 4]}}}), r"sed does not take that"),
        (comparing({"sbtde": {"reduce": "mean", "options": {"k": [0, 1]}}}), r"sbtde\.options is .*k"),
        (comparing({"tde": {"reduce": "mean", "options": {"inner": "l3"}}}), r"tde\.options is .*l3"),
        (comparing({"tde": {"reduce": "mean", "options": {"reduce": "median"}}}), r"tde\.options is .*median"),
        (comparing({"scanmatch": {"reduce": "mean", "options": {"threshold": -1.0}}}), r"scanmatch\.options is"),
        (comparing({"scanmatch": {"reduce": "mean", "options": {"temporal_bin_s": 0.0}}}), r"scanmatch\.options is"),
    ],
)
def test_wrong_paths(paths, match):
    refused(match, paths=paths)


@pytest.mark.parametrize(
    "options",
    [
        ("sed", {"bins_wh": 3}), ("sed", {"bins_wh": "five"}), ("sed", {"bins_wh": [5.5, 5]}),
        ("sed", {"bins_wh": [5]}),
        ("sed", {"bins_wh": None}), ("sbtde", {"k": 3}), ("sbtde", {"k": "ten"}), ("sbtde", {"k": []}),
        ("tde", {"k": "two"}), ("tde", {"k": 2.5}), ("tde", {"k": None}), ("scanmatch", {"threshold": "high"}),
        ("scanmatch", {"gap": "wide"}), ("crqa_rec", {"radius_px": "near"}), ("crqa_rec", {"radius_px": -3}),
        ("crqa_det", {"min_line": 0}), ("multimatch_shape", {"simplify": True}), ("multimatch_shape", {"short": "x"}),
        ("sed_prefix", {"lengths": 4}), ("sed", {1: 2}),
    ],
    ids=lambda given: f"{given[0]}-{given[1]}",
)  # fmt: skip
def test_wrong_options_of_a_metric_are_found_when_the_protocol_is_read(options):
    name, given = options
    refused(rf"paths\.scores\.{name}\.options", paths=comparing({name: {"reduce": "mean", "options": given}}))


@pytest.mark.parametrize(
    ("search", "match"),
    [
        ("point", r"search is 'point', expected a mapping"),
        ({}, r"search lacks \['max_saccades', 'hit', 'fovea_size_wh_px', 'scores'\]"),
        ({**searching(), "max_sacades": 3}, r"named 'max_sacades'; did you mean 'max_saccades'"),
        (searching(0), r"search\.max_saccades is 0, expected a whole number >= 1 or 'trial'"),
        (searching(-1), r"search\.max_saccades is -1"),
        (searching(2.0), r"search\.max_saccades is 2\.0"),
        (searching(True), r"search\.max_saccades is True"),
        (searching("trials"), r"search\.max_saccades is 'trials'"),
        (searching(None), r"search\.max_saccades is None"),
        (searching(hit="box"), r"search\.hit is 'box', expected one of \['point', 'fovea'\]"),
        (searching(fovea=[32, 32]), r"fovea_size_wh_px is \[32, 32\], expected null with hit: point"),
        (searching(hit="fovea"), r"fovea_size_wh_px is None, expected \[width, height\] in px"),
        (searching(hit="fovea", fovea=32), r"fovea_size_wh_px is 32, expected \[width, height\]"),
        (searching(hit="fovea", fovea=[32]), r"fovea_size_wh_px is \[32\]"),
        (searching(hit="fovea", fovea=[32, 0]), r"fovea_size_wh_px is \[32, 0\]"),
        (searching(hit="fovea", fovea=["32", "32"]), r"fovea_size_wh_px is \['32', '32'\]"),
        (searching(hit="fovea", fovea=[True, True]), r"fovea_size_wh_px is \[True, True\]"),
        (searching(scores=[]), r"search\.scores is \[\], expected a list of names"),
        ({**searching(), "scores": "tfp_auc"}, r"search\.scores is 'tfp_auc', expected a list of names"),
        (searching(scores=["tfp"]), r"no score \(in .*search\.scores\) named 'tfp'; did you mean 'tfp_auc'"),
        (searching(scores=["dtw"]), r"no score .*named 'dtw'"),
        (searching(scores=[3]), r"no score .*named '3'"),
        (searching("trial", scores=["tfp_auc"]), r"tfp_auc needs one limit for all trials, found max_saccades: trial"),
        (searching("trial", scores=["auc_perf"]), r"auc_perf needs one limit for all trials"),
    ],
)
def test_wrong_search(search, match):
    refused(match, search=search)


FIVE = ["object_correct", "object_length", "object_search", "object_refix", "object_revisit"]


@pytest.mark.parametrize(
    ("objects", "match"),
    [
        ([4, 3], r"objects is \[4, 3\], expected a mapping"),
        ({"grid": [4, 3]}, r"objects lacks \['scores'\]"),
        ({"scores": FIVE}, r"objects lacks \['grid'\]"),
        ({"grid": 4, "scores": FIVE}, r"objects\.grid is 4, expected \[columns, rows\], or null"),
        ({"grid": [4, 0], "scores": FIVE}, r"objects\.grid is \[4, 0\]"),
        ({"grid": [4.0, 3.0], "scores": FIVE}, r"objects\.grid is \[4\.0, 3\.0\]"),
        ({"grid": [4, 3, 2], "scores": FIVE}, r"objects\.grid is \[4, 3, 2\]"),
        ({"grid": None, "scores": []}, r"objects\.scores is \[\], expected a list of names"),
        ({"grid": None, "scores": ["object_serach"]}, r"named 'object_serach'; did you mean 'object_search'"),
        ({"grid": None, "scores": FIVE, "cells": 3}, r"named 'cells'"),
    ],
)
def test_wrong_objects(objects, match):
    refused(match, objects=objects)


DTW = comparing({"dtw": MEAN})


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({}, r"scores nothing: give metrics, paths, search or objects"),
        ({"paths": DTW, "metric_options": {"nss": {"ddof": 1}}}, r"metric_options\.nss .*one of \(\)"),
        ({"paths": DTW, "baseline": "center_bias"}, r"baseline is given, but there are no map metrics"),
        ({"paths": DTW, "empirical_sigma_dva": 1.0}, r"empirical_sigma_dva is given, but there are no map metrics"),
        ({"paths": DTW, "chance": "uniform"}, r"chance is 'uniform', expected one of the controls \(\)"),
        ({"paths": DTW, "reduction": "median"}, r"reduction is 'median', expected one of \['macro', 'micro'\]"),
        ({"paths": DTW, "by": "categroy"}, r"no trial column .*named 'categroy'"),
        ({"paths": DTW, "trials": {"corect": True}}, r"no trial column .*named 'corect'; did you mean 'correct'"),
        ({"paths": DTW, "trials": ["correct"]}, r"trials is \['correct'\], expected a mapping"),
        ({"paths": DTW, "pooled": ["sed"]}, r"no score .*pooled\) named 'sed'"),
        ({"paths": DTW, "pooled": "dtw"}, r"pooled is 'dtw', expected a list"),
        ({"paths": DTW, "overall": "amplitude_js"}, r"overall is 'amplitude_js', expected a list"),
        ({"paths": DTW, "overall": ["amplitude"]}, r"no overall score .*named 'amplitude'"),
        ({"paths": DTW, "overall": ["probability_mismatch"]}, r"probability_mismatch needs a part"),
        ({"paths": DTW, "overall": ["search_correlation"]}, r"search_correlation needs a part"),
        ({"paths": DTW, "overall": ["object_delta"]}, r"object_delta needs a part"),
        ({"search": searching(), "overall": ["direction_js"]}, r"direction_js needs a part"),
        ({"paths": DTW, "overall": ["image_correlation"]}, r"image_correlation needs the column after the dot"),
        ({"paths": DTW, "overall": ["image_correlation.sed"]}, r"needs the column after the dot; found \['dtw'\]"),
        ({"search": searching("trial"), "overall": ["probability_mismatch"]}, r"needs one limit for all"),
        (
            {"objects": {"grid": [4, 3], "scores": FIVE[:4]}, "overall": ["object_delta"]},
            r"needs all five object scores",
        ),
        ({"paths": DTW, "controls": ["nobody"]}, r"no model named 'nobody'"),
    ],
)
def test_parts_that_do_not_fit_together(changes, match):
    with pytest.raises(InputError, match=match) as caught:
        rules(**changes)
    assert "\n" not in str(caught.value)


def unread(reason, **changes):
    """Values that once went unread until `reason`."""
    return pytest.param(changes, id=str(changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"controls": [3]}, {"pooled": [3]}, {"by": 3}, {"by": ["task"]}, {"chance": 3}, {"ceiling": 3},
        {"metrics": [3]},
        {"trials": {3: True}}, {"search": searching(hit="fovea", fovea=[float("nan"), 3.0])},
        unread("AttributeError: 'int' object has no attribute 'partition'", overall=[3]),
        unread("AttributeError in check_split_name, once the evaluation begins", split=3),
        unread("ValueError: lengths must match, once the evaluation begins", trials={"subject": ["s1", "s2"]}),
        unread("ValueError: duplicate column names, after everything has been scored",
               search=searching(scores=["tfp_auc", "tfp_auc"])),
        unread("two rows of the same name in the summary", overall=["amplitude_js", "amplitude_js"]),
        unread("every trial counts twice, n valid / n total too", controls=["uniform", "uniform"]),
        unread("AssertionError without map metrics, compared with itself with them", controls=["human"]),
        unread("scores of people on the image itself, under the name of people on another", ceiling="shuffled_human"),
        unread("halves of a model stand for halves of people", ceiling="uniform"),
        unread("a column named 'dtw.'", paths=comparing({"dtw.": MEAN})),
    ],
    ids=str,
)  # fmt: skip
def test_values_of_no_use_are_one_line(changes):
    with pytest.raises(InputError) as caught:
        rules(**{"paths": DTW, "overall": ["amplitude_js"], **changes})
    assert "\n" not in str(caught.value)


def test_every_column_of_a_shipped_metric_is_known():
    for name in (*PATH_METRICS, *SEARCH_COLUMNS, *OVERALL):
        assert score_column(name).label
        assert score_column(f"{name}.tag_two").label.endswith("(tag two)")
    for name in PATH_METRICS:
        assert score_column(name).higher_is_better is PATH_METRICS[name].higher_is_better
    with pytest.raises(InputError, match=r"no score named 'tfp'"):
        score_column("tfp")


@pytest.mark.parametrize("name", list(PATH_METRICS))
def test_every_path_metric_can_be_a_column(name):
    both = comparing({name: MEAN, f"{name}.best": {"reduce": "best", "first": 12}})
    if PATH_METRICS[name].higher_is_better is None:
        with pytest.raises(InputError, match="no value of crqa_corm is the best"):
            rules(paths=both)
        both = comparing({name: MEAN, f"{name}.best": {"reduce": "mean", "first": 12}})
    assert rules(paths=both).columns == (name, f"{name}.best")


def test_the_parts_as_they_are_read(tmp_path):
    protocol = rules(
        paths=comparing(
            {"sbtde.best": {"reduce": "best", "first": 7, "at_least": 7, "options": {"k": [1, 2]}}}, length=9
        ),
        search=searching("trial", "fovea", [32, 20.5], ["search_accuracy"]),
        objects={"grid": [4, 3], "scores": FIVE},
    )
    score = protocol.paths.scores["sbtde.best"]
    assert (score.metric, score.reduce, score.first, score.at_least) == ("sbtde", "best", 7, 7)
    assert (score.positions, score.only) == ("fixations", "all")
    assert (protocol.paths.length, protocol.paths.cut_at_target) == (9, False)
    assert (protocol.search.max_saccades, protocol.search.fovea_size_wh_px) == ("trial", (32, 20.5))
    assert protocol.objects.grid == (4, 3)
    assert protocol.columns == ("search_accuracy", *FIVE, "sbtde.best")
    # What was read can be written, and read again.
    path = tmp_path / "again.yaml"

    def plain(value):
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    path.write_text(yaml.safe_dump({**written(), **plain(protocol.as_dict())}))
    assert Protocol.read(path) == protocol
    # An absent part is absent from the record.
    assert "search" not in rules(paths=DTW).as_dict()


def test_parts_by_themselves():
    assert read_paths(DTW, "here").scores["dtw"].reduce == "mean"
    assert read_search(searching(), "here").scores == ("search_accuracy",)
    assert read_objects({"grid": None, "scores": FIVE}, "here").grid is None
