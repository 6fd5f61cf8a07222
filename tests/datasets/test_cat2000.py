"""CAT2000: a miniature in MATLAB's own bytes, both versions, both sources, every kind of damage."""

import struct
import sys
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat, savemat

from gazekit import InputError
from gazekit.datasets import Card, PartialDataWarning, load, matlab, reading
from gazekit.datasets.readers import cat2000
from tests.conftest import REAL_DATA

needs_cat2000 = pytest.mark.skipif(
    not (REAL_DATA / "cat2000").is_dir(), reason="CAT2000 is not on this machine; set GAZEKIT_DATA to test with it"
)


def element(kind, content):
    return struct.pack("<II", kind, len(content)) + content + b"\0" * (-len(content) % 8)


def int8(text):
    return element(1, text.encode("ascii"))


def matrix(value, name=""):
    """The bytes of a MATLAB array: of numbers, text (str), a cell array (list of rows) or a struct (dict)."""
    if value is None:
        return element(14, b"")  # MATLAB's short form of []
    if isinstance(value, dict):
        names = b"".join(key.encode().ljust(16, b"\0") for key in value)
        body = element(5, struct.pack("<i", 16)) + element(1, names) + b"".join(map(matrix, value.values()))
        kind, dims = 2, (1, 1)
    elif isinstance(value, list):
        kind, dims = 1, (len(value), len(value[0]) if value else 0)
        body = b"".join(matrix(row[i]) for i in range(dims[1]) for row in value)
    elif isinstance(value, str):
        kind, dims, body = 4, (1, len(value)), element(16, value.encode())
    else:
        array = np.atleast_2d(value)
        types = {"f8": (6, 9), "u1": (9, 2), "i4": (12, 5), "u4": (13, 6)}
        kind, stored = types[array.dtype.str[1:]]
        dims, body = array.shape, element(stored, array.tobytes(order="F"))
    flags = element(6, struct.pack("<II", kind, 0))
    return element(14, flags + element(5, struct.pack(f"<{len(dims)}i", *dims)) + int8(name) + body)


def opaque(name, classname, content):
    """An object: no dimensions, but the name of its class system and of its class."""
    flags = element(6, struct.pack("<II", 17, 0))
    return element(14, flags + int8(name) + int8("MCOS") + int8(classname) + matrix(content))


def names_and_offsets():
    """The table that says which property of which object is where, for one containers.Map as MATLAB writes it."""
    names = b"serialization\0Map\0containers\0".ljust(32, b"\0")
    regions = [
        [0, 0, 0, 0, 3, 2, 0, 0],  # classes: namespace, name
        [],
        [0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 1],  # objects: class, ..., block of properties
        [0, 0, 1, 1, 1, 0],  # blocks: number of properties; name, kind, cell
        [0, 0, 0, 0],
        [],
        [0, 0],
    ]
    packed = [struct.pack(f"<{len(region)}i", *region) for region in regions]
    offsets = np.cumsum([40 + len(names), *map(len, packed)])
    content = struct.pack("<ii8i", 4, 3, *offsets) + names + b"".join(packed)
    return np.frombuffer(content, np.uint8)[:, None]


def container_map(content, name="allData"):
    """A MATLAB v7 file (compressed) with one ``containers.Map``: key -> value."""
    serialization = {
        "keys": [list(content)],
        "values": [list(content.values())],
        "uniformity": np.uint8(0),
        "keyType": "char",
        "valueType": "any",
    }
    empty = np.zeros((0, 0))
    cells = [[names_and_offsets()], [None], [serialization], [[[empty], [empty]]], [np.int32([[0], [0]])]]
    cells.append([[[empty], [empty]]])
    wrapper = opaque("", "FileWrapper__", cells)
    properties = element(
        14,
        element(6, struct.pack("<II", 2, 0))
        + element(5, struct.pack("<2i", 1, 1))
        + int8("")
        + element(5, struct.pack("<i", 5))
        + element(1, b"MCOS\0")
        + wrapper,
    )
    stream = np.frombuffer(b"\0\1IM" + b"\0" * 4 + properties, np.uint8)[None]
    variable = zlib.compress(opaque(name, "containers.Map", np.uint32([[0xDD000000], [2], [1], [1], [1], [1]])))
    nested = zlib.compress(matrix(stream))
    at_nested = 128 + 8 + len(variable)
    header = b"MATLAB 5.0 MAT-file, made up by a test".ljust(116) + struct.pack("<Q", at_nested) + b"\0\1IM"
    return header + b"".join(struct.pack("<II", 15, len(part)) + part for part in (variable, nested))


