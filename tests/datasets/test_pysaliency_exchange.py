"""pysaliency: objects of the release and of the development version, and the HDF5 files of both."""

import importlib
import json
import random
import sys
import warnings
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gazekit import InputError
from gazekit.datasets import pysaliency_exchange
from gazekit.datasets.from_frame import from_dataframe
from gazekit.datasets.pysaliency_exchange import from_pysaliency, read_pysaliency_hdf5, to_pysaliency

SIZES = {"bus": (41, 30), "car": (50, 21), "Straße": (31, 47)}
COLUMNS = ["subject", "stimulus", "trial", "x_px", "y_px", "t_s", "duration_s", "pupil"]


def import_pysaliency():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module("pysaliency")
        except ImportError as error:
            pytest.skip(f"pysaliency is not installed ({error}); `make oracle` builds it")


@pytest.fixture
def data(tmp_path):
    """Three subjects on three stimuli; known and unknown times, one trial without a fixation, one repeated."""
    folder = tmp_path / "stimuli"
    folder.mkdir()
    for name, size in SIZES.items():
        Image.new("RGB", size).save(folder / f"{name}.png")
    rng = np.random.default_rng(3)
    rows, trials = [], []
    for subject in ("zoë", "anna", "007"):
        for stimulus in ("car", "bus", "Straße", "car"):
            trial = 100 + 7 * len(trials)
            present = [True, False, None][len(trials) % 3]
            trials.append((trial, subject, stimulus, f"task{len(trials) % 2}", present, len(trials) * 0.5))
            n = len(trials) % 4
            rows += [
                (subject, stimulus, trial, rng.random() * 20, rng.random() * 20, t, rng.random(), rng.random())
                for t in np.cumsum(rng.random(n))
            ]
    fixations = pd.DataFrame(rows, columns=COLUMNS)
    fixations.loc[3, ["t_s", "duration_s"]] = np.nan
    columns = ["trial", "subject", "stimulus", "task", "target_present", "response_time_s"]
    table = pd.DataFrame(trials, columns=columns)
    stimuli = pd.DataFrame({"stimulus": list(SIZES), "category": ["a", "b", "ä"], "luminance": [0.1, np.nan, 0.3]})
    return from_dataframe(fixations, name="toy", trials=table, stimuli=stimuli, images=folder)


def same(data, again, known=("fixations", "trials", "stimuli")):
    for name in known:
        # pysaliency sorts attributes by name where it writes them to a file.
        pd.testing.assert_frame_equal(getattr(again, name), getattr(data, name), check_exact=True, check_like=True)


def refused(match, call, *arguments, **options):
    with pytest.raises(InputError, match=match) as caught:
        call(*arguments, **({"name": "toy"} | options))
    assert "\n" not in str(caught.value)


# The development version, as far as it can be told apart from the outside: the attributes and what they hold.


class VariableLengthArray:
    def __init__(self, rows):
        self.lengths = np.array([len(row) for row in rows])
        self._data = np.full((len(rows), max(self.lengths)), np.nan)
        for i, row in enumerate(rows):
            self._data[i, : len(row)] = row

    def __len__(self):
        return len(self._data)

    def __getitem__(self, index):
        assert isinstance(index, int)
        return self._data[index, : self.lengths[index]]


class Scanpaths:
    def __init__(self, xs, ys, n, scanpath_attributes, fixation_attributes, attribute_mapping, *, ts, subject):
        self.xs, self.ys = VariableLengthArray(xs), VariableLengthArray(ys)
        self.n, self.length = np.asarray(n), self.xs.lengths.copy()
        self.scanpath_attributes = {k: np.array(v) for k, v in {**scanpath_attributes, "subject": subject}.items()}
        self.fixation_attributes = {k: VariableLengthArray(v) for k, v in {**fixation_attributes, "ts": ts}.items()}
        self.attribute_mapping = dict(attribute_mapping)
        for values in self.fixation_attributes.values():
            assert (values.lengths == self.length).all()

    ts = property(lambda self: self.fixation_attributes["ts"])
    subject = property(lambda self: self.scanpath_attributes["subject"])

    def __len__(self):
        return len(self.xs)


class ScanpathFixations:
    """Also has one value per fixation under short names, which must not be mistaken for the scanpaths'."""

    def __init__(self, scanpaths):
        self.scanpaths = scanpaths
        self.x = np.concatenate([scanpaths.xs[i] for i in range(len(scanpaths))])
        self.n = np.repeat(scanpaths.n, scanpaths.length)
        self.subject = np.repeat(scanpaths.subject, scanpaths.length)
        self.x_hist = None


