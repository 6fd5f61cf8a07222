"""OSIE: the made-up release always, the authors' counts where the data are, and every kind of damage."""

import warnings

import numpy as np
import pytest

from gazekit import InputError
from gazekit.datasets import PartialDataWarning, load
from gazekit.datasets.check import check
from tests.conftest import REAL_DATA, needs_osie
from tests.conftest import write_release as write_data_folder


def write_release(folder):
    """The made-up release in `folder` itself."""
    write_data_folder(folder.parent, n_images=3, n_subjects=2)
    if folder.name != "osie":
        (folder.parent / "osie").rename(folder)


def load_tiny(root, **kwargs):
    with pytest.warns(PartialDataWarning, match="of 700 stimuli"):
        return load("osie", root=root, **kwargs)


def test_reads_the_authors_format(tiny_osie):
    data = load_tiny(tiny_osie)
    assert len(data.stimuli) == 6
    assert sorted(data.trials["subject"].unique()) == ["s01", "s02", "s03"]
    assert len(data.trials) == 18
    assert data.screen.px_per_dva == 24
    assert set(data.stimuli["width_px"]) == {800}
    assert data.fixations["t_s"].isna().all()  # onsets are not released
    # Durations come in milliseconds and leave in seconds.
    assert data.fixations["duration_s"].between(0.05, 0.6).all()


def test_root_may_be_the_data_folder_or_the_datasets_own(tiny_osie, monkeypatch):
    first = load_tiny(tiny_osie).fixations
    second = load_tiny(tiny_osie / "osie").fixations
    monkeypatch.setenv("GAZEKIT_DATA", str(tiny_osie))
    third = load_tiny(None).fixations
    assert first.equals(second)
    assert first.equals(third)


def test_strict_refuses_a_partial_copy(tiny_osie):
    with pytest.raises(InputError, match=r"6 of 700 stimuli \(694 missing\).*gazekit data fetch osie"):
        load("osie", root=tiny_osie, strict=True)


def test_values_survive_exactly(tmp_path):
    record = {
        "fix_x": np.array([[395.5, 10.25]]),
        "fix_y": np.array([[265.7, 599.2]]),
        "fix_duration": np.array([[246, 20]], np.uint16),
    }
    data = load_tiny(write_data_folder(tmp_path / "d", edit={(2, 1): record}))
    trial = data.fixations.query("stimulus == '1003' and subject == 's02'")
    np.testing.assert_array_equal(trial["x_px"], [395.5, 10.25])
    np.testing.assert_array_equal(trial["y_px"], [265.7, 599.2])
    np.testing.assert_allclose(trial["duration_s"], [0.246, 0.020])
    assert trial["fixation"].tolist() == [0, 1]


def refused(root, match):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        with pytest.raises(InputError, match=match) as caught:
            load("osie", root=root)
    assert "\n" not in str(caught.value)


def test_missing_folder_says_where_it_looked_and_what_to_do(tmp_path):
    refused(tmp_path / "nowhere", r"looked in .*nowhere.*gazekit data fetch osie.*GAZEKIT_DATA")


def test_truncated_mat(tiny_osie):
    path = tiny_osie / "osie" / "eye" / "fixations.mat"
    content = path.read_bytes()
    for keep in (0, 60, 200, len(content) // 2, len(content) - 5):
        path.write_bytes(content[:keep])
        refused(tiny_osie, "fixations.mat: (not the authors' file|cannot be read|holds no trial)")


def test_another_mat_file(tiny_osie):
    from scipy.io import savemat

    savemat(tiny_osie / "osie" / "eye" / "fixations.mat", {"something": np.eye(3)})
    refused(tiny_osie, "expected a variable 'fixations'")


def test_image_that_is_not_an_image(tiny_osie):
    (tiny_osie / "osie" / "stimuli" / "1002.jpg").write_text("not an image")
    refused(tiny_osie, r"1002\.jpg: not a readable image")


def test_image_of_another_size(tmp_path):
    refused(write_data_folder(tmp_path / "d", size_wh_px=(400, 300)), r"400x300 px, expected 800x600")


def test_missing_image(tiny_osie):
    (tiny_osie / "osie" / "stimuli" / "1004.jpg").unlink()
    refused(tiny_osie, r"1004\.jpg: image missing \(1 of 6")


def test_fixation_outside_the_image(tmp_path):
    off = {"fix_x": np.array([[5.0, 800.0]]), "fix_y": np.array([[5.0, 5.0]]), "fix_duration": np.array([[9, 9]])}
    refused(
        write_data_folder(tmp_path / "d", edit={(0, 0): off}),
        r"1 fixations lie outside .*stimulus 1001, subject s01, \(x, y\) = \(800\.0, 5\.0\)",
    )


def test_empty_trial(tmp_path):
    empty = {key: np.zeros((1, 0)) for key in ("fix_x", "fix_y", "fix_duration")}
    refused(write_data_folder(tmp_path / "d", edit={(1, 2): empty}), r"1 of 18 trials have no fixation.*'s03'.*'1002'")


def test_lengths_that_differ(tmp_path):
    refused(
        write_data_folder(tmp_path / "d", edit={(1, 2): {"fix_x": np.zeros((1, 2))}}),
        r"1002\.jpg, subject 3: 2 x, \d y, \d durations",
    )


def test_split_by_image_is_stable_when_a_copy_grows(tmp_path):
    small = load_tiny(write_data_folder(tmp_path / "a", n_images=6)).stimuli.set_index("stimulus")["split"]
    large = load_tiny(write_data_folder(tmp_path / "b", n_images=30)).stimuli.set_index("stimulus")["split"]
    assert large[small.index].equals(small)
    assert set(large) == {"train", "val", "test"}


@needs_osie
def test_every_count_and_moment_of_the_real_part():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialDataWarning)
        data = load("osie", root=REAL_DATA)
    findings = check(data, decode_images=False)
    if "not known" in findings[0].found:
        pytest.skip("this copy holds other images than the part whose numbers are known")
    assert not [str(finding) for finding in findings if finding.deviates]
    assert sum(finding.expected is not None for finding in findings) >= 18
