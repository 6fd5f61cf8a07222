"""From a name to a dataset: found, checked, counted, and remembered as long as nothing changes."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from gazekit import InputError
from gazekit.datasets import GazeDataset, PartialDataWarning, load, loading
from gazekit.datasets.card import Card
from gazekit.datasets.readers import simulated
from gazekit.datasets.reading import Tables
from gazekit.registry import Registry
from tests.conftest import write_release

FORMATS = Registry("dataset format", {"made_up": "tests.datasets.test_loading:read_made_up"})
# One entry per call of the reader below: its options.
CALLS: list[dict[str, Any]] = []

CONTENT: dict[str, Any] = {
    "name": "made_up",
    "title": "A made-up release",
    "citation": "None.",
    "license": {"data": "none stated"},
    "forced_initial": False,
    "screen": None,
    "format": "made_up",
    "needs": ["data/eye.csv", "note.txt"],
    "expect": {"stimuli": 3, "subjects": 2},
    "split": {"by": "stimulus", "seed": 3, "val": 0.2, "test": 0.3},
    "manual": "Ask for it.",
}


def read_made_up(
    folder: Path, card: Card, first_fixation: str = "keep", scale: float = 1.0, drop: tuple[str, ...] = ()
) -> Tables:
    """Three stimuli and two subjects; every optional column there is, with missing values in each."""
    CALLS.append({"first_fixation": first_fixation, "scale": scale, "drop": drop})
    x = np.array([float(text) for text in (folder / "data" / "eye.csv").read_text().split(",")]) * scale
    n = len(x)
    stimuli = pd.DataFrame(
        {"stimulus": ["a", "ü b", "3"], "path": ["", "/nowhere/p.jpg", ""], "width_px": 320, "height_px": 200}
    )
    stimuli["layout"] = pd.array([1, None, 3], dtype="Int64")
    trials = pd.DataFrame(
        {
            "trial": [2, 5, 9, 11],
            "subject": ["s1", "s1", "s2", "007"] if "007" in drop else ["s1", "s1", "s2", "s2"],
            "stimulus": ["a", "ü b", "a", "3"],
            "task": ["search", "search", "free_viewing", "search"],
            "target": ["cup", "", "fork", "nan"],
            "target_path": ["", "", "/nowhere/t.png", ""],
            "target_present": pd.array([True, False, None, True], dtype="boolean"),
            **{f"target_{side}_px": [1.5, np.nan, 3.0, 0.1 + 0.2] for side in ("left", "top")},
            **{f"target_{side}_px": [9.5, np.nan, 1e2, 7.0] for side in ("right", "bottom")},
            "found": pd.array([None] * 4, dtype="boolean"),
            "correct": pd.array([True] * 4, dtype="boolean"),
            "response_time_s": [0.1 + 0.2, np.nan, 1e-300, 5.0],
            "max_saccades": pd.array([1, None, 2**53 + 1, 0], dtype="Int64"),
            "start_x_px": [np.nan] * 4,
            "start_y_px": [160.0] * 4,
            "caption": ["", "two\nlines", "“quotes”, and \\", "\U0001f600"],
            "own_flag": [True, False, True, False],
        }
    )
    fixations = pd.DataFrame({"subject": "s1", "stimulus": "a", "trial": 2, "fixation": np.arange(n), "x_px": x})
    fixations = fixations.assign(y_px=1 / 3, t_s=np.nan, duration_s=0.1, pupil=np.arange(n, dtype=np.float32), eye="L")
    objects = pd.DataFrame({"stimulus": ["a", "a", "3"], "object": [0, 1, 0], "left_px": 0.5, "top_px": 1 / 7})
    objects = objects.assign(right_px=10.0, bottom_px=[3.0, 4.0, 5.0], label=["cup", "", "ü"])
    return Tables(fixations, trials, stimuli, (f"x was multiplied by {scale}", "“nothing” else"), objects)


@pytest.fixture(autouse=True)
def _no_calls():
    CALLS.clear()


def write_made_up(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "eye.csv").write_text("1.5,0.1,319.999999999999")
    (folder / "data" / "other.bin").write_bytes(b"other")
    (folder / "note.txt").write_text("a note")
    (folder / "card.yaml").write_text(yaml.safe_dump(CONTENT, sort_keys=False))
    return folder


@pytest.fixture
def folder(tmp_path):
    """A made-up release with its card in it."""
    return write_made_up(tmp_path / "releases" / "made_up")


def get(folder: Path | str, **options: Any) -> GazeDataset:
    return loading.load(folder, formats=FORMATS, **options)


def tables_kept() -> list[Path]:
    return sorted((Path(os.environ["GAZEKIT_CACHE"]) / "tables").glob("*"))


def assert_same(found: GazeDataset, expected: GazeDataset) -> None:
    for name in ("fixations", "trials", "stimuli", "objects"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        if theirs is None:
            assert ours is None, name
        else:
            # Bit for bit, with types, and the order of columns and rows.
            pd.testing.assert_frame_equal(ours, theirs, check_exact=True)
            assert [str(kind) for kind in ours.dtypes] == [str(kind) for kind in theirs.dtypes]
    assert found.changes == expected.changes
    assert isinstance(found.changes, tuple)
    assert found.source == expected.source
    assert found.card == expected.card
    assert found.fingerprint() == expected.fingerprint()


def refused(match: str | None, *args: Any, **options: Any) -> None:
    with pytest.raises(InputError, match=match) as caught:
        get(*args, **options)
    assert len(str(caught.value).splitlines()) == 1


# --- remembering ---


def test_what_is_remembered_is_what_was_read(folder):
    fresh = get(folder, cache=False)
    assert tables_kept() == []
    first, second = get(folder), get(folder)
    assert len(CALLS) == 2
    assert len(tables_kept()) == 1
    assert_same(first, fresh)
    assert_same(second, fresh)


def test_osie_is_remembered(tiny_osie, monkeypatch):
    with pytest.warns(PartialDataWarning):
        fresh = load("osie", root=tiny_osie)

    def read(*_):
        raise AssertionError("read again")

    monkeypatch.setattr("gazekit.datasets.readers.osie.read_mat", read)
    with pytest.warns(PartialDataWarning, match="6 of 700 stimuli"):
        assert_same(load("osie", root=tiny_osie), fresh)


def test_the_simulated_set_has_a_cache_of_its_own(tmp_path, monkeypatch):
    """It is made, not read; a copy of its tables would only go stale."""
    monkeypatch.setattr(simulated, "_PHOTOGRAPHS", ("coins",))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a generated set is whole
        first, second = load("simulated"), load("simulated")
    assert_same(second, first)
    assert first.source == tmp_path / "cache" / "data" / "simulated"
    assert tables_kept() == []


def test_a_change_of_the_tables_in_memory_is_not_remembered(folder):
    data = get(folder)
    data.fixations["x_px"] = 0.0
    data.trials.loc[0, "subject"] = "other"
    assert_same(get(folder), get(folder, cache=False))


ALTERATIONS = {
    "touched": lambda folder: os.utime(folder / "data" / "eye.csv", ns=(1, 1)),
    "touched, not read": lambda folder: os.utime(folder / "note.txt", ns=(1, 1)),
    "longer": lambda folder: (folder / "data" / "eye.csv").write_text("1.5,2.5,3.5,4.5"),
    "added": lambda folder: (folder / "new.txt").write_text(""),
    "added, hidden": lambda folder: (folder / "data" / ".new").write_text(""),
    "removed": lambda folder: (folder / "data" / "other.bin").unlink(),
    "renamed": lambda folder: (folder / "data" / "other.bin").rename(folder / "data" / "another.bin"),
    "moved": lambda folder: (folder / "data" / "other.bin").rename(folder / "other.bin"),
}


@pytest.mark.parametrize("alteration", sorted(ALTERATIONS))
def test_any_change_of_any_file_is_noticed(folder, alteration):
    get(folder)
    ALTERATIONS[alteration](folder)
    found = get(folder)
    assert len(CALLS) == 2
    assert_same(found, get(folder, cache=False))


def test_a_file_with_as_many_other_bytes_is_noticed(folder):
    get(folder)
    path = folder / "data" / "eye.csv"
    n_bytes, modified_ns = path.stat().st_size, path.stat().st_mtime_ns
    path.write_text(path.read_text().replace("1.5", "2.5"))
    os.utime(path, ns=(modified_ns + 1, modified_ns + 1))
    assert path.stat().st_size == n_bytes
    assert get(folder).fixations["x_px"].iloc[0] == 2.5


@pytest.mark.parametrize("link", ["folder", "file", "whole"])
def test_a_change_behind_a_link_is_noticed(folder, tmp_path, link):
    """Releases lie on large disks, and a link stands for them, or for their largest folder."""
    real = {"folder": folder / "data", "file": folder / "data" / "eye.csv", "whole": folder}[link]
    moved = tmp_path / "large_disk"
    real.rename(moved)
    real.symlink_to(moved)
    assert get(folder).fixations["x_px"].iloc[0] == 1.5
    get(folder)
    assert len(CALLS) == 1
    (folder / "data" / "eye.csv").write_text("7.25,0.1,319.999999999999")
    assert get(folder).fixations["x_px"].iloc[0] == 7.25


@pytest.mark.parametrize("target", ["nowhere", "..", "data", "dangling"])
def test_a_link_that_leads_nowhere_or_round_is_harmless(folder, target):
    """A file that was on a disk that is not there, or a loop."""
    (folder / "data" / "dangling").symlink_to(target)
    assert len(get(folder).trials) == 4
    get(folder)
    assert len(CALLS) == 1


def test_another_card_another_version_another_place_are_noticed(folder, monkeypatch, tmp_path):
    get(folder)
    (folder / "card.yaml").write_text(
        yaml.safe_dump({**CONTENT, "split": {"by": "stimulus", "val": [], "test": ["a"]}})
    )
    assert get(folder).stimuli["split"].tolist() == ["test", "train", "train"]
    assert len(CALLS) == 2
    with monkeypatch.context() as during:
        during.setattr(loading, "__version__", "999")
        get(folder)
    assert len(CALLS) == 3
    copied = tmp_path / "copied"
    shutil.copytree(folder, copied, copy_function=shutil.copy2)
    assert get(copied).source == copied
    assert len(CALLS) == 4
    get(folder)
    assert len(CALLS) == 4


def test_another_card_for_the_same_files_is_noticed(folder, tmp_path):
    """The card lies elsewhere, so that no file of the release changes."""
    card = tmp_path / "mine.yaml"
    for n_expected in (0, 1):
        content = {**CONTENT, "split": {"by": "stimulus", "val": [], "test": ["a", "3"][:n_expected]}}
        card.write_text(yaml.safe_dump(content))
        data = get(card, root=folder)
        assert (data.stimuli["split"] == "test").sum() == n_expected


def test_options_are_part_of_what_is_remembered(folder):
    variants: list[dict[str, Any]] = [
        {}, {"scale": 0.5}, {"scale": 0.25}, {"first_fixation": "drop"}, {"drop": ("007",)}, {"drop": ("008", "007")},
    ]  # fmt: skip
    fresh = [get(folder, cache=False, **options) for options in variants]
    CALLS.clear()
    for _ in range(2):
        for options, expected in zip(variants, fresh, strict=True):
            assert_same(get(folder, **options), expected)
    assert [call["scale"] for call in CALLS] == [1.0, 0.5, 0.25, 1.0, 1.0, 1.0]
    assert len(tables_kept()) == len(variants)


def test_an_unknown_option_is_one_line_that_guesses(folder):
    refused(
        r"no option for dataset made_up named 'first_fixations'; did you mean 'first_fixation'\? "
        r"known: drop, first_fixation, scale$",
        folder,
        first_fixations="drop",
    )
    for internal in ("card", "folder"):
        with pytest.raises((InputError, TypeError)):
            get(folder, **{internal: 1})
    assert CALLS == []
    assert tables_kept() == []


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_bytes(b"not this"),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "without its end": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "gone": lambda path: path.unlink(),
    "null": lambda path: path.write_bytes(b"null"),
    "a number": lambda path: path.write_bytes(b"5"),
    "swapped": lambda path: path.write_bytes((path.parent / "stimuli.parquet").read_bytes()),
    "not UTF-8": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "deep": lambda path: path.write_bytes(b"[" * 200_000),
}


@pytest.mark.parametrize("damage", sorted(DAMAGE))
@pytest.mark.parametrize("file", ["trials.parquet", "objects.parquet", "about.json"])
def test_damaged_tables_are_remade_in_silence(folder, file, damage):
    fresh = get(folder)
    (kept,) = tables_kept()
    DAMAGE[damage](kept / file)
    assert_same(get(folder), fresh)
    assert len(CALLS) == 2
    # And they are whole again.
    assert_same(get(folder), fresh)
    assert len(CALLS) == 2
    assert tables_kept() == [kept]


class Remembered:
    """A release, its fresh tables, and the files they are remembered in."""

    def __init__(self, base: Path) -> None:
        self.folder, self.cache = base / "made_up", base / "cache"
        write_made_up(self.folder)
        with self.using():
            self.fresh = get(self.folder)
            (self.kept,) = tables_kept()
        self.whole = {path.name: path.read_bytes() for path in self.kept.iterdir()}

    def __repr__(self) -> str:
        return "Remembered()"

    def using(self) -> Any:
        during = pytest.MonkeyPatch()
        during.setenv("GAZEKIT_CACHE", str(self.cache))
        return contextlib.closing(_Undone(during))


class _Undone:
    def __init__(self, during: pytest.MonkeyPatch) -> None:
        self.close = during.undo


@pytest.fixture(scope="module")
def remembered(tmp_path_factory):
    return Remembered(tmp_path_factory.mktemp("flips"))


# Without shrinking: which of the bits it was says little.
@settings(max_examples=20, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(
    st.sampled_from(["fixations.parquet", "trials.parquet", "stimuli.parquet", "objects.parquet", "about.json"]),
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=3),
)
def test_flipped_bits_in_remembered_tables_never_show(remembered, file, flips):
    """A disk that errs, or a copy that broke off: the tables are the release's, or are read again."""
    remembered.kept.mkdir(exist_ok=True)
    for name, content in remembered.whole.items():
        (remembered.kept / name).write_bytes(content)
    damaged = bytearray(remembered.whole[file])
    for at, mask in flips:
        damaged[int(at * (len(damaged) - 1))] ^= mask
    (remembered.kept / file).write_bytes(damaged)
    with remembered.using():
        found = get(remembered.folder)
    assert_same(found, remembered.fresh)


