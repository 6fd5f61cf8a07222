"""Objects on photographs: superpixels, cells and a user's boxes, in batches, models and ``gazekit look``."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from gazekit import InputError
from gazekit.cli import main
from gazekit.datasets.datamodule import ObjectDataModule
from gazekit.datasets.grid_search import grid_search
from gazekit.look import draw, look, picture_batch, search_for
from gazekit.models import create_model
from gazekit.proposals import Proposals, place_of_boxes

TINY = {"width": 24, "n_heads": 2, "n_layers": 1, "hidden": 16, "crop_hw_px": (34, 34)}


def patchwork(columns=5, rows=3, side=40):
    """(3, H, W) picture of squares of very different colors, and the (N, 4) boxes of these."""
    rng = np.random.default_rng(0)
    levels = rng.permutation(np.linspace(0.05, 0.95, columns * rows)).reshape(1, rows, columns)
    colors = np.concatenate([levels, levels[:, ::-1], levels[:, :, ::-1]])
    row, column = (i.ravel() for i in np.mgrid[0:rows, 0:columns])
    boxes = np.stack([column, row, column + 1, row + 1], 1) * float(side)
    return torch.from_numpy(colors.repeat(side, 1).repeat(side, 2)).float(), boxes


def test_superpixels_find_patches_of_one_color():
    """Each patch is a segment, whose box is the patch; they come row by row."""
    image, patches = patchwork()
    boxes = Proposals(n=15, compactness=1.0).superpixels(image)
    # Smoothing may move an edge by a pixel or two.
    np.testing.assert_allclose(boxes, patches, atol=2.0)
    assert place_of_boxes(boxes).tolist() == [[r, c] for r in range(3) for c in range(5)]
    # A picture too large to be worked on as it is has the same ones, in its own pixels.
    large = image.repeat_interleave(6, 1).repeat_interleave(6, 2)
    np.testing.assert_allclose(Proposals(n=15, compactness=1.0).superpixels(large), 6 * patches, atol=12.0)


def test_superpixels_of_a_photograph_cover_it_in_few_rows():
    """Boxes of the segments' areas: they sum to the picture, and no two of them are mostly one."""
    skimage = pytest.importorskip("skimage.data")
    image = torch.from_numpy(skimage.astronaut()).permute(2, 0, 1) / 255.0
    image = image[:, 40:400]
    boxes = Proposals(n=48).superpixels(image)
    # Segments that are too small join their neighbours.
    assert 20 <= len(boxes) <= 72
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    # Boxes are cut at the edges of the picture.
    assert area.sum() == pytest.approx(360 * 512, rel=0.1)
    # Rounding of the way back to the picture's own pixels.
    assert (boxes >= 0).all()
    assert boxes[:, 2].max() <= 512 + 1e-9
    assert boxes[:, 3].max() <= 360 + 1e-9
    place = place_of_boxes(boxes)
    # Segments stand in no rows; they are as many as fit above each other, not one, nor one for each.
    assert 4 <= place[:, 0].max() + 1 <= 13
    assert 5 <= place[:, 1].max() + 1 <= 13
    again = Proposals(n=48).superpixels(image)
    assert np.array_equal(boxes, again)


def test_one_color_is_divided_evenly():
    boxes = Proposals(n=12).superpixels(torch.full((3, 60, 80), 0.5))
    assert len(boxes) == 12
    # Four columns and three rows of 20 px, to a pixel.
    np.testing.assert_allclose(boxes[:, 2:] - boxes[:, :2], 20.0, atol=1.0 + 1e-6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("superpixels", Proposals()), ("superpixels:60", Proposals(60)), ("superpixels:60:2.5", Proposals(60, 2.5)),
        ("cells:8x6", Proposals(cells=(8, 6))),
    ],
)  # fmt: skip
def test_what_can_be_asked_for(text, expected):
    assert Proposals.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "superpixel", "superpixels:", "superpixels:0", "superpixels:9:0", "superpixels:-4", "cells:8", "cells:0x6",
        "cells:5000x5000", "",
    ],
)  # fmt: skip
def test_what_cannot(text):
    with pytest.raises(InputError, match=r"proposals of objects are .*; expected") as caught:
        Proposals.parse(text)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError):
        create_model("oat", **TINY, proposals=text)


def test_fewer_pixels_than_superpixels():
    with pytest.raises(InputError, match="48 superpixels on a picture of 6x5 px; ask for fewer"):
        Proposals().superpixels(torch.rand(3, 5, 6))


# In batches


