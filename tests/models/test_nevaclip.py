"""NeVA and NevaClip as models: what guides them, frames, checkpoints, and what a user is told."""

import importlib.util
import math
import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn

from gazekit import InputError
from gazekit.backbones.clip import create_clip
from gazekit.batch import TrialBatch
from gazekit.models import create_model, load_model
from gazekit.models.fovea_tasks import Classification, FoveaTask, Reconstruction, Similarity
from gazekit.models.neva import PUBLISHED, Neva
from gazekit.models.square_frame import SquareFrame

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
FOVEA = {"blur_kernel_px": 9, "blur_sigma_px": 3.0}
SIZE = (96, 64)


def batch_of(n=2, captions=None, size_wh_px=SIZE, channels=3):
    trials = len(captions) if captions else n
    generator = torch.Generator().manual_seed(4)
    coarse = torch.rand(n, channels, 5, 7, generator=generator)
    image = nn.functional.interpolate(coarse, size_wh_px[::-1], mode="bilinear")
    return TrialBatch(
        tuple(f"s{i}" for i in range(n)), size_wh_px, 3.0, image, None, torch.arange(trials) % n, ("x",) * trials,
        torch.arange(trials), torch.zeros(trials, 1, 2), torch.zeros(trials, 1),
        torch.ones(trials, 1, dtype=torch.bool), caption=captions,
    )  # fmt: skip


def nevaclip(**kwargs):
    torch.manual_seed(0)
    return create_model(
        "nevaclip", **{"clip": TINY, "weights": None, "fovea": FOVEA, "search": {"iterations": 6}, **kwargs}
    )


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# Arithmetic