NAN = float("nan")
# Every oddity of the release once: positions from 1 to 1920, repeated samples, blinks, an empty recording.
RECORDINGS = {
    "Action/001.jpg": {
        "24-53-ak.eye": [[960.5, 540.25, 1], [960.5, 540.25, 2], [1, 1, 3], [1920, 1080, 4], [960.5, 540.25, 5]],
        "24-54-bo.eye": [[0.5, 300, 1], [1920.5, 300, 2], [700, 1081, 3], [NAN, 300, 4], [-5000, 12, 5], [31, 32, 6]],
    },
    "Action/002.jpg": {"1-2-ak.eye": [[100, 200], [100, 200], [100, 200], [300, 200]], "1-3-cy.eye": []},
    "LowResolution/011.jpg": {"7-9-bo.eye": [[10, 20, NAN], [10, 20, 0], [40, 20, 0]]},
}
FIXATED = {"Action/001": [(959, 539), (0, 0), (1919, 1079)], "Action/002": [(99, 199)], "LowResolution/011": [(9, 19)]}


def records(recordings):
    return [
        [{"name": name, "data": np.array(rows, float) if rows else np.zeros((0, 0))}]
        for name, rows in recordings.items()
    ]


def all_fix_data(recordings=None):
    return container_map({key: records(value) for key, value in (recordings or RECORDINGS).items()})


def write_release(folder):
    """A made-up train set of three images in two categories, with a stray Output folder."""
    release = folder / "trainSet"
    for key in RECORDINGS:
        path = release / "Stimuli" / key
        (path.parent / "Output").mkdir(parents=True, exist_ok=True)
        Image.new("L", (1920, 1080), 126).save(path)
        Image.new("L", (30, 20)).save(path.parent / "Output" / f"{path.stem}_SaliencyMap.jpg")
        fixated = np.zeros((1080, 1920), np.uint8)
        for x, y in FIXATED[key.removesuffix(".jpg")]:
            fixated[y, x] = 1
        locations = (release / "FIXATIONLOCS" / key).with_suffix(".mat")
        locations.parent.mkdir(parents=True, exist_ok=True)
        savemat(locations, {"fixLocs": fixated}, do_compression=True)
    (release / "allFixData.mat").write_bytes(all_fix_data())


@pytest.fixture
def release(tmp_path):
    write_release(tmp_path / "cat2000")
    return tmp_path / "cat2000"


def load_tiny(folder, **options):
    with pytest.warns(PartialDataWarning, match="of 2000 stimuli"):
        return load("cat2000", root=folder, **options)


def paths_of(data):
    """(stimulus, subject) -> rows of x and y, of the trials with a fixation."""
    return {
        key: part[["x_px", "y_px"]].to_numpy().tolist()
        for key, part in data.fixations.groupby(["stimulus", "subject"], sort=False)
    }


def test_version_1_1_subtracts_drops_and_deduplicates(release):
    data = load_tiny(release)
    assert paths_of(data) == {
        ("Action_001", "ak"): [[959.5, 539.25], [0, 0], [1919, 1079], [959.5, 539.25]],
        # 1920.5 is inside once 1 is subtracted.
        ("Action_001", "bo"): [[1919.5, 299], [30, 31]],
        ("Action_002", "ak"): [[99, 199], [299, 199]],
        # A value that is not a number in any column marks the sample as invalid.
        ("LowResolution_011", "bo"): [[9, 19], [39, 19]],
    }
    assert data.changes == (
        "1 was subtracted from x and y, which the release counts from 1.",
        "3 fixations outside the image were dropped, as in pysaliency.",
        "2 fixations with a value that is not a number were dropped, as in pysaliency.",
        "3 fixations at the position of the one before were dropped, as in pysaliency's 1.1.",
    )
    # The empty recording is a trial without fixations.
    assert data.trials["subject"].tolist() == ["ak", "bo", "ak", "cy", "bo"]
    assert data.trials["stimulus"].tolist()[2:4] == ["Action_002", "Action_002"]
    assert data.fixations[["t_s", "duration_s"]].isna().all(axis=None)
    stimuli = data.stimuli.set_index("stimulus")
    assert stimuli["category"].to_dict() == {
        "Action_001": "Action", "Action_002": "Action", "LowResolution_011": "LowResolution",
    }  # fmt: skip
    assert set(stimuli["width_px"]) == {1920}
    assert stimuli.loc["Action_001", "path"].endswith("Action/001.jpg")