@pytest.fixture(scope="module")
def displays(tmp_path_factory):
    folder = tmp_path_factory.mktemp("displays")
    pictures = folder / "pictures"
    pictures.mkdir()
    data = grid_search(8, 2, columns=4, rows=3, size_wh_px=(160, 105), pictures=pictures)
    replace(data, objects=None).to_parquet(folder)
    return folder


def served(folder, **options):
    made = ObjectDataModule(dataset=str(folder), batch_size=2, num_workers=0, **options)
    return next(iter(made.train_dataloader()))


def test_batches_of_superpixels_in_their_frame(displays):
    plain, scaled = served(displays, proposals="superpixels:12:100"), served(
        displays, proposals="superpixels:12:100", size_wh_px=(80, 210)
    )  # fmt: skip
    assert plain.image is None, "pictures are for those who look at them"
    assert plain.objects.there.sum(1).min() >= 6
    expected = plain.objects.box_px * torch.tensor([0.5, 2.0, 0.5, 2.0])
    assert plain.stimulus == scaled.stimulus
    torch.testing.assert_close(scaled.objects.box_px, expected)
    # A model asked for superpixels of the picture gets those of the data module.
    pictured = served(displays, proposals="superpixels:12:100", pictures=True)
    of_picture = Proposals(12, 100.0).layout(pictured.image, pictured.size_wh_px)
    torch.testing.assert_close(of_picture.box_px, pictured.objects.box_px)
    assert torch.equal(of_picture.place, pictured.objects.place)
    assert served(displays, proposals="cells:7x5").objects.box_px.shape == (2, 35, 4)


def test_boxes_of_the_user(displays, tmp_path):
    names = ObjectDataModule(dataset=str(displays)).data.stimuli["stimulus"].tolist()
    edges = {"left_px": [1, 50.5], "top_px": [2, 20], "right_px": [40, 90], "bottom_px": [60, 80]}
    table = pd.concat([pd.DataFrame({"stimulus": name, **edges}) for name in names], ignore_index=True)
    for path in (tmp_path / "boxes.csv", tmp_path / "boxes.parquet"):
        table.to_csv(path, index=False) if path.suffix == ".csv" else table.to_parquet(path)
        batch = served(displays, proposals=str(path))
        assert batch.objects.box_px[1].tolist() == [[1.0, 2.0, 40.0, 60.0], [50.5, 20.0, 90.0, 80.0]]
    for wrong, message in (
        (table.iloc[2:], r"no box on stimulus 'display_000' \(1 of 8 stimuli have none\)"),
        (table.assign(right_px=0.0), "row 0 has no proper box"),
        (table.drop(columns="top_px"), "top_px"),
        (table.replace("display_003", "display_3"), "no stimulus named 'display_3'"),
    ):
        wrong.to_csv(tmp_path / "wrong.csv", index=False)
        with pytest.raises(InputError, match=message):
            served(displays, proposals=str(tmp_path / "wrong.csv"))
    with pytest.raises(InputError, match=r"no\.csv: there is no such file"):
        served(displays, proposals="no.csv")
    with pytest.raises(InputError, match=r"data\.cells is \(3, 2\) and data\.proposals is 'superpixels'; give one"):
        served(displays, proposals="superpixels", cells=(3, 2))
    with pytest.raises(InputError, match=r"proposals of objects are 'boxes\.txt'"):
        served(displays, proposals="boxes.txt")


# In models


def test_oat_proposes_objects_on_pictures_that_have_none():
    image, _ = patchwork()
    batch = picture_batch(image, "patches", 30.0)
    model = create_model("oat", **TINY, appearance="none", proposals="superpixels:15:1").eval()
    assert model.uses_image
    objects, valid, log_p = model.walk(batch, 4, 6, torch.Generator().manual_seed(0))
    n = model.scene(batch).objects.there.shape[1]
    assert log_p.shape[-1] == n + 2
    assert objects[valid].max() < n
    # Points lie on the superpixels that were chosen.
    paths = model.sample(batch, 4, 6, torch.Generator().manual_seed(0))
    under = model.scene(batch).objects.under(paths.xy_px[0], torch.zeros(4, dtype=torch.long))
    assert torch.equal(under[valid[0]], objects[0][valid[0]])
    assert model.log_density(batch).exp().sum().item() == pytest.approx(1.0, abs=1e-4)
    with pytest.raises(InputError, match="superpixels are of pictures, and there are none"):
        model.walk(replace(batch, image=None), 1, 3, None)
    cells = create_model("oat", **TINY, appearance="none", proposals="cells:3x2")
    assert not cells.uses_image
    assert cells.scene(replace(batch, image=None)).objects.box_px.shape == (1, 6, 4)


