"""Published numbers: what a table must say, where it is shown, and that verified ones come out again."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import yaml
from path_world import make_world, run

from gazekit import InputError
from gazekit.datasets import load
from gazekit.evaluation import Protocol
from gazekit.evaluation.columns import score_column
from gazekit.evaluation.published import STATUSES, published_rows, published_table
from gazekit.evaluation.report import write_report
from gazekit.evaluation.summary import summary_of
from gazekit.resources import resource_names
from tests.conftest import REAL_DATA

ROW = {
    "model": "human", "role": "ceiling", "metric": "object_search", "value": 0.78, "dataset": "amazon_covers",
    "split": "all", "status": "unverified", "source": "a paper",
}  # fmt: skip


def table(tmp_path, **changes):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"protocol": "oat2024", "title": "t", "rows": [ROW], **changes}))
    return path


def refused(path, match):
    with pytest.raises(InputError, match=match) as caught:
        published_table(path)
    assert "\n" not in str(caught.value)
    assert "mine.yaml" in str(caught.value)


@pytest.mark.parametrize("name", resource_names("evaluation/tables"))
def test_every_shipped_table_is_one(name):
    rows = published_table(name)
    assert rows
    for row in rows:
        assert row.status in STATUSES
        assert row.metric in Protocol.read(row.protocol).columns
        assert score_column(row.metric).label
        assert row.dataset is None or row.dataset in resource_names("datasets")
        assert row.source
    assert len({(row.model, row.metric, row.dataset, row.split) for row in rows}) == len(rows)


@pytest.mark.parametrize("key", list(ROW))
def test_every_missing_key_of_a_row_is_named(tmp_path, key):
    rest = {name: value for name, value in ROW.items() if name != key}
    refused(table(tmp_path, rows=[ROW, rest]), rf"mine\.yaml, row 2 lacks \['{key}'\]")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"status": "true"}, r"row 1: status is 'true', expected one of \['verified', 'unverified'\]"),
        ({"role": "people"}, r"row 1: role is 'people', expected one of"),
        (
            {"metric": "object_serach"},
            r"no score of protocol 'oat2024' \(in mine\.yaml, row 1\) named 'object_serach'; did you mean 'object_sea",
        ),
        ({"value": "0.78"}, r"row 1: value is '0\.78', expected a number"),
        ({"value": True}, r"row 1: value is True, expected a number"),
        ({"value": float("nan")}, r"row 1: value is nan, expected a number"),
        ({"value": float("inf")}, r"row 1: value is inf, expected a number"),
        ({"value": None}, r"row 1: value is None"),
        ({"source": ""}, r"row 1: source is '', expected a text"),
        ({"source": None}, r"row 1: source is None, expected a text"),
        ({"modle": "x"}, r"no key \(in mine\.yaml, row 1\) named 'modle'; did you mean 'model'"),
        ({"protocol": "irl2020"}, r"row 1 is of protocol 'irl2020' in a table of 'oat2024'"),
    ],
)
def test_wrong_rows(tmp_path, change, match):
    refused(table(tmp_path, rows=[{**ROW, **change}]), match)


def test_a_row_may_name_its_protocol(tmp_path):
    assert published_table(table(tmp_path, rows=[{**ROW, "protocol": "oat2024"}]))[0].protocol == "oat2024"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"rows": []}, r"rows is \[\], expected a list"),
        ({"rows": {"a": 1}}, r"rows is \{'a': 1\}, expected a list"),
        ({"rows": ["x"]}, r"row 1 is 'x', expected a mapping"),
        ({"tilte": "x"}, r"named 'tilte'; did you mean 'title'"),
    ],
)
def test_wrong_tables(tmp_path, change, match):
    refused(table(tmp_path, **change), match)


def test_a_table_of_no_known_protocol(tmp_path):
    with pytest.raises(InputError, match=r"no protocol named 'oat2025'; did you mean 'oat2024'"):
        published_table(table(tmp_path, protocol="oat2025"))
    with pytest.raises(InputError, match=r"no table of published numbers named 'oat2025'"):
        published_table("oat2025")


@pytest.mark.parametrize(
    "change",
    [
        {"protocol": 3}, {"protocol": None}, {"rows": [{**ROW, "dataset": "amazon_cover"}]},
        {"rows": [{**ROW, "dataset": 3}]},
        {"rows": [{**ROW, "split": None}]}, {"rows": [{**ROW, "model": None}]}, {"rows": [ROW, ROW]},
        {"rows": [{**ROW, "metric": 3}]}, {"rows": [{**ROW, "metric": "scanmatch"}]},
    ],
    ids=str,
)  # fmt: skip
def test_what_would_vanish_or_fail_later(tmp_path, change):
    """A misspelt dataset is shown nowhere; a metric that the protocol has not is never measured beside it."""
    refused(table(tmp_path, **change), r"mine\.yaml")


def test_rows_are_chosen_by_protocol_and_dataset():
    metrics = {row.metric for row in published_rows("amazon_covers", "oat2024")}
    assert metrics == {"object_correct", "object_length", "object_search", "object_refix", "object_revisit"}
    assert published_rows("osie", "oat2024") == []
    # A mean over several datasets is shown with each of them.
    assert [row.dataset for row in published_rows("interiors", "visions2022")] == [None]


def test_the_report_puts_published_numbers_beside_measured_ones(tmp_path):
    """Only those of the same protocol and data, each with status and source."""
    data = make_world(images=("i0", "i1"), lengths=(4, 6))
    protocol = Protocol.read("oat2024")
    objects = replace(protocol.objects, grid=(4, 3))
    protocol = replace(protocol, objects=objects, paths=None, controls=(), chance=None, split="all")
    evaluation = run(replace(data, card=replace(data.card, name="amazon_covers")), protocol, tmp_path)
    write_report(evaluation, tmp_path / "report.html")
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", (tmp_path / "report.html").read_text(encoding="utf-8")))
    for row in published_table("oat2024"):
        assert re.search(rf"{row.value:g}.{{0,80}}verified.{{0,80}}{re.escape(row.split)}", text), row.metric
        assert row.source in text
    # What was reported by other rules is not there.
    assert not any(row.source in text for name in ("irl2020", "visions2022") for row in published_table(name))


@pytest.mark.skipif(
    not (REAL_DATA / "amazon_covers").is_dir(), reason="Amazon covers are not on this machine; set GAZEKIT_DATA to test"
)
@pytest.mark.filterwarnings("ignore::gazekit.datasets.PartialDataWarning")
def test_verified_numbers_of_people_come_out_again(tmp_path):
    """80 collages, 480 trials, a regular grid of 14 x 6 covers."""
    data = load("amazon_covers", root=REAL_DATA)
    if len(data.stimuli) != 80:
        pytest.skip(f"{len(data.stimuli)} collages are here; the numbers are of the 80 distributed ones")
    protocol = Protocol.read("oat2024")
    protocol = replace(
        protocol, paths=None, controls=(), chance=None, overall=(), objects=replace(protocol.objects, grid=(14, 6))
    )
    evaluation = run(data, protocol, tmp_path, split="all")
    got = summary_of(evaluation).set_index("metric")
    rows = [row for row in published_table("oat2024") if row.status == "verified"]
    assert {row.metric for row in rows} == set(got.index)
    for row in rows:
        assert got.loc[row.metric, "mean"] == pytest.approx(row.value, abs=5e-7), row.metric
        assert got.loc[row.metric, "n_valid"] == 480