def test_a_repeat_counts_across_a_dropped_sample(tmp_path):
    """pysaliency compares with the last sample it kept, so a blink between two equal ones does not part them."""
    write_release(tmp_path)
    rows = [[5, 6], [NAN, NAN], [5, 6], [-1, 6], [5, 6], [5, 7]]
    (tmp_path / "trainSet/allFixData.mat").write_bytes(all_fix_data({"Action/001.jpg": {"1-1-ak.eye": rows}}))
    data = load_tiny(tmp_path)
    assert paths_of(data) == {("Action_001", "ak"): [[4, 5], [4, 6]]}
    assert "2 images without eye movements were left out." in data.changes


def test_version_1_keeps_what_is_inside_as_released(release):
    data = load_tiny(release, version="1")
    assert paths_of(data) == {
        # 1920 and 1080 are outside an image whose pixels count from 0.
        ("Action_001", "ak"): [[960.5, 540.25], [960.5, 540.25], [1, 1], [960.5, 540.25]],
        ("Action_001", "bo"): [[0.5, 300], [31, 32]],
        ("Action_002", "ak"): [[100, 200], [100, 200], [100, 200], [300, 200]],
        ("LowResolution_011", "bo"): [[10, 20], [40, 20]],
    }
    assert [change.split(" fixations")[0] for change in data.changes] == ["4", "2"]


def test_locations_are_pooled_pixels_in_raster_order(release):
    (release / "trainSet" / "allFixData.mat").unlink()  # not needed for these
    data = load_tiny(release, source="locations")
    assert paths_of(data) == {
        ("Action_001", "all"): [[0, 0], [959, 539], [1919, 1079]],
        ("Action_002", "all"): [[99, 199]],
        ("LowResolution_011", "all"): [[9, 19]],
    }
    assert "all subjects together" in data.changes[0]
    assert "raster order" in data.changes[0]
    assert data.stimuli["category"].tolist() == ["Action", "Action", "LowResolution"]


def refused(folder, match, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        with pytest.raises(InputError, match=match) as caught:
            load("cat2000", root=folder, **options)
    assert "\n" not in str(caught.value)


def test_unknown_options(release):
    refused(release, "no version of CAT2000 named '2'.*known: 1, 1.1", version="2")
    refused(release, "no source of CAT2000 named 'maps'.*known: locations, scanpaths", source="maps")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"Action/001.jpg": records({"24-ak.eye": [[1, 2]]})}, "recording 1: named '24-ak.eye', expected three parts"),
        ({"Action/001.jpg": records({"1-2-.eye": [[1, 2]]})}, "named '1-2-.eye', expected three parts"),
        ({"Action/001.jpg": [[{"name": "1-2-ak.eye", "data": np.ones((3, 1))}]]}, "data are not rows of x and y"),
        ({"Action/001.jpg": [[{"name": "1-2-ak.eye", "data": np.ones((3, 2, 2))}]]}, "data are not rows of x and y"),
        ({"Action/001.jpg": [[{"name": "1-2-ak.eye", "data": "text"}]]}, "data are not rows of x and y"),
        ({"Action/001.jpg": [[{"name": 5.0, "data": np.ones((3, 2))}]]}, "lacks its name or data"),
        ({"Action/001.jpg": [[{"data": np.ones((3, 2))}]]}, "no field of name name"),
        ({"Action/001.jpg": np.ones((3, 2))}, "a recording is not one struct"),
        ({"../../001.jpg": records({"1-2-ak.eye": [[1, 2]]})}, "0 maps from images"),
        ({"/etc/001.jpg": records({"1-2-ak.eye": [[1, 2]]})}, "0 maps from images"),
        ({"Action/001.png": records({"1-2-ak.eye": [[1, 2]]})}, "0 maps from images"),
        ({}, "0 maps from images"),
        ({"Action/004.jpg": records({"1-2-ak.eye": [[1, 2]]})}, r"004\.jpg: image missing \(1 of 1 are\)"),
    ],
)
def test_a_map_of_something_else(release, content, match):
    (release / "trainSet" / "allFixData.mat").write_bytes(container_map(content))
    refused(release, f"{match}.*gazekit data fetch cat2000")