@pytest.mark.parametrize(
    "name", ["object_random", "object_center", "object_near_target", "object_similar", "object_salient"]
)
def test_controls_look_at_the_same_objects(name):
    image, patches = patchwork()
    batch = picture_batch(image, "patches", 30.0)
    box = torch.from_numpy(patches[7:8]).float()
    yes = torch.ones(1, dtype=torch.bool)
    batch = replace(batch, search=replace(search_for("patch"), box_px=box, has_box=yes, present=yes))
    asked = "superpixels:15:1"
    model = create_model(name, proposals=asked)
    seen = pd.DataFrame(
        {"subject": "s", "stimulus": ["a", "a", "b", "b"], "trial": [0, 0, 1, 1], "fixation": [0, 1, 0, 1],
         "x_px": [10.0, 20, 30, 40], "y_px": 10.0, "t_s": np.nan, "duration_s": 0.2}
    )  # fmt: skip
    stimuli = pd.DataFrame({"stimulus": ["a", "b"], "path": "", "width_px": 200, "height_px": 120})
    model.fit_fixations(seen, stimuli, 30.0)
    assert model.uses_image
    of_picture = Proposals.parse(asked).layout(batch.image, batch.size_wh_px)
    p = model.log_probabilities(batch)
    assert p.shape == of_picture.there.shape
    given = replace(batch, objects=of_picture)
    torch.testing.assert_close(p, create_model(name, grid=(3, 2)).log_probabilities(given))
    maps = model.log_density(batch)
    torch.testing.assert_close(maps, model.log_density(given))
    assert maps.exp().sum().item() == pytest.approx(1.0, abs=1e-4)
    drawn = [model.sample(b, 5, 4, torch.Generator().manual_seed(0)).xy_px for b in (batch, given)]
    assert torch.equal(*drawn)
    assert not create_model("object_random", proposals="cells:3x2").uses_image


# On a photograph


@pytest.fixture
def photo(tmp_path):
    image, _ = patchwork()
    path = tmp_path / "photo.png"
    Image.fromarray((image.permute(1, 2, 0).numpy() * 255).astype(np.uint8)).save(path)
    return path


@pytest.fixture
def checkpoint(tmp_path, displays):
    """OAT with pictures, trained for an epoch on superpixels."""
    done = CliRunner().invoke(
        main,
        [
            "fit", "--config", "oat_amazon_recognition", "--data.dataset", str(displays), "--data.size_wh_px", "null",
            "--data.batch_size", "2", "--data.split", "{by: stimulus, seed: 0, val: 0.25, test: 0.25}",
            "--data.pictures", "true", "--data.proposals", "superpixels:12:100",
            "--model.appearance", "cnn", "--model.proposals", "superpixels:12:100", "--model.width", "24",
            "--model.hidden", "16", "--model.n_layers", "1", "--model.crop_hw_px", "[34, 34]",
            "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.callbacks", "null",
            "--trainer.enable_progress_bar", "false", "--trainer.default_root_dir", str(tmp_path / "run"),
        ],
    )  # fmt: skip
    assert done.exit_code == 0, done.output + str(done.exception)
    return tmp_path / "run" / "oat.ckpt"


def test_a_checkpoint_looks_at_a_photograph(photo, checkpoint, tmp_path):
    target = tmp_path / "target.png"
    Image.new("RGB", (20, 30), (200, 30, 90)).save(target)
    boxes = tmp_path / "boxes.csv"
    places = [(0, 0, 60, 50), (130, 70, 200, 120)]
    rows = [",".join(map(str, place)) for place in places]
    boxes.write_text("\n".join(["left_px,top_px,right_px,bottom_px", *rows, ""]))
    for how in ([], ["--objects", "cells:4x2"], ["--objects", "superpixels:20"], ["--objects", str(boxes)]):
        done = CliRunner().invoke(
            main,
            ["look", str(photo), "--model", str(checkpoint), "--target", str(target), "--length", "4", *how,
             "--out", str(tmp_path / "seen")],
        )  # fmt: skip
        assert done.exit_code == 0, done.output + str(done.exception)
        fixations = re.findall(r"^ +(\d+) x +([\d.]+) px  y +([\d.]+) px$", done.output, re.MULTILINE)
        numbers, x, y = (list(map(float, column)) for column in zip(*fixations, strict=True))
        # Looking ends by itself or with the fourth fixation; each is on one of the objects.
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) <= 4
        allowed = places if str(boxes) in how else [(0, 0, 200, 120)]
        for at_x, at_y in zip(x, y, strict=True):
            assert any(a <= at_x <= c and b <= at_y <= d for a, b, c, d in allowed)
        assert (tmp_path / "seen.png").is_file()
    for words, message in (
        ([], "neither the box of their target nor a picture of it"),
        (["--target", str(target), "--objects", "superpixel"], "proposals of objects are 'superpixel'; expected"),
        (["--target", str(target), "--objects", "no.csv"], "no.csv: there is no such file"),
        (["--target", "no.png"], "no.png"),
    ):
        done = CliRunner().invoke(main, ["look", str(photo), "--model", str(checkpoint), *words])
        assert done.exit_code == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_the_drawing_shows_the_objects(photo):
    model = create_model("oat", **TINY, appearance="none", proposals="cells:5x3").eval()
    for how, n in ((None, 15), ("cells:4x2", 8)):
        shown = look(photo, model, "oat", length=2, objects=how)
        axis = draw(shown).axes[0]
        # A dark frame and a bright one, to be seen on any ground.
        frames = {(*patch.get_xy(), patch.get_width(), patch.get_height()) for patch in axis.patches}
        assert len(axis.patches) == 2 * n
        assert frames == {(a, b, c - a, d - b) for a, b, c, d in shown.box_px.tolist()}
    plain = look(photo, create_model("uniform"), "uniform", length=2)
    assert not draw(plain).axes[0].patches