class FileStimuli:
    def __init__(self, filenames, shapes, attributes=None):
        self.filenames, self.shapes, self.attributes = filenames, shapes, attributes or {}
        self.sizes = [shape[:2] for shape in self.shapes]

    def __len__(self):
        return len(self.filenames)


@pytest.fixture
def development(monkeypatch):
    module = SimpleNamespace(
        FileStimuli=FileStimuli,
        datasets=SimpleNamespace(Scanpaths=Scanpaths, ScanpathFixations=ScanpathFixations),
    )
    monkeypatch.setattr(pysaliency_exchange, "_import_pysaliency", lambda: module)


def test_the_release_and_back(data):
    pysaliency = import_pysaliency()
    stimuli, trains = to_pysaliency(data)
    assert isinstance(trains, pysaliency.FixationTrains)
    assert isinstance(stimuli, pysaliency.FileStimuli)
    assert trains.train_ns.tolist() == [1, 0, 2, 1] * 3
    # Numbers in the order of the names: 007, anna, zoë.
    assert trains.train_subjects.tolist() == [2] * 4 + [1] * 4 + [0] * 4
    assert list(stimuli.sizes) == [(height, width) for width, height in SIZES.values()]
    assert trains.scanpath_attribute_mapping == {"durations": "duration"}
    first = data.fixations.iloc[0]
    assert (trains.x[0], trains.y[0], trains.t[0]) == (first["x_px"], first["y_px"], first["t_s"])
    assert (trains.duration[0], trains.pupil[0]) == (first["duration_s"], first["pupil"])
    same(data, from_pysaliency(stimuli, trains, name="toy"))
    # The other way round, through gazekit.
    again_stimuli, again = to_pysaliency(from_pysaliency(stimuli, trains, name="toy"))
    assert again_stimuli.filenames == stimuli.filenames
    for attribute in ("train_xs", "train_ys", "train_ts", "train_ns", "train_subjects", "duration", "task"):
        np.testing.assert_array_equal(getattr(again, attribute), getattr(trains, attribute))


def test_a_model_of_the_release_can_score_what_it_gets(data):
    pysaliency = import_pysaliency()
    stimuli, trains = to_pysaliency(data)
    inside = (trains.x < 31) & (trains.y < 21)
    score = pysaliency.UniformModel().log_likelihoods(stimuli, trains[inside])
    sizes = data.stimuli.set_index("stimulus")
    area = (sizes["width_px"] * sizes["height_px"]).to_numpy()[trains.n[inside]]
    np.testing.assert_allclose(score, -np.log(area), rtol=1e-12)


def test_scanpaths_made_by_the_release_itself(tmp_path):
    pysaliency = import_pysaliency()
    stimuli = pysaliency.Stimuli([np.zeros((20, 30, 3), np.uint8), np.zeros((7, 9), np.uint8)])
    trains = pysaliency.FixationTrains.from_fixation_trains(
        [[1.0, 2.0], [3.0]], [[4.0, 5.0], [6.0]], [[0, 1], [0]], [1, 0], [5, 5], scanpath_attributes={"split": [1, 2]}
    )
    data = from_pysaliency(stimuli, trains, name="toy", times="index")
    assert data.fixations["stimulus"].tolist() == ["1", "1", "0"]
    assert data.fixations["subject"].tolist() == ["5", "5", "5"]
    assert data.fixations[["t_s", "duration_s"]].isna().all(axis=None)
    assert data.stimuli[["path", "width_px", "height_px"]].to_numpy().tolist() == [["", 30, 20], ["", 9, 7]]
    assert data.trials["released_split"].tolist() == [1, 2]
    assert data.changes == ("The times in the source count fixations and are not used; t_s is NaN.",)
    refused("needs the image of each stimulus, 2 of 2 are not here", lambda name: to_pysaliency(data))
    fixations = trains[np.array([0, 2])]
    refused("Fixations: holds single fixations and not where a trial begins", from_pysaliency, stimuli, fixations)


