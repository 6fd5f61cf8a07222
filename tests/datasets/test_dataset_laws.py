"""Laws of every dataset and format: its made-up release loads, and damage is one clear line or no damage at all.

Each ``tests/datasets/test_NAME.py`` of a reader defines ``write_release(folder)``; nothing else has to be registered.
"""

from __future__ import annotations

import importlib
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gazekit import InputError
from gazekit.datasets import FORMATS, Card, GazeDataset, PartialDataWarning, load
from gazekit.datasets.check import check, listed_measures
from gazekit.datasets.split import SPLITS
from gazekit.resources import resource_names
from gazekit.tables import FIXATION_COLUMNS, STIMULUS_COLUMNS, TRIAL_COLUMNS, TRIAL_EXTRAS

# Test module of a format, where it is not test_NAME.
MODULES = {"tables": "test_tables_format"}
READERS = sorted(set(FORMATS) - {"simulated"})
WITH_JSON = ("amazon_covers", "coco_freeview", "coco_search18", "visions")
IMAGES = (".jpg", ".jpeg", ".png")


def miniature(name: str, folder: Path) -> Path:
    """The made-up release of `name`, in a folder of its own."""
    module = importlib.import_module(f"tests.datasets.{MODULES.get(name, f'test_{name}')}")
    module.write_release(folder / name)
    return folder / name


@pytest.fixture(scope="module")
def releases(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("releases")
    return {name: miniature(name, folder) for name in READERS}


@pytest.fixture
def release(request, releases, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(releases[request.param], tmp_path / request.param))


def read(folder: Path) -> GazeDataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        # A format without a shipped card brings its own.
        if folder.name in resource_names("datasets"):
            return load(folder.name, root=folder, cache=False)
        return load(folder, cache=False)


def every(names):
    return pytest.mark.parametrize("release", names, indirect=True)


def eye_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix not in IMAGES and p.name != "card.yaml")


@pytest.mark.parametrize("name", resource_names("datasets"))
def test_every_card_has_a_reader_and_expects_what_can_be_measured(name):
    card = Card.read(name)
    assert card.name == name
    assert card.format in FORMATS
    assert not listed_measures(card)
    assert card.split_rule
    assert card.content["known_issues"]
    assert set(card.content["license"]) == {"data", "images"}
    assert card.simulated or set(card.content) & {"download", "archives", "manual"}


@every(READERS)
def test_the_miniature_obeys_the_contract(release):
    data = read(release)
    for table, columns in (
        (data.fixations, FIXATION_COLUMNS),
        (data.trials, (*TRIAL_COLUMNS, "split")),
        (data.stimuli, (*STIMULUS_COLUMNS, "split")),
    ):
        assert set(columns) <= set(table.columns)
    assert data.trials["trial"].tolist() == list(range(len(data.trials)))
    assert np.isfinite(data.fixations[["x_px", "y_px"]].to_numpy()).all()
    assert set(data.trials["stimulus"]) <= set(data.stimuli["stimulus"])
    for column in set(TRIAL_EXTRAS) & set(data.trials):
        assert str(data.trials[column].dtype) == TRIAL_EXTRAS[column]
    # Seconds, not milliseconds: no fixation lasts a quarter of a minute.
    assert not (data.fixations["duration_s"] > 15).any()
    assert set(data.trials["split"]) <= set(SPLITS)
    assert data.stimuli["width_px"].ne(data.stimuli["height_px"]).any(), "square miniatures hide swapped axes"


@every(READERS)
def test_reading_twice_is_the_same_and_the_cache_changes_nothing(release):
    fresh = read(release)
    shipped = release.name in resource_names("datasets")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        first, second = (
            load(release.name if shipped else release, root=release if shipped else None) for _ in range(2)
        )
    for other in (first, second):
        for table in ("fixations", "trials", "stimuli", "objects"):
            one, two = getattr(fresh, table), getattr(other, table)
            assert (one is None) == (two is None)
            if one is not None:
                pd.testing.assert_frame_equal(one, two)
        assert other.changes == fresh.changes
        assert other.fingerprint() == fresh.fingerprint()


@every(READERS)
def test_parquet_holds_everything(release, tmp_path):
    data = read(release)
    data.to_parquet(tmp_path / "kept")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        again, loaded = GazeDataset.from_parquet(tmp_path / "kept"), load(tmp_path / "kept")
    for other in (again, loaded):
        assert other.fingerprint() == data.fingerprint()
        assert other.changes == data.changes
        assert other.card.screen == data.card.screen
        for table in ("fixations", "trials", "stimuli"):
            pd.testing.assert_frame_equal(getattr(other, table), getattr(data, table))


@every(READERS)
def test_checking_the_miniature_only_reports(release):
    findings = check(read(release))
    assert findings[0].what == "copy"
    assert all("\n" not in str(finding) for finding in findings)


def refused_or_harmless(folder: Path) -> str:
    """Load and check; the message where it was refused. Anything but an InputError of one line is a failure."""
    said = ""
    try:
        check(read(folder))
    except InputError as error:
        said = str(error)
    assert_one_line(said)
    return said


def assert_one_line(message: str) -> None:
    assert "\n" not in message, message
    assert len(message) < 2000, message