@pytest.mark.parametrize("name", ["uniform", "oat", "chance_search"])
def test_a_target_that_a_model_takes_no_notice_of_is_not_claimed(photo, name):
    arguments = {**TINY, "appearance": "none"} if name == "oat" else {}
    model = create_model(name, **arguments).eval()
    for target in (str(photo), "cup"):
        with pytest.warns(UserWarning, match=f"{name} takes no notice of the target"):
            shown = look(photo, model, name, length=2, target=target)
        assert re.fullmatch(rf"{name}, \d fixations?", shown.title)


def test_a_target_that_is_seen_stands_in_the_title(photo):
    model = create_model("oat", **TINY, appearance="cnn", grid=(4, 3)).eval()
    shown = look(photo, model, "oat", length=2, target=str(photo))
    assert shown.title.endswith("fixations, target: photo")


@pytest.mark.parametrize(
    ("name", "arguments", "word", "picture"),
    [
        ("oat", {**TINY, "categories": ["cup"], "appearance": "none"}, True, True),
        ("oat", {**TINY, "appearance": "cnn"}, False, True),
        ("codebook", {"backbone": "mobilenetv2_035", "weights": None, "goal": "image"}, False, True),
        ("codebook", {"backbone": "mobilenetv2_035", "weights": None, "goal": "none"}, False, False),
        (
            "codebook", {"backbone": "mobilenetv2_035", "weights": None, "goal": "category", "categories": ["cup"]},
            True, True,
        ),
        ("pixel_match", {}, False, True), ("chance_search", {}, False, False), ("uniform", {}, False, False),
    ],
)  # fmt: skip
def test_which_targets_models_take_notice_of(photo, name, arguments, word, picture):
    model = create_model(name, **arguments)
    assert model.takes_notice_of(search_for("cup")) == word
    assert model.takes_notice_of(search_for(str(photo))) == picture


def test_boxes_of_a_table_are_those_of_the_picture_s_name(photo, tmp_path):
    model = create_model("oat", **TINY, appearance="none").eval()
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("stimulus,left_px,top_px,right_px,bottom_px\nphoto,5,6,70,80\n")
    shown = look(photo, model, "oat", length=3, objects=str(boxes))
    assert shown.box_px.tolist() == [[5.0, 6.0, 70.0, 80.0]]
    boxes.write_text("stimulus,left_px,top_px,right_px,bottom_px\nother,5,6,70,80\n")
    with pytest.raises(InputError, match="no stimulus named 'other'"):
        look(photo, model, "oat", length=3, objects=str(boxes))


def test_objects_are_for_models_of_objects(photo):
    with pytest.warns(UserWarning, match="uniform takes no notice of objects"):
        look(photo, create_model("uniform"), "uniform", length=2, objects="cells:2x2")


@pytest.mark.parametrize("word", ["stop sign", "St. Bernard", "Mt. Fuji.", "no. 5"])
def test_a_word_is_searched_for_without_a_picture(word):
    search = search_for(word)
    assert search.target == (word,)
    assert search.template is None
    assert search.template_of_trial.tolist() == [-1]


def test_a_picture_is_searched_for(photo, tmp_path):
    for path in (photo, tmp_path / "PHOTO.JPG", tmp_path / "without_suffix"):
        if path != photo:
            Image.open(photo).save(path, format="PNG")
        search = search_for(str(path))
        assert search.target == (path.stem,)
        assert search.template.shape == (1, 3, 120, 200)
        assert search.template_of_trial.tolist() == [0]
    with pytest.raises(InputError, match=r"no\.webp"):
        search_for("no.webp")