def test_the_development_version_and_back(data, development):
    stimuli, fixations = to_pysaliency(data)
    assert isinstance(fixations, ScanpathFixations)
    assert fixations.scanpaths.scanpath_attributes["subject_name"].tolist()[:5] == ["zoë"] * 4 + ["anna"]
    assert fixations.scanpaths.attribute_mapping == {"durations": "duration"}
    same(data, from_pysaliency(stimuli, fixations, name="toy"))
    same(data, from_pysaliency(stimuli, fixations.scanpaths, name="toy"))


def test_boxes_become_columns(data, development):
    stimuli, fixations = to_pysaliency(data)
    boxes = np.arange(48).reshape(12, 4)
    fixations.scanpaths.scanpath_attributes["bbox"] = boxes
    stimuli.attributes["mean_rgb"] = np.arange(9).reshape(3, 3)
    again = from_pysaliency(stimuli, fixations, name="toy")
    assert again.trials[["bbox_0", "bbox_1", "bbox_2", "bbox_3"]].to_numpy().tolist() == boxes.tolist()
    assert again.stimuli["mean_rgb_2"].tolist() == [2, 5, 8]
    for wrong in (boxes[:5], np.zeros((12, 2, 2)), [{}] * 12, np.array(["2001-01-01"] * 12, dtype="M8[D]")):
        fixations.scanpaths.scanpath_attributes["bbox"] = wrong
        refused("bbox.* (has the shape|holds)", from_pysaliency, stimuli, fixations)


def test_times_and_durations_in_other_units(data, development):
    stimuli, scanpaths = to_pysaliency(data, times="ms")
    np.testing.assert_allclose(scanpaths.scanpaths.ts[0], data.fixations["t_s"][:1] * 1000, rtol=1e-15)
    again = from_pysaliency(stimuli, scanpaths, name="toy", times="ms")
    # One rounding in each direction.
    np.testing.assert_allclose(again.fixations["t_s"], data.fixations["t_s"], rtol=3e-16)
    indices = to_pysaliency(data, times="index")[1].scanpaths.ts
    assert indices[2].tolist() == [0, 1, 2]
    slow = data.fixations.assign(duration_s=data.fixations["duration_s"] * 1000)
    wrong = to_pysaliency(from_dataframe(slow.drop(columns="fixation"), name="toy", stimuli=data.stimuli, images=None,
                                         units={"duration_s": "s"}))  # fmt: skip
    refused("duration_s looks like milliseconds.*durations='ms'", from_pysaliency, *wrong)
    right = from_pysaliency(*wrong, name="toy", durations="ms")
    np.testing.assert_allclose(right.fixations["duration_s"], data.fixations["duration_s"], rtol=3e-16)
    for arguments in ({"times": "s"}, {"durations": "index"}):
        refused("expected 'seconds'", from_pysaliency, stimuli, scanpaths, **arguments)
    refused("times is 's'", lambda name: to_pysaliency(data, times="s"))


def test_names_of_stimuli_without_names(data, development, tmp_path):
    stimuli, scanpaths = to_pysaliency(data)
    stimuli.attributes = {}
    assert from_pysaliency(stimuli, scanpaths, name="toy").stimuli["stimulus"].tolist() == list(SIZES)
    for folder in ("Art", "Action"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (9, 8)).save(tmp_path / folder / "001.jpg")
    stimuli.filenames = [str(tmp_path / name) for name in ("Art/001.jpg", "Action/001.jpg", "stimuli/car.png")]
    found = from_pysaliency(stimuli, scanpaths, name="toy").stimuli
    assert found["stimulus"].tolist() == ["Art/001", "Action/001", "stimuli/car"]
    stimuli.filenames[0] = "/not/here/001.jpg"
    stimuli.filenames[1] = "there.png"
    gone = from_pysaliency(stimuli, scanpaths, name="toy")
    assert gone.stimuli["path"].tolist() == ["", "", str(tmp_path / "stimuli" / "car.png")]
    assert gone.changes == ("2 of 3 images are not where pysaliency names them; their path is empty.",)


