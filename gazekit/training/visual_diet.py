"""Networks that grow up on one visual diet: small, from scratch, on rendered pictures; only the diet differs."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytorch_lightning as L
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler

from gazekit import __version__
from gazekit.backbones.small_vgg import CHANNELS, SEARCH_TAPS, SmallVGG
from gazekit.errors import InputError
from gazekit.files import written_aside
from gazekit.models.base import seed_of
from gazekit.provenance import git_commit
from gazekit.stimuli.diet import DIETS, apply_diet
from gazekit.stimuli.world import CLASSES, WorldPictures, render_world
from gazekit.training.callbacks import AtomicCheckpointIO

# What the corners of a picture that is turned by the angles of the diets need, over the crop.
_MARGIN = 1.32


@dataclass(frozen=True)
class DietRecipe:
    """Everything that shapes a network; two recipes that differ in `diet` alone show it the same pictures.

    Args:
        diet: A name in :data:`gazekit.stimuli.diet.DIETS`.
        seed: Of the initial weights, the order of pictures and the crops. Not of the pictures themselves.
        pictures: Training pictures.
        held_out: Other pictures, for the accuracy.
        crop_px: Side of what the network sees.
        epochs: Passes over the pictures.
        batch_size: Pictures per step.
        lr: Peak of the learning rate, which rises over the first tenth and then falls along a cosine.
        weight_decay: Of AdamW.
        quiet: Weight of a penalty on dense activity in the layers that a search taps. Cross-entropy alone lets
            units fire on empty ground, and a search by raw correlation then looks at the ground.
        jitter_px: The crop's middle is off the picture's by up to this much along both axes.
        channels: Per stage of the network.
        picture_seed: Of the world.

    Raises:
        InputError: An unknown diet, or a number out of range.

    """

    diet: str = "natural"
    seed: int = 0
    pictures: int = 6_000
    held_out: int = 1_000
    crop_px: int = 48
    epochs: int = 3
    batch_size: int = 64
    lr: float = 3e-3
    weight_decay: float = 1e-4
    quiet: float = 0.5
    jitter_px: int = 4
    channels: tuple[int, ...] = CHANNELS
    picture_seed: int = 0

    def __post_init__(self) -> None:
        if self.diet not in DIETS:
            apply_diet(self.diet, torch.zeros(1, 3, 1, 1), torch.Generator())
        for name in ("pictures", "held_out", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"diet recipe: {name} is {getattr(self, name)}, expected 1 or more")
        if self.crop_px < 32 or not 0 <= self.jitter_px <= self.crop_px // 8:
            raise InputError(
                f"diet recipe: need crop_px >= 32 and 0 <= jitter_px <= crop_px / 8, got "
                f"{self.crop_px} and {self.jitter_px}"
            )

    @property
    def name(self) -> str:
        """``DIET_SEED``, which names the network's file."""
        return f"{self.diet}_{self.seed}"