@pytest.mark.parametrize("in_the_way", ["cache", "cache/tables"])
def test_a_cache_that_cannot_be_written_is_no_error(folder, tmp_path, in_the_way):
    (tmp_path / in_the_way).parent.mkdir(exist_ok=True)
    (tmp_path / in_the_way).write_bytes(b"in the way")
    fresh = get(folder, cache=False)
    for _ in range(2):
        assert_same(get(folder), fresh)
    assert len(CALLS) == 3
    assert (tmp_path / in_the_way).read_bytes() == b"in the way"


def test_a_full_disk_is_no_error_and_leaves_no_part(folder, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as during:
        during.setattr(pd.DataFrame, "to_parquet", full)
        data = get(folder)
    assert tables_kept() == []
    assert_same(get(folder), data)


def test_killed_while_writing_nothing_half_done_is_found(folder, monkeypatch):
    replace = Path.replace

    def killed(path, target):
        if path.is_dir():
            raise KeyboardInterrupt
        return replace(path, target)

    with monkeypatch.context() as during:
        during.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            get(folder)
    assert tables_kept() == []
    assert_same(get(folder), get(folder, cache=False))


def test_many_at_the_same_time(folder):
    fresh = get(folder, cache=False)
    faults: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(3):
                assert_same(get(folder), fresh)
        except BaseException as error:
            faults.append(error)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert faults == []
    assert len(tables_kept()) == 1
    assert not list(tables_kept()[0].parent.glob(".*"))


def test_what_was_refused_is_not_remembered(folder):
    get(folder)
    (folder / "data" / "eye.csv").write_text("1.5,nan")
    refused("made_up, fixations: row 1 has no finite position", folder)
    assert len(tables_kept()) == 1


# --- finding ---


def test_by_folder_by_card_and_by_name(folder, tmp_path, monkeypatch):
    expected = get(folder)
    assert expected.source == folder
    assert get(str(folder)).source == folder
    assert get(folder / "card.yaml").source == folder
    assert len(CALLS) == 1
    card = tmp_path / "elsewhere.yaml"
    card.write_text((folder / "card.yaml").read_text())
    for root in (folder, folder.parent):
        assert_same_tables_as(get(card, root=root), expected)
    monkeypatch.setenv("GAZEKIT_DATA", str(folder.parent))
    assert get(card).source == folder
    monkeypatch.chdir(folder.parent)
    assert len(get("made_up").trials) == 4  # a folder of that name with a card in it


def assert_same_tables_as(found: GazeDataset, expected: GazeDataset) -> None:
    assert found.fixations.equals(expected.fixations)
    assert found.trials.equals(expected.trials)


def test_the_cache_is_looked_into_after_gazekit_data(folder, tmp_path, monkeypatch):
    card = tmp_path / "elsewhere.yaml"
    card.write_text((folder / "card.yaml").read_text())
    shutil.copytree(folder, tmp_path / "cache" / "data" / "made_up")
    assert get(card).source == tmp_path / "cache" / "data" / "made_up"
    monkeypatch.setenv("GAZEKIT_DATA", str(folder.parent))
    assert get(card).source == folder
    monkeypatch.setenv("GAZEKIT_DATA", str(tmp_path / "nowhere"))
    assert get(card).source == tmp_path / "cache" / "data" / "made_up"


def test_a_missing_dataset_says_where_it_was_looked_for_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("GAZEKIT_DATA", str(tmp_path / "disk"))
    (tmp_path / "disk" / "osie" / "eye").mkdir(parents=True)
    needs = Card.read("osie").needs
    with pytest.raises(InputError) as caught:
        load("osie")
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith("dataset 'osie' is not here: looked in ")
    assert f"{tmp_path / 'disk' / 'osie'} (lacks {', '.join(needs)})" in message
    assert f"{tmp_path / 'cache' / 'data' / 'osie'} (no such folder)" in message
    assert "run 'gazekit data fetch osie', or set GAZEKIT_DATA" in message


def test_a_given_root_is_the_only_place(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("GAZEKIT_DATA", str(folder.parent))
    card = tmp_path / "elsewhere.yaml"
    card.write_text((folder / "card.yaml").read_text())
    refused(
        r"looked in .*nowhere/made_up \(no such folder\), .*nowhere \(no such folder\); run",
        card,
        root=tmp_path / "nowhere",
    )
    refused(r"\(lacks data/eye\.csv, note\.txt\)", card, root=tmp_path)


@pytest.mark.parametrize("lost", ["data/eye.csv", "note.txt"])
def test_a_copy_without_what_marks_one_is_none(folder, lost, tmp_path):
    card = tmp_path / "elsewhere.yaml"
    card.write_text((folder / "card.yaml").read_text())
    (folder / lost).unlink()
    refused(rf"\(lacks {lost}\)", card, root=folder)
    refused(rf"'made_up' is not here.*|lacks {lost}", folder)


def test_a_folder_without_a_card_is_one_line(tmp_path):
    refused(rf"^{tmp_path}: holds no card\.yaml; write one", tmp_path)


def test_a_name_that_nobody_knows_is_one_line():
    with pytest.raises(InputError, match=r"no dataset named 'osei'; did you mean 'osie'\?"):
        load("osei")
    with pytest.raises(InputError, match=r"nowhere/card\.yaml' does not exist"):
        load("nowhere/card.yaml")


def test_a_format_that_nobody_knows_is_one_line(folder):
    (folder / "card.yaml").write_text(yaml.safe_dump({**CONTENT, "format": "made_upp"}))
    refused(r"no dataset format named 'made_upp'; did you mean 'made_up'\?", folder)


@pytest.mark.parametrize(
    "broken",
    [{"nmae": 1}, {"title": None}, {"license": "CC0"}, {"expect": None}, {"expect": [1]}, {"images": "maybe"},
     {"needs": 5}, {"needs": [1]}, {"split": None}, {"split": {"by": "stimulus"}},
     {"split": {"by": "nothing", "val": [], "test": []}},
     {"screen": 5}, {"screen": {}}, {"screen": {"size_wh_px": [1]}}, {"expect": {"stimuli": "three"}}, {"name": 5},
     {"screen": {"size_wh_px": [320, 200], "measured_px_per_dva": "many"}}, {"files": 5, "needs": None}],
    ids=str,
)  # fmt: skip
def test_a_card_that_makes_no_sense_is_one_line(folder, broken):
    (folder / "card.yaml").write_text(yaml.safe_dump({**CONTENT, **broken}))
    refused(None, folder)


@pytest.mark.parametrize(
    "text", ["", "- a", "a: [", "a: 1\na: 2", "\0", "!!python/object/apply:os.getcwd []", "&a [*a]"]
)
def test_a_card_that_is_none_is_one_line(folder, text):
    (folder / "card.yaml").write_text(text)
    refused(r"card\.yaml", folder)


# --- counting ---


@pytest.mark.parametrize(
    ("expect", "match"),
    [({"stimuli": 5, "subjects": 2}, r"^made_up: 3 of 5 stimuli \(2 missing\) in "),
     ({"stimuli": 3, "subjects": 9}, "2 of 9 subjects"),
     ({"stimuli": 4, "subjects": 3}, r"3 of 4 stimuli .*2 of 3 subjects")],
)  # fmt: skip
@pytest.mark.parametrize("again", [False, True])
def test_a_part_warns_or_raises_as_asked(folder, expect, match, again):
    """Whether it was read or remembered."""
    (folder / "card.yaml").write_text(yaml.safe_dump({**CONTENT, "expect": expect}))
    if again:
        with pytest.warns(PartialDataWarning):
            get(folder)
    with pytest.warns(PartialDataWarning, match=match) as said:
        data = get(folder)
    assert len(said) == 1
    assert len(data.trials) == 4
    assert str(folder) in str(said[0].message)
    refused(rf"{match}.*; get it again .*, or load with strict=False$", folder, strict=True)


@pytest.mark.parametrize("expect", [{}, {"stimuli": 3, "subjects": 2}, {"stimuli": 2, "subjects": 1}])
@pytest.mark.parametrize("strict", [False, True])
def test_a_whole_copy_is_quiet(folder, expect, strict):
    (folder / "card.yaml").write_text(yaml.safe_dump({**CONTENT, "expect": expect}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            get(folder, strict=strict)


def test_the_warning_points_at_the_caller(tiny_osie):
    with pytest.warns(PartialDataWarning) as said:
        load("osie", root=tiny_osie)
    assert said[0].filename == __file__


def test_a_part_of_osie_is_said_to_be_one(tiny_osie):
    with pytest.warns(PartialDataWarning, match=r"osie: 6 of 700 stimuli .*3 of 15 subjects"):
        data = load("osie", root=tiny_osie)
    assert len(data.trials) == 18
    with pytest.raises(InputError, match=r"6 of 700 stimuli.*gazekit data fetch osie.*strict=False"):
        load("osie", root=tiny_osie, strict=True)


def test_a_change_of_osie_is_read(tmp_path):
    """A fixation moved in the authors' file is moved in the tables, with everything remembered before."""
    root = write_release(tmp_path / "data", n_images=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        before = load("osie", root=root)
        path = root / "osie" / "eye" / "fixations.mat"
        cells = loadmat(path)["fixations"]
        cells[0, 0][0, 0]["subjects"][0, 0][0, 0]["fix_x"][0, 0] = 123.25
        savemat(path, {"fixations": cells})
        after = load("osie", root=root)
    assert before.fixations["x_px"].iloc[0] != 123.25
    assert after.fixations["x_px"].iloc[0] == 123.25
    assert after.fingerprint() != before.fingerprint()


def test_images_are_found_from_any_folder(tmp_path, monkeypatch):
    """A relative root is remembered as where it was, not as where the user is later."""
    write_release(tmp_path / "data", n_images=2, n_subjects=2)
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        assert all(Path(path).is_file() for path in load("osie", root="data").stimuli["path"])
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        data = load("osie", root=tmp_path / "data")
        assert all(Path(path).is_file() for path in data.stimuli["path"])
        data.to_parquet("kept")
        monkeypatch.chdir(tmp_path)
        assert all(Path(path).is_file() for path in load("elsewhere/kept").stimuli["path"])


def test_a_folder_is_found_by_its_bare_name_in_the_data_folder(tmp_path, monkeypatch):
    from gazekit.datasets import Card

    write_release(tmp_path / "data", n_images=2, n_subjects=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        load("osie", root=tmp_path / "data").to_parquet(tmp_path / "data" / "mylab")
        monkeypatch.setenv("GAZEKIT_DATA", str(tmp_path / "data"))
        assert len(load("mylab").stimuli) == 2
    assert Card.read("mylab").path == tmp_path / "data" / "mylab" / "card.yaml"
    with pytest.raises(InputError, match=r"or of a folder with a card\.yaml"):
        load("nobody")
    (tmp_path / "bare").mkdir()
    with pytest.raises(InputError, match=r"bare: holds no card\.yaml"):
        load(tmp_path / "bare")