def test_objects_that_are_something_else(data, development):
    stimuli, scanpaths = to_pysaliency(data)
    refused("expected ScanpathFixations, Scanpaths or FixationTrains", from_pysaliency, stimuli, [])
    refused("not stimuli of pysaliency", from_pysaliency, [1], scanpaths)
    flat = SimpleNamespace(x=[1.0], y=[1.0], t=[0.0], n=[0], x_hist=[[]], subject=[0])
    refused("holds single fixations and not where a trial begins", from_pysaliency, stimuli, flat)
    stimuli.sizes = stimuli.sizes[:1]
    refused("not stimuli of pysaliency", from_pysaliency, stimuli, scanpaths)
    stimuli, scanpaths = to_pysaliency(data)
    scanpaths.scanpaths.n = scanpaths.scanpaths.n + 1
    refused("scanpath 2 is on stimulus number 3, but there are 3 stimuli", from_pysaliency, stimuli, scanpaths)
    scanpaths.scanpaths.n = np.full(12, np.nan)
    refused("expected one stimulus number per scanpath", from_pysaliency, stimuli, scanpaths)
    scanpaths.scanpaths.xs = None
    refused("not scanpaths of pysaliency", from_pysaliency, stimuli, scanpaths)
    clash = data.fixations.assign(x=1.0).drop(columns="fixation")
    refused("pysaliency itself uses the name of column 'x'", lambda name: to_pysaliency(
        from_dataframe(clash, name="toy", stimuli=data.stimuli)))  # fmt: skip


def test_images_of_another_size_are_refused(data, development):
    Image.new("RGB", (82, 60)).save(data.stimuli["path"].iloc[0])
    refused(r"bus\.png: image is 82x60 px, but positions are on 41x30", lambda name: to_pysaliency(data))


def test_without_pysaliency_one_line_says_how_to_get_it(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "pysaliency", None)
    refused(r"pysaliency cannot be imported.*gazekit\[pysaliency\]", lambda name: to_pysaliency(data))


# Files


def text(value):
    return np.bytes_(json.dumps(value))


def label(group, kind, version):
    group.attrs["type"], group.attrs["version"] = np.bytes_(kind), np.bytes_(version)


def write_attributes(group, name, values):
    below = group.create_group(name)
    for key, value in values.items():
        value = np.asarray(value)
        if value.dtype.kind == "U":
            import h5py

            value = below.create_dataset(key, data=[v.encode() for v in value], dtype=h5py.special_dtype(vlen=str))
        else:
            below.create_dataset(key, data=value)
    below.attrs["__attributes__"] = text(sorted(values))


def write_stimuli(path, files, sizes, version="2.1", **attributes):
    import h5py

    with h5py.File(path, "w") as file:
        label(file, "FileStimuli", version)
        file.create_dataset("filenames", data=[f.encode() for f in files], dtype=h5py.special_dtype(vlen=str))
        shapes = file.create_dataset("shapes", (len(files),), dtype=h5py.special_dtype(vlen=np.dtype("int64")))
        for i, (width, height) in enumerate(sizes):
            shapes[i] = np.array([height, width, 3][: 3 - i % 2])
        file.attrs["size"] = len(files)
        if version == "2.1":
            for key, value in attributes.items():
                file.create_dataset(key, data=[v.encode() for v in value], dtype=h5py.special_dtype(vlen=str))
            file.attrs["__attributes__"] = text(list(attributes))


X = [[1.5, 2.0, 3.0], [4.0, np.nan, np.nan], [np.nan] * 3, [5.0, 6.0, np.nan]]
TIMES = [[0.0, 0.25, 0.5], [0.1, np.nan, np.nan], [np.nan] * 3, [0.0, np.nan, np.nan]]
DURATIONS = [[0.2, 0.2, 0.125], [0.3, np.nan, np.nan], [np.nan] * 3, [np.nan, 0.5, np.nan]]
NUMBERS, SUBJECTS, TASKS = [2, 0, 1, 2], [3, 3, 4, 4], ["é", "b", "c", "d"]


def write_old(path, version, pad=0):
    """FixationTrains as each version of the release and of the development version lays them out."""
    import h5py

    wide = {name: np.pad(np.array(v), ((0, 0), (0, pad)), constant_values=np.nan) for name, v in
            {"x": X, "y": np.array(X) + 1, "t": TIMES, "d": DURATIONS}.items()}  # fmt: skip
    with h5py.File(path, "w") as file:
        label(file, "FixationTrains", version)
        for axis in "xyt":
            file.create_dataset(f"train_{axis}s", data=wide[axis])
        file.create_dataset("train_ns", data=NUMBERS)
        file.create_dataset("train_subjects", data=SUBJECTS)
        file.attrs["__attributes__"] = text(["subjects", "scanpath_index"])
        if version >= "1.1":
            write_attributes(file, "scanpath_attributes", {"task": np.char.encode(TASKS, "utf-8"), "age": [1, 2, 3, 4]})
        if version >= "1.2":
            write_attributes(file, "scanpath_fixation_attributes", {"durations": wide["d"]})
            file.attrs["scanpath_attribute_mapping"] = text({"durations": "duration"})
        if version >= "1.3":
            file.create_dataset("train_lengths", data=[3, 1, 0, 2])


