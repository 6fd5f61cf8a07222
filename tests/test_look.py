"""``gazekit look``: files, what they show, and what a user is told."""

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from gazekit import InputError
from gazekit.cli import main
from gazekit.look import frames, look, model_for, parsed_options, save_look
from gazekit.models import create_model

SMALL = ("task=pixels", "size_px=32", "fovea.blur_kernel_px=9", "search.iterations=4")


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    noise = torch.randint(0, 256, (6, 9, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
    Image.fromarray(noise).resize((180, 120), Image.Resampling.BICUBIC).save(path)
    return path


def run(*words):
    return CliRunner().invoke(main, ["look", *map(str, words)])


def test_the_command_writes_picture_drawing_and_animation(photo, tmp_path):
    out = tmp_path / "where"
    options = [word for option in SMALL for word in ("--set", option)]
    done = run(photo, "--model", "neva", *options, "--length", 5, "--out", out)
    assert done.exit_code == 0, done.output
    assert done.output.count(" px  y ") == 5
    assert "does not work on a foveated image" not in done.output
    with Image.open(tmp_path / "where.png") as drawing:
        assert drawing.size[0] > 400
    assert (tmp_path / "where.svg").read_text(encoding="utf-8").count("<svg") == 1
    with Image.open(tmp_path / "where.gif") as animation:
        assert animation.n_frames == 5
        assert animation.size == (180, 120)


@pytest.mark.parametrize("name", ["itti_koch", "cle", "inhibited", "uniform"])
def test_every_model_can_be_looked_through(photo, name, tmp_path):
    shown = look(photo, create_model(name), name, length=3)
    assert shown.illustration
    assert shown.seen.shape == (3, 3, 120, 180)
    assert len(save_look(shown, tmp_path / name)) == 3


def test_what_was_seen_is_sharp_at_the_fixation(photo):
    model = create_model("neva", task="pixels", size_px=64, fovea={"width": 0.05, "blur_kernel_px": 21})
    shown = look(photo, model, "neva", length=1)
    assert not shown.illustration
    picture = torch.nn.functional.interpolate(shown.image[None], (64, 64), mode="bicubic", antialias=True)[0]
    column, row = (shown.xy_px[0] / torch.tensor([180.0, 120.0]) * 64).long().tolist()
    error = (shown.seen[0] - picture).abs().mean(0)
    assert error[row, column] < 0.02
    assert error.mean() > 0.02
    assert frames(shown)[0].size == (180, 120)


def test_the_seed_decides(photo):
    model = create_model("inhibited")
    first, again, other = (look(photo, model, "m", length=4, seed=s).xy_px for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_models_without_a_caption_say_so(photo):
    with pytest.warns(UserWarning, match="uniform takes no notice of the caption"):
        look(photo, create_model("uniform"), "uniform", "two dogs", length=2)


def test_the_default_model_follows_the_caption(monkeypatch):
    made = []
    monkeypatch.setattr("gazekit.look.create_model", lambda name, **_: made.append(name) or create_model("uniform"))
    model_for(None, None, {})
    model_for(None, "two dogs", {})
    assert made == ["neva", "nevaclip"]


def test_options_are_nested_yaml():
    assert parsed_options(("fovea.width=0.3", "fovea.retention=1", "task=pixels")) == {
        "fovea": {"width": 0.3, "retention": 1},
        "task": "pixels",
    }
    with pytest.raises(InputError, match="--set takes NAME=VALUE, found 'width'"):
        parsed_options(("width",))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "nevva"], "checkpoint 'nevva' does not exist"),
        (["--model", "center_bias"], "center_bias is fitted to people's fixations"),
        (["--model", "uniform", "--set", "colour=red"], "model 'uniform'"),
        (["--model", "uniform", "--length", "0"], "cannot draw 0 fixations"),
        (["--caption", "a", "--set", "weights=no.pt"], "weights file 'no.pt' does not exist"),
    ],
)
def test_messages(photo, words, message):
    done = run(photo, *words)
    assert done.exit_code == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("gazekit: ")]
    assert len(lines) == 1
    assert message in lines[0]


def test_pictures_that_cannot_be(tmp_path):
    tiny = tmp_path / "tiny.png"
    Image.new("RGB", (1, 1)).save(tiny)
    done = run(tiny, "--model", "uniform")
    assert "an image of 1x1 px holds nothing to look at; give at least 2x2 px" in done.stderr
    assert "Traceback" not in done.stderr
    missing = run(tmp_path / "no.png", "--model", "uniform")
    assert missing.exit_code == 1
    assert "no.png" in missing.stderr


def test_a_missing_picture_is_said_before_a_network_is_built(tmp_path, monkeypatch):
    def built(*arguments):
        raise AssertionError("a network for a picture that is not there")

    monkeypatch.setattr("gazekit.look.model_for", built)
    missing = run(tmp_path / "no.png")
    assert missing.exit_code == 1
    assert "no.png" in missing.stderr
