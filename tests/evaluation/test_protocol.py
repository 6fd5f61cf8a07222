"""Protocols: the shipped ones are read whole, and every wrong key is one line that says so."""

from __future__ import annotations

import pytest
import yaml

from gazekit import InputError
from gazekit.evaluation import Protocol
from gazekit.resources import resource_names, resource_path


@pytest.fixture
def content():
    return yaml.safe_load(resource_path("evaluation", "simulated_free_viewing").read_text())


def write(folder, content):
    path = folder / "mine.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def refused(folder, content, match):
    with pytest.raises(InputError, match=match) as caught:
        Protocol.read(write(folder, content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", resource_names("evaluation"))
def test_every_shipped_protocol_is_read_whole(name):
    protocol = Protocol.read(name)
    written = yaml.safe_load(resource_path("evaluation", name).read_text())
    assert protocol.name == name == written["name"]
    read = protocol.as_dict()
    # Defaults that move a number stand in the record, written or not.
    assert set(read) == set(written) | {"scored_map", "reduction", "pictures"}
    for key, value in written.items():
        assert contains(read[key], value), key


def contains(read, written):
    """Whether what was read holds what was written, and nothing but defaults besides."""
    if isinstance(written, dict):
        return set(written) <= set(read) and all(contains(read[key], value) for key, value in written.items())
    return (list(read) if isinstance(read, tuple) else read) == written


def test_a_path_is_as_good_as_a_name(content, tmp_path):
    assert Protocol.read(write(tmp_path, content)) == Protocol.read("simulated_free_viewing")
    assert Protocol.read(write(tmp_path, {**content, "grid": [200, 150]})).grid == (200, 150)
    assert Protocol.read(write(tmp_path, {**content, "ceiling": None, "controls": [], "chance": None})).controls == ()


def test_unknown_protocol():
    with pytest.raises(InputError, match=r"no protocol named 'simulated_free_veiwing'; did you mean 'simulated_free_v"):
        Protocol.read("simulated_free_veiwing")
    with pytest.raises(InputError, match=r"protocol file 'nowhere/mine\.yaml' does not exist"):
        Protocol.read("nowhere/mine.yaml")


def test_unknown_key(content, tmp_path):
    refused(
        tmp_path,
        {**content, "first_fixatoin": "drop"},
        r"no protocol key \(in mine\.yaml\) named 'first_fixatoin'; did you mean 'first_fixation'\?",
    )


OPTIONAL = ("metrics", "paths", "overall", "chance")


def test_every_missing_key_is_named(content, tmp_path):
    for key in set(content) - set(OPTIONAL):
        part = {name: value for name, value in content.items() if name != key}
        refused(tmp_path, part, rf"mine\.yaml: the protocol lacks \['{key}'\]")


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        (
            "first_fixation",
            "skip",
            r"first_fixation is 'skip', expected one of \['drop', 'keep', 'recorded', 'design', 'center'\]",
        ),
        # YAML reads a bare `no` as False.
        ("first_fixation", False, r"first_fixation is False, expected one of"),
        ("out_of_image", "ignore", r"out_of_image is 'ignore', expected one of \['raise', 'drop', 'clip'\]"),
        ("empirical", "all", r"empirical is 'all', expected one of \['subject', 'pooled'\]"),
        ("shuffled_from", "train", r"shuffled_from is 'train', expected one of \['all_other_images'\]"),
        ("metrics", ["nss", "ncc"], r"no metric named 'ncc'; did you mean 'cc'\?"),
        ("controls", ["unifrom"], r"no model named 'unifrom'; did you mean 'uniform'\?"),
        ("baseline", "center", r"no model named 'center'; did you mean 'center_bias'\?"),
        ("ceiling", "people", r"no model named 'people'"),
        ("grid", "half", r"grid is 'half', expected 'stimulus' or \[width_px, height_px\]"),
        ("grid", [200], r"grid is \(200,\), expected 'stimulus'"),
        ("grid", [200.5, 100], r"grid is \(200\.5, 100\), expected 'stimulus'"),
        ("grid", [0, 100], r"grid is \(0, 100\), expected 'stimulus'"),
        ("empirical_sigma_dva", 0, r"empirical_sigma_dva is 0, expected degrees > 0"),
        ("empirical_sigma_dva", "one", r"empirical_sigma_dva is 'one', expected degrees > 0"),
        ("intervals", None, r"intervals needs exactly the keys \['draws', 'level', 'resample', 'seed'\], found None"),
        ("samples", {"per_stimulus": 4}, r"samples needs exactly the keys \['per_stimulus', 'seed'\]"),
        ("samples", {"per_stimulus": "4", "seed": 0}, r"samples\.per_stimulus is '4', expected int"),
        ("metrics", "nss", r"metrics"),
        ("controls", "uniform", r"controls"),
    ],
)
def test_wrong_values(content, tmp_path, key, value, match):
    refused(tmp_path, {**content, key: value}, match)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"resample": "trial"}, r"intervals\.resample is 'trial', expected one of \['stimulus', 'stimulus_and_sub"),
        ({"draws": 0}, r"draws >= 1 and 0 < level < 1"),
        ({"level": 95.0}, r"draws >= 1 and 0 < level < 1"),
        ({"level": "95"}, r"intervals\.level is '95', expected float"),
        ({"draws": 2000.0}, r"intervals\.draws is 2000\.0, expected int"),
        ({"bins": 3}, r"intervals needs exactly the keys"),
    ],
)
def test_wrong_intervals(content, tmp_path, change, match):
    refused(tmp_path, {**content, "intervals": {**content["intervals"], **change}}, match)


def test_files_that_are_no_protocol(tmp_path):
    refused(tmp_path, "name: [unclosed", r"mine\.yaml: not valid YAML")
    refused(tmp_path, "- a list", r"mine\.yaml: expected a mapping of keys, found list")
    refused(tmp_path, "", r"mine\.yaml: expected a mapping of keys, found NoneType")
    refused(tmp_path, "name: a\nname: b\n", r"mine\.yaml: not valid YAML: .*key 'name' is given twice")