def test_files_that_are_not_the_authors(release):
    path = release / "trainSet" / "allFixData.mat"
    whole = path.read_bytes()
    for content in (
        b"",
        whole[:100],
        whole[:200],
        whole[:-1],
        whole[: len(whole) // 2],
        "MATLAB".encode("utf-16") * 50,
    ):
        path.write_bytes(content)
        refused(release, "allFixData.mat: not the authors' file")
    path.write_bytes(container_map({"Action/001.jpg": []}, name="other"))
    refused(release, "no containers.Map named 'allData'")
    savemat(path, {"allData": np.eye(3)})
    refused(release, "no containers.Map named 'allData'")
    path.unlink()
    refused(release, "allFixData.mat: cannot be read")


def test_locations_that_are_none(release):
    path = release / "trainSet" / "FIXATIONLOCS" / "Action" / "002.mat"
    for variables, match in (
        ({"fixLocs": np.zeros((1920, 1080))}, "a matrix of 1080x1920"),
        ({"fixLocs": np.full((1080, 1920), np.nan)}, "NaN in the map"),
        ({"fixLocs": "text"}, "no matrix of numbers"),
        ({"other": np.zeros((1080, 1920))}, "no matrix of numbers"),
    ):
        savemat(path, variables, do_compression=True)
        refused(release, rf"002\.mat: not the authors' file \({match}\)", source="locations")
    path.write_bytes(path.read_bytes()[:-3])
    refused(release, "truncated", source="locations")
    for file in (release / "trainSet" / "FIXATIONLOCS").glob("*/*.mat"):
        file.unlink()
    refused(release, "FIXATIONLOCS: holds no trial", source="locations")


def test_image_of_another_size(release):
    Image.new("L", (1080, 1920)).save(release / "trainSet" / "Stimuli" / "Action" / "002.jpg")
    refused(release, r"002\.jpg: image is 1080x1920 px, expected 1920x1080")


def flattened(content):
    """The same file without compression, so that damage meets no checksum."""
    parts, at = [], 128
    while at < len(content):
        n = struct.unpack_from("<I", content, at + 4)[0]
        parts.append(zlib.decompress(content[at + 8 : at + 8 + n]))
        at += 8 + n
    return content[:116] + struct.pack("<Q", 128 + len(parts[0])) + content[124:128] + b"".join(parts)


def test_no_damaged_byte_ends_in_another_error(tmp_path):
    """SciPy and mat-io end the interpreter on some of these."""
    card = Card.read("cat2000")
    path = tmp_path / "allFixData.mat"
    whole = flattened(all_fix_data())
    path.write_bytes(whole)
    assert set(cat2000._released(path, card)) == set(RECORDINGS)
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(600):
        damaged = bytearray(whole)
        for at in rng.integers(100, len(whole), rng.integers(1, 4)):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            cat2000._released(path, card)
            outcomes.add("read")
        except InputError as error:
            outcomes.add("refused" if "\n" not in str(error) else str(error))
    assert outcomes == {"read", "refused"}


def test_bombs_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "bomb.mat"
    packed = zlib.compress(matrix(np.zeros((1000, 100))))
    path.write_bytes(b" " * 124 + b"\0\1IM" + struct.pack("<II", 15, len(packed)) + packed)
    card = Card.read("cat2000")
    assert reading.read_mat(path, card, "")[""].shape == (1000, 100)
    monkeypatch.setattr(matlab, "_LARGEST_UNPACKED_BYTES", 10**5)
    with pytest.raises(InputError, match="unpacks to more than 100000 bytes"):
        reading.read_mat(path, card, "")
    # No memory is asked for on the word of a damaged dimension.
    for kind in (1, 2):
        claim = (
            element(6, struct.pack("<II", kind, 0)) + element(5, struct.pack("<2i", 2**31 - 1, 2**31 - 1)) + int8("a")
        )
        path.write_bytes(b" " * 124 + b"\0\1IM" + element(14, claim + element(5, b"\1\0\0\0") + int8("")))
        with pytest.raises(InputError, match=r"4611686014132420609 (matrices|structs) in "):
            reading.read_mat(path, card, "")
    deep = np.zeros((1, 1))
    for _ in range(40):
        deep = [[deep]]
    path.write_bytes(b" " * 124 + b"\0\1IM" + matrix(deep))
    with pytest.raises(InputError, match="nested deeper than 32"):
        reading.read_mat(path, card, "")


def assert_same(ours, scipys):
    assert ours.shape == scipys.shape
    assert ours.dtype == scipys.dtype
    for field in scipys.dtype.names or [None]:
        a, b = (ours, scipys) if field is None else (ours[field], scipys[field])
        if a.dtype == object:
            for x, y in zip(a.ravel(), b.ravel(), strict=True):
                assert_same(x, y)
        else:
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("do_compression", [False, True])
def test_values_are_those_of_scipy(tmp_path, do_compression):
    """SciPy is the oracle for files that are whole."""
    cells = np.empty((2, 3), object)
    cells.ravel()[:] = [np.arange(i) for i in range(6)]
    structs = np.empty((2, 2), [("a", object), ("bb", object)])
    structs.ravel()[:] = [(f"name{i}", np.eye(i + 1)) for i in range(4)]
    variables = {
        "ramp": np.arange(12.0).reshape(3, 4), "small": np.arange(6, dtype=np.int16).reshape(2, 3), "one": 3,
        "cube": np.arange(24, dtype=np.float32).reshape(2, 3, 4), "complex": np.array([[1 + 2j, 3]]),
        "yes": np.array([[True, False]]), "text": "hello", "umlaut": "Grüße", "rows": np.array(["ab", "cde"]),
        "nothing": np.zeros((0, 0)), "no_text": "", "cells": cells, "structs": structs,
        "nested": {"img": "1001.jpg", "subjects": [{"x": 1.5}, {"x": 2}]},
    }  # fmt: skip
    path = tmp_path / "a.mat"
    savemat(path, variables, do_compression=do_compression)
    ours, scipys = reading.read_mat(path, Card.read("cat2000"), ""), loadmat(path)
    assert set(ours) == set(variables)
    for name in variables:
        assert_same(ours[name], scipys[name])


def test_the_miniature_is_a_true_containers_map(release):
    """mat-io, which reads the authors' file, finds the same in ours."""
    matio = pytest.importorskip("matio")
    path = release / "trainSet" / "allFixData.mat"
    theirs = matio.load_from_mat(path)["allData"]
    ours = cat2000._released(path, Card.read("cat2000"))
    assert list(theirs) == list(ours) == list(RECORDINGS)
    for key, cells in theirs.items():
        for cell, (name, data) in zip(cells.ravel(), ours[key], strict=True):
            assert cell["name"].item().item() == name
            np.testing.assert_array_equal(cell["data"].item(), data)


def save_as_7_3(release):
    matio = pytest.importorskip("matio")
    path = release / "trainSet" / "allFixData.mat"
    content = matio.load_from_mat(path)
    path.unlink()
    matio.save_to_mat(path, content, version="v7.3")
    return path


def test_a_copy_saved_as_matlab_7_3_reads_the_same(release, monkeypatch):
    before = load_tiny(release, cache=False)
    path = save_as_7_3(release)
    after = load_tiny(release, cache=False)
    assert paths_of(after) == paths_of(before)
    assert after.changes == before.changes
    path.write_bytes(path.read_bytes()[:3000])
    refused(release, "allFixData.mat: not the authors' file")


def test_matlab_7_3_without_mat_io_says_what_to_install(release, monkeypatch):
    path = release / "trainSet" / "allFixData.mat"
    path.write_bytes(path.read_bytes()[:124] + b"\0\2IM" + b"\0" * 400)
    monkeypatch.setitem(sys.modules, "matio", None)
    refused(release, r'saved as MATLAB 7.3, which needs another package; pip install "gazekit\[cat2000\]"')


def test_links_into_other_files_are_not_followed(release, tmp_path):
    path = save_as_7_3(release)
    import h5py

    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["secret"] = np.eye(2)
    with h5py.File(path, "a") as file:
        file["out"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "secret")
    refused(release, "a link at out")
    with h5py.File(path, "a") as file:
        del file["out"]
        (tmp_path / "raw").write_bytes(bytes(32))
        file.create_dataset("out", (2, 2), "f8", external=[(str(tmp_path / "raw"), 0, 32)])
    refused(release, "data of another file at out")


@needs_cat2000
@pytest.mark.parametrize(
    ("version", "n", "mean_xy", "sd_xy", "n_first"),
    [
        ("1", 672053, (977.9570036886972, 536.8014098590438), (265.521305397389, 200.3874894751514), 307),
        ("1.1", 667804, (977.048229720098, 535.7335899455527), (265.7561897117776, 200.47021508760227), 304),
    ],
)
def test_counts_and_moments_of_pysaliency(version, n, mean_xy, sd_xy, n_first):
    """Numbers of pysaliency's own tests, for whole copies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        data = load("cat2000", root=REAL_DATA, version=version)
    if len(data.stimuli) != 2000:
        pytest.skip(f"this copy holds {len(data.stimuli)} images, the numbers are those of 2000")
    xy = data.fixations[["x_px", "y_px"]]
    assert len(xy) == n
    # Summation order alone may differ.
    assert xy.mean().tolist() == pytest.approx(mean_xy, rel=1e-9)
    assert xy.std(ddof=0).tolist() == pytest.approx(sd_xy, rel=1e-9)
    assert (data.fixations["stimulus"] == "Action_001").sum() == n_first