class DietNetwork(L.LightningModule):
    """Learns to name the object in each picture; the features are what is wanted of it."""

    def __init__(self, recipe: DietRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.network = SmallVGG(len(CLASSES), recipe.channels, normalized=True)
        self.network = self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._tapped: list[Tensor] = []
        for name in SEARCH_TAPS:
            self.network.get_submodule(name).register_forward_hook(lambda *maps: self._tapped.append(maps[-1]))

    def forward(self, picture: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, classes) logits."""
        self._tapped.clear()
        logits: Tensor = self.network((picture * 2.0 - 1.0).contiguous(memory_format=torch.channels_last))
        return logits

    def _activity(self, map_: Tensor) -> Tensor:
        """Share of a layer's units and places that are active, in (0, 1]: Treves and Rolls' (1991) sparseness.

        It does not change with the scale of the activity, which the next layer's normalization would undo.
        """
        return map_.mean().square() / map_.square().mean().clamp(min=1e-12)

    def _step(self, batch: tuple[Tensor, Tensor, Tensor], jitter: int) -> tuple[Tensor, Tensor]:
        picture, label, index = batch
        # The same picture is cut and turned in the same way whatever else is in the batch, and in every process.
        draws = torch.Generator().manual_seed(seed_of(self.recipe.seed, self.current_epoch, *index.tolist()))
        eaten = apply_diet(self.recipe.diet, picture.float() / 255.0, draws)
        side, crop = eaten.shape[-1], self.recipe.crop_px
        middle = (side - crop) // 2
        off = torch.randint(-jitter, jitter + 1, (2,), generator=draws) if jitter else torch.zeros(2, dtype=torch.long)
        top, left = (min(max(0, middle + int(o)), side - crop) for o in off)
        return self(eaten[..., top : top + crop, left : left + crop]), label

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        logits, label = self._step(batch, self.recipe.jitter_px)
        loss = F.cross_entropy(logits, label, label_smoothing=0.05)
        if self.recipe.quiet:
            loss = loss + self.recipe.quiet * torch.stack([self._activity(m) for m in self._tapped]).mean()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        logits, label = self._step(batch, 0)
        self.log("val/accuracy", (logits.argmax(-1) == label).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), self.recipe.lr, weight_decay=self.recipe.weight_decay)
        steps = math.ceil(self.recipe.pictures / self.recipe.batch_size) * self.recipe.epochs

        def share(step: int) -> float:
            warm = max(1, steps // 10)
            return min((step + 1) / warm, 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / steps))))

        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, share), "interval": "step"},
        }


class _Pictures(Dataset[tuple[Tensor, Tensor, int]]):
    def __init__(self, pictures: WorldPictures) -> None:
        self.image = torch.from_numpy(pictures.image).permute(0, 3, 1, 2)
        self.label = torch.from_numpy(pictures.label)

    def __len__(self) -> int:
        return len(self.label)

    def __getitems__(self, rows: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        index = torch.tensor(rows)
        return self.image[index], self.label[index], index


class _Shuffled(Sampler[int]):
    """An order of its own for each epoch, the same after a resume."""

    def __init__(self, recipe: DietRecipe) -> None:
        self.recipe, self.epoch = recipe, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.recipe.pictures

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(seed_of("order", self.recipe.seed, self.epoch))
        return iter(torch.randperm(len(self), generator=generator).tolist())


@lru_cache(maxsize=2)
def _world(n: int, side_px: int, seed: int) -> _Pictures:
    return _Pictures(render_world(n, side_px, seed))


def train_diet_network(recipe: DietRecipe, file: Path, progress: bool = True) -> dict[str, Any]:
    """Train the network of `recipe` and write its folded weights to `file` (safetensors); return its record.

    The record (recipe, accuracy on held-out pictures of its own diet, versions, commit) travels in the file. Killed,
    it goes on after the last whole epoch when called again; a finished file of the same recipe is left as it is.

    Raises:
        InputError: `file` holds a network of another recipe.

    """
    if file.is_file():
        record = read_record(file)
        if record.get("recipe") != _plain(recipe):
            raise InputError(f"{file}: a network of another recipe; remove it, or write to another folder")
        return record
    L.seed_everything(recipe.seed, verbose=False)
    side = math.ceil(recipe.crop_px * _MARGIN)
    training = _world(recipe.pictures, side, recipe.picture_seed)
    held_out = _world(recipe.held_out, side, recipe.picture_seed + 1)
    module = DietNetwork(recipe)
    unfinished = file.with_suffix(".ckpt")
    keep = ModelCheckpoint(
        dirpath=file.parent, filename=file.stem, save_on_train_epoch_end=True, enable_version_counter=False
    )
    for quiet in ("pytorch_lightning.utilities.rank_zero", "pytorch_lightning.accelerators.cuda"):
        logging.getLogger(quiet).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # Pictures lie in memory: workers would only copy them.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
        # PyTorch's complaint about Lightning.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        trainer = L.Trainer(
            max_epochs=recipe.epochs, accelerator="auto", devices=1, logger=False, callbacks=[keep],
            plugins=[AtomicCheckpointIO()], enable_progress_bar=progress, enable_model_summary=False,
            num_sanity_val_steps=0, check_val_every_n_epoch=recipe.epochs,
        )  # fmt: skip
        trainer.fit(
            module,
            DataLoader(training, recipe.batch_size, sampler=_Shuffled(recipe), collate_fn=_as_is),
            DataLoader(held_out, 250, collate_fn=_as_is),
            ckpt_path=unfinished if unfinished.is_file() else None,
        )
    if trainer.interrupted:
        raise KeyboardInterrupt
    record = {
        "recipe": _plain(recipe),
        "accuracy": round(float(trainer.callback_metrics["val/accuracy"]), 4),
        "classes": list(CLASSES),
        "gazekit": __version__,
        "commit": git_commit(),
        "torch": torch.__version__,
    }
    weights = {key: value.contiguous() for key, value in module.network.cpu().eval().fold().state_dict().items()}
    with written_aside(file) as aside:
        save_file(weights, aside, {"record": json.dumps(record)})
    unfinished.unlink(missing_ok=True)
    return record


def read_record(file: Path) -> dict[str, Any]:
    """What :func:`train_diet_network` noted in the file.

    Raises:
        InputError: Unreadable, or not written by it.

    """
    try:
        with safe_open(file, framework="pt") as opened:  # type: ignore[no-untyped-call]
            record = json.loads((opened.metadata() or {})["record"])
    except Exception as error:  # safetensors, JSON and the file system each have errors of their own
        raise InputError(f"{file}: not a network of a visual diet ({type(error).__name__}); train it again") from error
    if not isinstance(record, dict):
        raise InputError(f"{file}: its record is damaged; train it again")
    return record


def _plain(recipe: DietRecipe) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(recipe)))
    return plain


def _as_is(batch: Any) -> Any:
    return batch
