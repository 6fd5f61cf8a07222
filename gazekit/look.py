"""``gazekit look``: a model's scanpath on a picture, drawn and animated."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from gazekit.backbones.foveation import Foveation
from gazekit.batch import ObjectLayout, SearchTask, TrialBatch
from gazekit.datasets.images import read_image
from gazekit.datasets.objects import layout_of_objects, read_boxes
from gazekit.errors import InputError
from gazekit.files import written_aside
from gazekit.models import MODELS, GazeModel, create_model, load_model
from gazekit.models.base import seed_of
from gazekit.models.neva import Neva
from gazekit.models.oat import Oat
from gazekit.proposals import Proposals

# Of the picture for models that do not say what they saw: a fovea of 2 dva on a picture as wide as a screen usually is.
_WIDTH_DVA, _FOVEA_DVA, _BLUR_DVA = 32.0, 2.0, 0.4
_FRAME_MS, _LAST_FRAME_MS = 700, 2000
_ANIMATION_SIDE_PX = 480
_COLOR = "#0072B2"


@dataclass(frozen=True)
class Look:
    """One scanpath on one picture.

    Args:
        image: (3, H, W) RGB in [0, 1].
        xy_px: (T, 2) fixations.
        seen: (T, 3, h, w) what the model saw at each, or an illustration of it.
        title: Model, target and caption.
        illustration: `seen` is not what the model worked on.
        box_px: (N, 4) left, top, right, bottom of what a model of looks at objects takes for objects; N may be 0.

    """

    image: Tensor
    xy_px: Tensor
    seen: Tensor
    title: str
    illustration: bool
    box_px: Tensor


def picture_batch(
    image: Tensor, name: str, px_per_dva: float, caption: str | None = None, objects: ObjectLayout | None = None,
    search: SearchTask | None = None,
) -> TrialBatch:  # fmt: skip
    """A batch of one picture that nobody has looked at yet."""
    height, width = image.shape[-2:]
    return TrialBatch(
        stimulus=(name,), size_wh_px=(width, height), px_per_dva=px_per_dva, image=image[None], features=None,
        stimulus_of_trial=torch.zeros(1, dtype=torch.long), subject=("",), trial=torch.zeros(1, dtype=torch.long),
        xy_px=torch.zeros(1, 1, 2), duration_s=torch.zeros(1, 1), valid=torch.zeros(1, 1, dtype=torch.bool),
        caption=None if caption is None else (caption,), objects=objects, search=search,
    )  # fmt: skip


def objects_on(image: Tensor, name: str, how: str) -> ObjectLayout:
    """What there is to look at on a picture: proposed, or the boxes of a file.

    Args:
        image: (3, H, W).
        name: Of the picture, as the file's column ``stimulus`` has it, if there is one.
        how: See :class:`~gazekit.proposals.Proposals`, or a CSV or Parquet file; see
            :func:`~gazekit.datasets.objects.read_boxes`.

    """
    height, width = image.shape[-2:]
    if Path(how).suffix not in (".csv", ".parquet"):
        return Proposals.parse(how).layout(image[None], (width, height))
    stimuli = pd.DataFrame({"stimulus": [name], "width_px": width, "height_px": height})
    return layout_of_objects([read_boxes(Path(how), stimuli)], [(1.0, 1.0)])


def search_for(target: str) -> SearchTask:
    """A search for what a picture file shows, or for what a word names; nobody knows whether or where it is."""
    template = None
    if Path(target).suffix:
        template = read_image(Path(target))[None]
    no, nowhere = torch.zeros(1, dtype=torch.bool), torch.zeros(1, 2)
    return SearchTask(
        target=(Path(target).stem if template is not None else target,), present=~no, box_px=torch.zeros(1, 4),
        has_box=no, start_xy_px=nowhere, has_start=no, max_saccades=torch.full((1,), -1), template=template,
        template_of_trial=torch.full((1,), -1 if template is None else 0),
    )  # fmt: skip


def look(
    image_path: Path,
    model: GazeModel,
    name: str,
    caption: str | None = None,
    length: int = 10,
    seed: int = 0,
    px_per_dva: float | None = None,
    objects: str | None = None,
    target: str | None = None,
) -> Look:
    """A scanpath of `model` on the picture in `image_path`.

    Args:
        image_path: An image file.
        model: Ready to predict; one that must be fitted to people's fixations has none of its own.
        name: What to call it.
        caption: What is said about the picture, for models that take notice.
        length: Fixations.
        seed: Of the scanpath.
        px_per_dva: Pixels per degree; None: the picture is taken to be 32 degrees wide.
        objects: For models of looks at objects, what they are; see :func:`objects_on`. None leaves it to the model.
        target: For models of search, a picture file or a word; see :func:`search_for`.

    Raises:
        InputError: A picture cannot be read or is too small, objects cannot be had, or the model cannot make scanpaths.

    """
    if length < 1:
        raise InputError(f"cannot draw {length} fixations; give a positive number")
    image = read_image(image_path)
    height, width = image.shape[-2:]
    if min(height, width) < 2:
        raise InputError(
            f"{image_path}: an image of {width}x{height} px holds nothing to look at; give at least 2x2 px"
        )
    if model.fits_fixations and not getattr(model, "memory", None):
        raise InputError(f"{name} is fitted to people's fixations and has no scanpath of its own; give another model")
    if caption is not None and not hasattr(model, "embed"):
        warnings.warn(f"{name} takes no notice of the caption", stacklevel=2)
    if objects is not None and not model.scored_on_objects:
        warnings.warn(f"{name} takes no notice of objects", stacklevel=2)
    per_dva = width / _WIDTH_DVA if px_per_dva is None else px_per_dva
    layout = None if objects is None else objects_on(image, image_path.stem, objects)
    batch = picture_batch(
        image, image_path.stem, per_dva, caption, layout, None if target is None else search_for(target)
    )
    generator = torch.Generator().manual_seed(seed_of("look", seed))
    paths = model.sample(batch, 1, length, generator)
    xy = paths.xy_px[0, 0][paths.valid[0, 0]].cpu()
    seen = model.views(batch, xy[None])[0].cpu() if isinstance(model, Neva) else _illustrated(image, xy, per_dva)
    said = f"\n\u201c{textwrap.shorten(caption, 90, placeholder=' ...')}\u201d" if caption else ""
    sought = f", target: {Path(target).stem}" if target else ""
    boxes = model.objects_of(batch).box_px[0].cpu() if isinstance(model, Oat) else torch.zeros(0, 4)
    title = f"{name}, {len(xy)} fixations{sought}{said}"
    return Look(image, xy, seen, title, not isinstance(model, Neva), boxes)


def _illustrated(image: Tensor, xy_px: Tensor, px_per_dva: float) -> Tensor:
    """The picture with a fovea of two degrees at each fixation, and no memory."""
    height, width = image.shape[-2:]
    foveation = Foveation.from_dva(_FOVEA_DVA, _BLUR_DVA, px_per_dva)
    reach = foveation.blur_kernel_px // 2
    if min(height, width) <= reach:
        foveation = Foveation(foveation.sigma_px, foveation.blur_sigma_px, 2 * (min(height, width) - 1) + 1)
    residual, memory = foveation.residual(image[None]), torch.zeros(1, 1, height, width)
    frames = [foveation.seen(image[None], residual, memory, foveation.fovea(at[None], (width, height))) for at in xy_px]
    return torch.cat(frames).clamp(0.0, 1.0)


def draw(shown: Look) -> Figure:
    """The scanpath over the picture, whose numbers give the order, and the boxes of objects if there are some."""
    height, width = shown.image.shape[-2:]
    figure = Figure(figsize=(7.0, max(2.0, 7.0 * height / width) + 0.6), layout="constrained", dpi=120)
    axis = figure.subplots()
    axis.imshow(shown.image.permute(1, 2, 0).numpy(), extent=(0, width, height, 0))
    for left, top, right, bottom in shown.box_px.tolist():
        frame = {"xy": (left, top), "width": right - left, "height": bottom - top, "fill": False}
        axis.add_patch(Rectangle(**frame, edgecolor="black", linewidth=1.0, alpha=0.35))
        axis.add_patch(Rectangle(**frame, edgecolor="white", linewidth=0.5, alpha=0.8))
    x, y = shown.xy_px.numpy().T
    axis.plot(x, y, "-", color="white", lw=2.4, alpha=0.8)
    axis.plot(x, y, "-", color=_COLOR, lw=1.3)
    axis.scatter(x, y, s=190, c=[_COLOR], edgecolors="white", linewidths=1.2, zorder=3, clip_on=False)
    for number, point in enumerate(zip(x, y, strict=True), start=1):
        axis.annotate(str(number), point, color="white", fontsize=8, ha="center", va="center", zorder=4)
    axis.set_xlim(min(0.0, x.min()), max(width, x.max()))
    axis.set_ylim(max(height, y.max()), min(0.0, y.min()))
    axis.set_xlabel("x [px]")
    axis.set_ylabel("y [px]")
    axis.set_title(shown.title, fontsize=9)
    return figure


def frames(shown: Look) -> list[Image.Image]:
    """What was seen at each fixation, at the picture's proportions."""
    height, width = shown.image.shape[-2:]
    scale = min(1.0, _ANIMATION_SIDE_PX / max(width, height))
    size = max(2, round(width * scale)), max(2, round(height * scale))
    pictures = []
    for seen in shown.seen:
        pixels: NDArray[np.uint8] = (seen.permute(1, 2, 0).numpy() * 255.0).round().astype(np.uint8)
        pictures.append(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    return pictures


def save_look(shown: Look, out: Path) -> list[Path]:
    """Write OUT.png, OUT.svg and OUT.gif; returns their paths."""
    figure, written = draw(shown), []
    for kind in ("png", "svg"):
        path = out.with_name(f"{out.name}.{kind}")
        with written_aside(path) as aside:
            figure.savefig(aside, format=kind)
        written.append(path)
    path = out.with_name(f"{out.name}.gif")
    first, *rest = frames(shown)
    times = [_FRAME_MS] * len(rest) + [_LAST_FRAME_MS]
    with written_aside(path) as aside:
        # Equal frames would be merged, and two fixations on one place look like one.
        first.save(aside, format="GIF", save_all=True, append_images=rest, duration=times, loop=0, optimize=False)
    return [*written, path]


def model_for(given: str | None, caption: str | None, options: Mapping[str, Any]) -> tuple[GazeModel, str]:
    """A model by name or checkpoint; without one, NevaClip where there is a caption and NeVA where there is none."""
    name = given or ("nevaclip" if caption is not None else "neva")
    if name in MODELS:
        try:
            return create_model(name, **options).eval(), name
        except TypeError as error:
            raise InputError(f"model {name!r}: {error}") from error
    if options:
        raise InputError(f"options are for models by name; {name!r} is a checkpoint and brings its own")
    return load_model(Path(name)), Path(name).stem


def parsed_options(pairs: tuple[str, ...]) -> dict[str, Any]:
    """``("fovea.width=0.2", "task=features")`` -> nested arguments; values are read as YAML."""
    import yaml

    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise InputError(f"--set takes NAME=VALUE, found {pair!r}")
        try:
            read = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"--set {pair!r}: the value is not YAML") from error
        *groups, last = key.split(".")
        at = found
        for group in groups:
            at = at.setdefault(group, {})
        at[last] = read
    return found