def write_new(path, outer=True):
    import h5py

    with h5py.File(path, "w") as file:
        group = file
        if outer:
            label(file, "ScanpathFixations", "1.0")
            group = file.create_group("scanpaths")
        label(group, "Scanpaths", "1.0")
        group.create_dataset("xs", data=X)
        group.create_dataset("ys", data=np.array(X) + 1)
        group.create_dataset("n", data=NUMBERS)
        group.create_dataset("length", data=[3, 1, 0, 2])
        write_attributes(
            group, "scanpath_attributes", {"subject": SUBJECTS, "task": np.array(TASKS), "age": [1, 2, 3, 4]}
        )
        write_attributes(group, "fixation_attributes", {"ts": TIMES, "durations": DURATIONS})
        group.attrs["attribute_mapping"] = text({"durations": "duration", "ts": "t"})


@pytest.fixture
def files(tmp_path):
    pytest.importorskip("h5py", reason="h5py is not installed; reading pysaliency's files needs it")
    (tmp_path / "stimuli").mkdir()
    for name, size in SIZES.items():
        Image.new("L", size).save(tmp_path / "stimuli" / f"{name}.png")
    write_stimuli(tmp_path / "s.hdf5", [f"stimuli/{name}.png" for name in SIZES], SIZES.values())
    write_new(tmp_path / "f.hdf5")
    return tmp_path


def read(folder, **options):
    return read_pysaliency_hdf5(folder / "s.hdf5", folder / "f.hdf5", **({"name": "toy"} | options))


def check(data, attributes=True, durations=True):
    assert data.fixations["x_px"].tolist() == [1.5, 2, 3, 4, 5, 6]
    assert data.fixations["y_px"].tolist() == [2.5, 3, 4, 5, 6, 7]
    assert data.fixations["trial"].tolist() == [0, 0, 0, 1, 3, 3]
    np.testing.assert_array_equal(data.fixations["t_s"], [0, 0.25, 0.5, 0.1, 0, np.nan])
    assert data.trials["subject"].tolist() == ["3", "3", "4", "4"]
    assert data.trials["stimulus"].tolist() == ["Straße", "bus", "car", "Straße"]
    assert data.stimuli["stimulus"].tolist() == list(SIZES)
    assert data.stimuli[["width_px", "height_px"]].to_numpy().tolist() == [list(size) for size in SIZES.values()]
    if attributes:
        assert data.trials["task"].tolist() == TASKS
        assert data.trials["age"].tolist() == [1, 2, 3, 4]
    if durations:
        np.testing.assert_array_equal(data.fixations["duration_s"], [0.2, 0.2, 0.125, 0.3, np.nan, 0.5])


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2", "1.3"])
@pytest.mark.parametrize("pad", [0, 2])
def test_files_with_fixation_trains(files, version, pad):
    write_old(files / "f.hdf5", version, pad)
    check(read(files), version >= "1.1", version >= "1.2")


@pytest.mark.parametrize("outer", [True, False])
@pytest.mark.parametrize("version", ["2.0", "2.1"])
def test_files_of_the_development_version(files, outer, version):
    write_new(files / "f.hdf5", outer)
    write_stimuli(files / "s.hdf5", [f"stimuli/{name}.png" for name in SIZES], SIZES.values(), version, category="abc")
    data = read(files)
    check(data)
    assert data.stimuli["path"].tolist() == [str(files / "stimuli" / f"{name}.png") for name in SIZES]
    assert ("category" in data.stimuli) == (version == "2.1")


def test_files_that_the_release_writes(data, tmp_path, monkeypatch):
    pytest.importorskip("h5py", reason="h5py is not installed; reading pysaliency's files needs it")
    import_pysaliency()
    # The release was written for NumPy 1, where this name still was.
    monkeypatch.setattr(np, "string_", np.bytes_, raising=False)
    stimuli, trains = to_pysaliency(data)
    stimuli.to_hdf5(str(tmp_path / "s.hdf5"))
    trains.to_hdf5(str(tmp_path / "f.hdf5"))
    same(data, read(tmp_path))