@every(READERS)
def test_every_file_empty_truncated_reencoded_or_missing(release):
    for path in eye_files(release):
        whole = path.read_bytes()
        for content in (b"", whole[: len(whole) // 2], whole[:-1] if len(whole) > 1 else b"", b"\xff\xfe" + whole):
            path.write_bytes(content)
            refused_or_harmless(release)
        path.write_bytes(b"")
        emptied = refused_or_harmless(release)
        path.unlink()
        missing = refused_or_harmless(release)
        path.write_bytes(whole)
        assert not missing or path.name in missing or path.parent.name in missing, missing
        # What is missed when it is gone is also missed when it is empty; an empty scanpath file is an empty trial.
        assert path.name in emptied or not missing or path.suffix == "", emptied
    assert not refused_or_harmless(release)


@every(READERS)
def test_every_file_renamed(release):
    for path in eye_files(release):
        renamed = path.with_name(f"renamed_{path.name}")
        path.rename(renamed)
        said = refused_or_harmless(release)
        assert not said or path.name in said or renamed.name in said or path.parent.name in said, said
        renamed.rename(path)


@every(READERS)
def test_the_formats_with_json_are_those_that_are_listed(release):
    assert any(path.suffix == ".json" for path in eye_files(release)) == (release.name in WITH_JSON)


@every(READERS)
def test_text_in_another_encoding_is_refused(release):
    for path in eye_files(release):
        if path.suffix in (".json", ".csv"):
            whole = path.read_bytes()
            path.write_bytes(whole.decode().encode("utf-16"))
            assert path.name in refused_or_harmless(release)
            path.write_bytes(whole)


@every(READERS)
def test_every_image_damaged_is_found(release):
    used = [Path(path) for path in read(release).stimuli["path"] if path]
    for path in used[:3]:
        whole = path.read_bytes()
        for content in (b"", b"not an image", whole[: len(whole) // 2]):
            path.write_bytes(content)
            try:
                deviating = [str(finding) for finding in check(read(release)) if finding.deviates]
            except InputError as error:
                deviating = [str(error)]
            assert any(path.name in line for line in deviating), deviating
        path.write_bytes(whole)


@every(READERS)
def test_a_changed_file_has_another_digest_than_the_card(release, tmp_path):
    """Tampering that keeps a file readable is found by the digests in the card."""
    from dataclasses import replace

    from gazekit.files import sha256_of

    data = read(release)
    files = {str(path.relative_to(release)): {"sha256": sha256_of(path)} for path in eye_files(release)}
    card = replace(data.card, content={**data.card.content, "files": files})
    held = replace(data, card=card)
    assert not [f for f in check(held) if f.deviates and "sha256" in f.found]
    victim = eye_files(release)[0]
    content = bytearray(victim.read_bytes() or b"x")
    content[len(content) // 2] ^= 1
    victim.write_bytes(bytes(content))
    assert [f for f in check(held) if f.deviates and f.what.endswith(victim.name)]


damage = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "insert", "zero", "swap"]),
        st.floats(0, 1, exclude_max=True),
        st.binary(min_size=1, max_size=12),
    ),
    min_size=1,
    max_size=4,
)


def damaged(content: bytes, steps) -> bytes:
    for kind, where, extra in steps:
        at = int(where * len(content))
        if kind == "flip" and content:
            content = content[:at] + bytes([content[at] ^ (extra[0] or 1)]) + content[at + 1 :]
        elif kind == "cut":
            content = content[:at]
        elif kind == "insert":
            content = content[:at] + extra + content[at:]
        elif kind == "zero":
            content = content[:at] + bytes(len(content[at : at + 8])) + content[at + 8 :]
        else:
            content = content[at:] + content[:at]
    return content


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(which=st.floats(0, 1, exclude_max=True), steps=damage)
def test_random_damage_gives_one_line_or_nothing(releases, name, which, steps):
    files = eye_files(releases[name])
    victim = files[int(which * len(files))]
    whole = victim.read_bytes()
    try:
        victim.write_bytes(damaged(whole, steps))
        try:
            read(releases[name])
        except InputError as error:
            assert_one_line(str(error))
    finally:
        victim.write_bytes(whole)


WORDS = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("name", [name for name in READERS if name in WITH_JSON])
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(value=WORDS, choices=st.lists(st.integers(0, 10**6), min_size=8, max_size=8), which=st.integers(0, 10**6))
def test_json_with_any_value_replaced(releases, name, value, choices, which):
    """Valid JSON that is not what it should be somewhere inside."""
    import json

    files = [path for path in eye_files(releases[name]) if path.suffix == ".json"]
    victim = files[which % len(files)]
    whole = victim.read_bytes()
    content = place = json.loads(whole)
    above, key = None, None
    for choice in choices:
        if not isinstance(place, dict | list) or not place:
            break
        keys = list(place) if isinstance(place, dict) else range(len(place))
        above, key = place, keys[choice % len(keys)]
        place = place[key]
        if choice % 5 == 0:
            break
    if above is None:
        content = value
    else:
        above[key] = value
    try:
        victim.write_text(json.dumps(content), encoding="utf-8")
        try:
            read(releases[name])
        except InputError as error:
            assert_one_line(str(error))
    finally:
        victim.write_bytes(whole)