def small_task():
    torch.manual_seed(1)
    layers = (nn.Conv2d(3, 8, 5, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.Tanh(), nn.AvgPool2d(3))
    return Similarity(nn.Sequential(*layers, nn.Flatten()), 32)


def found_by(task, search, **options):
    model = Neva(task=task, fovea={**FOVEA, "retention": 0.5}, search=search, **options)
    return model.explore(batch_of(3), 2, 3, generator())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler is here")
def test_a_compiled_network_finds_the_same():
    """The same losses up to rounding, and so the same fixations: those of a step's sign do not move by a rounding."""
    # With jitter and the last step counted, every position has its gradient: one graph is compiled, which takes long.
    search = {"iterations": 8, "restart": "jitter", "best": "after_step"}
    plain, compiled = found_by(small_task(), search), found_by(small_task(), search, compile=True)
    torch.testing.assert_close(compiled.trace, plain.trace, rtol=0, atol=1e-5)
    torch.testing.assert_close(compiled.p, plain.p, rtol=0, atol=1e-6)
    assert (compiled.n_forward, compiled.n_gradient) == (plain.n_forward, plain.n_gradient)


def test_a_network_in_bfloat16_finds_nearly_the_same():
    """Three digits of each loss; where two positions are as good as each other, it may take the other one."""
    search = {"iterations": 8}
    plain, low = found_by(small_task(), search), found_by(small_task(), search, dtype="bfloat16")
    first = low.trace[:, 0, 0], plain.trace[:, 0, 0]
    assert 0.0 < (first[0] - first[1]).abs().max() < 0.01
    # What it finds is as good in full precision; the distance from the best to the worst position is many times that.
    assert (low.loss - plain.loss).abs().max() < 0.1 * (plain.trace.max() - plain.trace.min())
    same = (low.p - plain.p).abs().amax(-1) < 1e-3
    assert same.float().mean() > 0.5


# What guides it


def test_captions_guide_and_a_trial_without_one_follows_the_image():
    model = nevaclip()
    said = model.explore(batch_of(captions=("a red boat", "two dogs")), 1, 3, generator())
    silent = model.explore(batch_of(captions=("", "")), 1, 3, generator())
    none = model.explore(batch_of(), 1, 3, generator())
    torch.testing.assert_close(silent.loss, none.loss, rtol=0, atol=1e-6)
    assert (said.loss - none.loss).abs().min() > 1e-3
    # The image's own embedding is nearer to what is seen than a caption's, with random weights.
    assert (none.loss < said.loss).all()


def test_the_loss_is_one_minus_the_cosine_of_the_two_embeddings():
    model, batch = nevaclip(), batch_of(captions=("a red boat", "two dogs"))
    found = model.explore(batch, 1, 1, generator())
    seen = model.views(batch, model.frame(batch).to_picture(found.p))[:, 0]
    image, text = model.clip(seen).double(), model.embed(["a red boat", "two dogs"]).double()
    for row in range(2):
        cosine = image[row] @ text[row] / math.sqrt((image[row] @ image[row]) * (text[row] @ text[row]))
        assert found.loss[row, 0].item() == pytest.approx(1.0 - cosine.item(), abs=1e-5)


def test_a_caption_is_encoded_once_and_its_scale_does_not_matter():
    model, calls = nevaclip(), []
    encode = model.clip.encode_text
    model.clip.encode_text = lambda captions: calls.extend(captions) or 50.0 * encode(captions)
    batch = batch_of(captions=("a red boat",) * 4)
    louder = model.sample(batch, 2, 3, generator())
    model.sample(batch, 1, 2, generator())
    assert calls == ["a red boat"]
    torch.testing.assert_close(louder.xy_px, nevaclip().sample(batch, 2, 3, generator()).xy_px, rtol=0, atol=1e-3)


def test_one_caption_for_all_images():
    batch = batch_of()
    fixed = nevaclip(caption="two dogs").sample(batch, 1, 3, generator()).xy_px
    served = nevaclip().sample(replace(batch, caption=("two dogs",) * 2), 1, 3, generator()).xy_px
    assert fixed.shape == served.shape
    a = nevaclip(caption="two dogs").explore(batch, 1, 1, generator()).trace[:, 0, 0]
    b = nevaclip().explore(replace(batch, caption=("two dogs",) * 2), 1, 1, generator()).trace[:, 0, 0]
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_bottom_up_begins_with_the_image():
    batch = batch_of(captions=("a red boat", "two dogs"))
    blend = nevaclip(bottom_up=True).explore(batch, 1, 3, generator())
    image = nevaclip().explore(replace(batch, caption=None), 1, 1, generator())
    torch.testing.assert_close(blend.trace[:, 0, 0], image.trace[:, 0, 0], rtol=0, atol=1e-6)
    assert (blend.trace[:, 2, 0] - nevaclip().explore(batch, 1, 3, generator()).trace[:, 2, 0]).abs().min() > 1e-3


def test_prediction_makes_a_path_for_every_caption():
    model = nevaclip()
    model.predict_paths, model.predict_length = 2, 3
    batch = batch_of(captions=("a", "b", "c"))  # stimulus 0 has two trials, stimulus 1 one
    paths = model.predict_step(batch, 0)
    assert paths.xy_px.shape == (2, 4, 3, 2)
    assert paths.valid.all(-1).tolist() == [[True] * 4, [True, True, False, False]]
    alone = model.predict_step(batch.trials(1, 2).stimulus_alone(1), 0)
    torch.testing.assert_close(alone.xy_px[0, :2], paths.xy_px[1, :2], rtol=0, atol=1e-3)


def test_a_path_does_not_depend_on_its_batch_mates():
    model, batch = nevaclip(), batch_of(captions=("a red boat", "two dogs", "a red boat"))
    together = model.sample(batch, 2, 4, generator()).xy_px
    for i in range(3):
        torch.testing.assert_close(model.sample(batch.trials(i, i + 1), 2, 4, generator()).xy_px[0], together[i])
    small = nevaclip(images_at_once=1).sample(batch, 2, 4, generator()).xy_px
    torch.testing.assert_close(small, together, rtol=0, atol=1e-3)


def test_gradients_under_inference_mode():
    """Evaluation and prediction forbid gradients, and the search needs them all the same."""
    batch = batch_of(captions=("a red boat", "two dogs"))
    model = nevaclip()
    free = model.sample(batch, 1, 3, generator()).xy_px
    with torch.inference_mode():
        image = batch.image.clone()  # made under inference mode
        bound = model.sample(replace(batch, image=image), 1, 3, generator()).xy_px
    assert torch.equal(free, bound)


# CLIP


def test_clip_stays_in_evaluation_mode_and_frozen():
    resnet = {**TINY, "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}}
    clip = create_clip(resnet, None)
    clip.train()
    assert not any(module.training for module in clip.modules())
    assert not any(p.requires_grad for p in clip.parameters())
    batch = torch.rand(3, 3, 64, 64)
    # Batch statistics would mix the images.
    torch.testing.assert_close(clip(batch)[:1], clip(batch[:1]), rtol=0, atol=1e-5)


def test_a_long_caption_is_cut_with_a_warning():
    clip = create_clip(TINY, None)
    with pytest.warns(
        UserWarning, match=r"caption 'very very .*' has 42 tokens and custom takes 16: its end is left out"
    ):
        cut = clip.encode_text(["very " * 40])
    torch.testing.assert_close(cut, clip.encode_text(["very " * 14]))


@pytest.mark.parametrize(
    ("name", "weights", "match"),
    [
        ("RN50-quickgelo", None, r"no CLIP named 'RN50-quickgelo'; did you mean 'RN50-quickgelu'"),
        ("RN50", "openai", r"another activation function.*use 'RN50-quickgelu'"),
        ("RN50-quickgelu", "openia", r"no weights of CLIP 'RN50-quickgelu' named 'openia'; did you mean 'openai'"),
        ("RN50-quickgelu", "no/such.safetensors", r"weights file 'no/such\.safetensors' does not exist"),
        ({"embed_dim": 3}, None, r"not a configuration that open_clip knows"),
    ],
)
def test_what_clip_cannot_be(name, weights, match):
    with pytest.raises(InputError, match=match) as caught:
        create_clip(name, weights)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16", "RN50-quickgelu", "ViT-B-16-SigLIP"])
def test_towers_of_open_clip(name):
    """Each is built with random weights offline, embeds images, gives them gradients, and searches."""
    model = create_model("nevaclip", clip=name, weights=None, search={"iterations": 2})
    assert model.clip.size_px == 224
    assert not any(module.training for module in model.modules())
    siglip = "SigLIP" in name
    # Its pictures go from -1 to 1; the others have OpenAI's mean and SD.
    assert model.clip.mean.flatten()[0].item() == pytest.approx(0.5 if siglip else 0.48145466)
    found = model.explore(batch_of(1), 1, 1, generator())
    assert found.loss.isfinite().all()
    assert found.p.abs().max() <= 1.0
    image = torch.rand(1, 3, 224, 224, requires_grad=True)
    with torch.enable_grad():
        loss = model.task.loss(image, model.task.target(torch.rand(1, 3, 224, 224)))
        (slope,) = torch.autograd.grad(loss.sum(), image)
    assert slope.isfinite().all()
    assert slope.abs().max() > 0
    if siglip and not importlib.util.find_spec("transformers"):
        with pytest.raises(InputError, match=r"^CLIP 'ViT-B-16-SigLIP': its tokenizer needs transformers; [^\n]*$"):
            model.embed(["two dogs"])
        pytest.skip("images only: SigLIP's tokenizer needs the package transformers and a download")
    text = model.embed(["two dogs"])
    assert text.shape == (1, model.task.target(image.detach()).shape[1])


def test_a_tokenizer_that_is_not_to_be_had(monkeypatch):
    import open_clip

    clip = create_clip("ViT-S-32-alt", None)
    for raised, match in (
        (
            ModuleNotFoundError("no", name="transformers"),
            r"its tokenizer needs transformers; pip install transformers, ",
        ),
        (OSError("no network"), r"open_clip could not get its tokenizer \(OSError\); connect to the network, leave"),
    ):

        def fail(name, raised=raised):
            raise raised

        monkeypatch.setattr(open_clip, "get_tokenizer", fail)
        with pytest.raises(InputError, match=match):
            clip.encode_text(["two dogs"])
    # Images need none, and it is there as soon as it can be had.
    assert clip(torch.rand(1, 3, 224, 224)).isfinite().all()
    monkeypatch.undo()
    assert clip.encode_text(["two dogs"]).isfinite().all()


def test_weights_from_a_file(tmp_path, monkeypatch):
    from safetensors.torch import save_file

    torch.manual_seed(1)
    clip = create_clip(TINY, None)
    # Some of a transformer's tensors are views; a file holds each by itself.
    save_file({k: v.contiguous().clone() for k, v in clip.model.state_dict().items()}, tmp_path / "tiny.safetensors")
    torch.manual_seed(2)
    again = create_clip(TINY, tmp_path / "tiny.safetensors")
    assert again.source.name == "tiny.safetensors"
    image = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(again(image), clip(image))
    with pytest.raises(InputError, match=r"weights of another network"):
        create_clip({**TINY, "embed_dim": 8}, tmp_path / "tiny.safetensors")


# Frames


@pytest.mark.parametrize("size", [(1024, 768), (600, 800), (224, 224)])
@pytest.mark.parametrize("fit", ["squash", "crop"])
def test_positions_go_round(size, fit):
    frame = SquareFrame(size, 224, fit)
    p = torch.rand(50, 2, generator=generator(), dtype=torch.float64) * 2.0 - 1.0
    torch.testing.assert_close(frame.from_picture(frame.to_picture(p)), p, rtol=0, atol=1e-9)
    assert frame.to_picture(torch.zeros(1, 2)).tolist() == [[size[0] / 2, size[1] / 2]]


def test_a_crop_by_its_published_formula():
    """x = (W - 224 scale) / 2 + scale ((p + 1) / 2 * 223 + 1/2) with scale = min(W, H) / 224."""
    width, height = 1024, 768
    scale = height / 224
    for p in (-1.0, -0.3, 0.0, 1.0):
        x, y = SquareFrame((width, height), 224, "crop").to_picture(torch.tensor([[p, p]], dtype=torch.float64))[0]
        assert x.item() == pytest.approx((width - 224 * scale) / 2 + scale * ((p + 1) / 2 * 223 + 0.5))
        assert y.item() == pytest.approx(scale * ((p + 1) / 2 * 223 + 0.5))
    # No simulated fixation can leave the central square; squashed, the whole width is in reach.
    assert SquareFrame((width, height), 224, "crop").to_picture(torch.tensor([[-1.0, 0.0]]))[0, 0] > 128
    assert SquareFrame((width, height), 224, "squash").to_picture(torch.tensor([[-1.0, 0.0]]))[0, 0] < 5


@pytest.mark.parametrize("fit", ["squash", "crop"])
def test_what_the_network_is_shown_lies_where_positions_say(fit):
    image = torch.zeros(1, 3, 300, 400)
    image[..., 120:130, 260:270] = 1.0
    frame = SquareFrame((400, 300), 100, fit)
    shown = frame.show(image)[0, 0]
    row, column = divmod(int(shown.argmax()), 100)
    at = frame.to_picture(torch.tensor([[(column / 99) * 2 - 1, (row / 99) * 2 - 1]]))[0]
    assert (at - torch.tensor([265.0, 125.0])).abs().max() < 5.0


def test_a_fovea_is_round_in_the_picture():
    frame = SquareFrame((400, 200), 100, "squash")
    across, down = frame.round_sigma_px(10.0)
    assert across / frame.scale()[0] == pytest.approx(down / frame.scale()[1])
    assert across * down == pytest.approx(100.0)
    model = nevaclip(fovea={**FOVEA, "sigma_dva": 1.0})
    foveation = model.fovea.foveation(SquareFrame((96, 64), 32, "squash"), 3.0)
    assert foveation.sigma_px == (pytest.approx(1.0), pytest.approx(1.5))


# Tasks


class Brightest(FoveaTask):
    """Wants to see the image as bright as it can be."""

    def target(self, image):
        return torch.zeros(len(image))

    def loss(self, seen, target):
        return -seen.square().mean((1, 2, 3))


def test_any_task_can_be_injected(tmp_path):
    image = torch.zeros(1, 3, 64, 96)
    # Fine stripes lose their energy to blur: seeing them sharp is worth most.
    image[..., 10:30, 60:90:2] = 1.0
    batch = replace(batch_of(1), image=image)
    model = Neva(
        task=Brightest(32), fovea={**FOVEA, "width": 0.1}, search={"strategy": "candidates", "n_candidates": 40}
    )
    xy = model.sample(batch, 4, 1, generator()).xy_px[0, :, 0]
    assert ((xy - torch.tensor([75.0, 20.0])).norm(dim=-1) < 25.0).all()


def test_classification_is_cross_entropy_with_the_networks_own_answer():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )
    task = Classification(network, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), 16)
    task.train()
    assert not network.training
    image = torch.rand(3, 3, 16, 16)
    logits = network((image - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / 0.2)
    assert torch.equal(task.target(image), logits.argmax(1))
    expected = -logits.log_softmax(1)[torch.arange(3), logits.argmax(1)]
    torch.testing.assert_close(task.loss(image, task.target(image)), expected)


@pytest.mark.parametrize("task", ["classification", "features", "pixels"])
def test_a_sharp_image_serves_a_reconstruction_best(task):
    torch.manual_seed(0)
    model = create_model("neva", task=task, backbone="mobilenetv2_050", weights=None, size_px=64, fovea=FOVEA)
    batch = batch_of(1)
    shown = model.frame(batch).show(batch.image)
    target = model.task.target(shown)
    blurred = model.fovea.foveation(model.frame(batch), 3.0).blurred(shown)
    sharp, dull = model.task.loss(shown, target).item(), model.task.loss(blurred, target).item()
    if task == "classification":
        assert math.isfinite(sharp)
        assert sharp != dull
    else:
        assert sharp == pytest.approx(0.0, abs=1e-6)
        assert dull > 1e-4
    assert model.sample(batch, 1, 2, generator()).xy_px.isfinite().all()


def test_reconstruction_through_a_network():
    task = Reconstruction(nn.Conv2d(3, 3, 1), 16)
    assert not any(p.requires_grad for p in task.parameters())
    image = torch.rand(2, 3, 16, 16)
    expected = (task.network(image) - image).square().mean((1, 2, 3))
    torch.testing.assert_close(task.loss(image, task.target(image)), expected)


# As published, and what a user is told


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_settings_run(name):
    settings = PUBLISHED[name]
    fovea = {**settings["fovea"], **FOVEA}
    model = nevaclip(**{**settings, "fovea": fovea, "search": {**settings["search"], "iterations": 4}})
    assert model.fit == "crop"
    assert model.sample(batch_of(captions=("a boat", "a dog")), 1, 2, generator()).xy_px.isfinite().all()


def test_checkpoint_keeps_the_network(tmp_path):
    import pytorch_lightning as L

    model = nevaclip(fovea={**FOVEA, "retention": 0.6})
    trainer = L.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, max_epochs=1)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "m.ckpt")
    torch.manual_seed(77)
    again = load_model(tmp_path / "m.ckpt")
    batch = batch_of(captions=("a boat", "a dog"))
    assert torch.equal(again.sample(batch, 1, 3, generator()).xy_px, model.sample(batch, 1, 3, generator()).xy_px)
    assert again.fovea.retention == 0.6


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"fovea": {"widht": 0.2}}, r"no option of fovea named 'widht'; did you mean 'width'"),
        ({"search": {"strategy": "candidate"}}, r"no search strategy named 'candidate'; did you mean 'candidates'"),
        ({"search": {"itertions": 3}}, r"did you mean 'iterations'"),
        ({"fit": "pad"}, r"fit is 'pad', expected one of \['squash', 'crop'\]"),
        ({"dtype": "float16"}, r"dtype is 'float16'"),
        ({"images_at_once": 0}, r"images_at_once must be positive"),
    ],
)
def test_arguments_that_cannot_be(arguments, match):
    with pytest.raises(InputError, match=match):
        nevaclip(**arguments)


def test_images_that_cannot_be():
    model = nevaclip()
    with pytest.raises(InputError, match="image of 1x1 px holds nothing to look at"):
        model.sample(batch_of(1, size_wh_px=(1, 1)), 1, 1, generator())
    with pytest.raises(
        InputError, match=r"expected RGB images \(S, 3, H, W\) in \[0, 1\], found shape \(1, 1, 64, 96\)"
    ):
        model.sample(batch_of(1, channels=1), 1, 1, generator())
    with pytest.raises(InputError, match="the batch has no images"):
        model.sample(replace(batch_of(1), image=None), 1, 1, generator())
    in_degrees, far = nevaclip(fovea={"sigma_dva": 2.0}), replace(batch_of(1), px_per_dva=math.nan)
    with pytest.raises(InputError, match="viewing geometry"):
        in_degrees.sample(far, 1, 1, generator())
    with pytest.raises(InputError, match="no task named 'classify'; did you mean 'classification'"):
        create_model("neva", task="classify")