def test_reading_files_does_not_need_pysaliency(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "pysaliency", None)
    check(read(files))


def test_stimuli_in_the_file_have_sizes_and_no_image(files):
    import h5py

    with h5py.File(files / "s.hdf5", "w") as file:
        label(file, "Stimuli", "1.1")
        for i, (width, height) in enumerate(SIZES.values()):
            file.create_dataset(str(i), data=np.zeros((height, width, 3), np.uint8), compression="gzip")
        file.create_dataset("stimulus_name", data=[n.encode() for n in SIZES], dtype=h5py.special_dtype(vlen=str))
        file.attrs["size"], file.attrs["__attributes__"] = 3, text(["stimulus_name"])
    data = read(files)
    check(data)
    assert (data.stimuli["path"] == "").all()
    with h5py.File(files / "s.hdf5", "a") as file:
        file.attrs["size"] = 1 << 40
    refused("claims 1099511627776 stimuli", read, files)


def test_images_that_lie_elsewhere(files):
    for outside in ("/elsewhere/bus.png", "../bus.png", "stimuli/../../bus.png", r"C:\pictures\bus.png", r"..\bus.png"):
        names = [outside, "stimuli/car.png", "stimuli/Straße.png"]
        write_stimuli(files / "s.hdf5", names, SIZES.values())
        refused("names the image .*outside its folder; give images=FOLDER", read, files)
        data = read(files, images=files / "stimuli")
        assert data.stimuli["path"].tolist() == [str(files / "stimuli" / f"{name}.png") for name in SIZES]
    (files / "stimuli" / "car.png").unlink()
    gone = read(files, images=files / "stimuli")
    assert gone.stimuli["path"].tolist()[1] == ""
    assert gone.changes == ("1 of 3 images are not here; their path is empty.",)
    write_stimuli(files / "s.hdf5", ["", "..", "a/.."], SIZES.values())
    assert (read(files, images=files / "stimuli").stimuli["path"] == "").all()
    refused("no such folder of images", read, files, images=files / "nowhere")
    write_stimuli(files / "s.hdf5", [f"stimuli/{name}.png" for name in SIZES], [(30, 41), (50, 21), (31, 47)])
    refused(r"bus\.png is 30x41 px, found 41x30", read, files)


def test_files_that_reach_out_of_themselves(files):
    import h5py

    secret = files / "secret.hdf5"
    with h5py.File(secret, "w") as file:
        file.create_dataset("xs", data=X)
    (files / "raw.bin").write_bytes(np.array(X).tobytes())

    def external(group):
        group["xs"] = h5py.ExternalLink(str(secret), "/xs")

    def dangling(group):
        group["xs"] = h5py.ExternalLink(str(files / "nowhere"), "/xs")

    def soft(group):
        group["xs"] = h5py.SoftLink("/scanpaths/ys")

    def stored_outside(group):
        group.create_dataset("xs", (4, 3), "f8", external=[(str(files / "raw.bin"), 0, h5py.h5f.UNLIMITED)])

    def virtual(group):
        layout = h5py.VirtualLayout((4, 3), "f8")
        layout[:] = h5py.VirtualSource(str(secret), "xs", (4, 3))
        group.create_virtual_dataset("xs", layout)

    def huge(group):
        group.create_dataset("xs", (1 << 40, 3), "f8", chunks=(1, 3))

    def huge_chunk(group):
        group.create_dataset("xs", (4, 3), "f8", chunks=(1 << 15, 1 << 15), maxshape=(None, None))

    def references(group):
        group.create_dataset("xs", (4, 3), h5py.ref_dtype)

    def flat(group):
        group.create_dataset("xs", data=[1.0, 2.0])

    def a_group(group):
        group.create_group("xs")

    def nothing(group):
        pass

    for make, message in (
        (external, "'xs' is a link"),
        (dangling, "'xs' is a link"),
        (soft, "'xs' is a link"),
        (stored_outside, "'xs' lies in another file"),
        (virtual, "'xs' lies in another file"),
        (huge, "claims the shape"),
        (huge_chunk, "claims the shape"),
        (references, "'xs' is object with 2 dimensions, expected numbers"),
        (flat, "with 1 dimensions, expected numbers with 2"),
        (a_group, "'xs' is not a dataset"),
        (nothing, "lacks 'xs'"),
    ):
        write_new(files / "f.hdf5")
        with h5py.File(files / "f.hdf5", "a") as file:
            del file["scanpaths/xs"]
            make(file["scanpaths"])
        refused(rf"f\.hdf5: .*{message}", read, files)


def test_one_long_text_used_many_times_is_not_unpacked(files, monkeypatch):
    import h5py

    monkeypatch.setattr(pysaliency_exchange, "_LARGEST_TEXT_BYTES", 1000)
    write_stimuli(files / "s.hdf5", ["a" * 600, "b" * 600, "c"], SIZES.values())
    refused("'filenames' holds more than 1000 bytes", read, files)
    assert h5py is not None


def test_contents_that_do_not_fit(files):
    import h5py

    def put(name, value):
        def change(file):
            del file["scanpaths"][name]
            file["scanpaths"][name] = value

        return change

    def attribute(name, value):
        def change(file):
            file["scanpaths/scanpath_attributes"].attrs[name] = value

        return change

    for change, message in (
        (put("length", [3, 1, 0]), "3 lengths of 4 scanpaths"),
        (put("length", [3, 4, 0, 2]), "scanpath 1 has 4 fixations, but 3 values"),
        (put("length", [3, -1, 0, 2]), "scanpath 1 has -1 fixations"),
        (put("length", [3, 2, 0, 2]), "row 4: x_px is nan, expected a finite position"),
        (put("length", [0, 0, 0, 0]), "hold no fixation"),
        (put("n", [2, 0, 1, 3]), "scanpath 3 is on stimulus number 3, but there are 3 stimuli"),
        (put("n", [2, 0, 1, -1]), "scanpath 3 is on stimulus number -1"),
        (put("n", [2, 0, 1]), "expected one stimulus number per scanpath"),
        (put("ys", np.zeros((3, 3))), "y has 3 rows, expected one per scanpath"),
        (put("scanpath_attributes/subject", [1, 2]), "subject has the shape"),
        (attribute("__attributes__", text(["subject", "gone"])), "lacks 'gone'"),
        (attribute("__attributes__", text(["subject", "../xs"])), "lacks '../xs'"),
        (attribute("__attributes__", text([])), "no attribute 'subject'"),
        (attribute("__attributes__", np.bytes_("{")), "not JSON"),
        (attribute("__attributes__", np.bytes_("[" * 60000)), "not JSON"),
        (attribute("__attributes__", text({"a": 1})), "not a list of names"),
        (attribute("__attributes__", 3), "is not text"),
    ):
        write_new(files / "f.hdf5")
        with h5py.File(files / "f.hdf5", "a") as file:
            change(file)
        refused(message, read, files)
    for kind, version, message in (
        ("Fixations", "1.2", "which do not say where a trial begins"),
        ("FixationTrains", "9", "holds FixationTrains 9, expected one of: FixationTrains 1.0/1.1"),
        ("Stimuli", "1.1", "holds Stimuli 1.1, expected one of"),
    ):
        with h5py.File(files / "f.hdf5", "a") as file:
            label(file, kind, version)
        refused(message, read, files)
    with h5py.File(files / "f.hdf5", "w"):
        pass
    refused("lacks the attribute 'type'; not written by pysaliency", read, files)
    (files / "f.hdf5").write_text("no HDF5")
    refused(r"f\.hdf5: not a file of pysaliency", read, files)
    (files / "f.hdf5").unlink()
    refused(r"f\.hdf5: no such file", read, files)


def test_without_h5py_one_line_says_how_to_get_it(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    refused(r"needs h5py; pip install \"gazekit\[hdf5\]\"", read, files)


@contextmanager
def refusals_of_one_line():
    try:
        yield
    except InputError as error:
        if "\n" in str(error):
            raise


@pytest.mark.parametrize("seed", range(6))
def test_fuzzed_files_are_read_or_refused_in_one_line(files, seed):
    chance = random.Random(seed)
    if seed % 2:
        write_old(files / "f.hdf5", "1.2")
    path = files / chance.choice(["s.hdf5", "f.hdf5", "f.hdf5"])
    content = path.read_bytes()
    for _ in range(15):
        broken = bytearray(content)
        for _ in range(chance.choice([1, 2, 8])):
            broken[chance.randrange(len(broken))] ^= 1 << chance.randrange(8)
        path.write_bytes(broken if chance.random() < 0.8 else content[: chance.randrange(len(content))])
        with refusals_of_one_line():
            read(files)
