"""``gazekit fit | validate | test | predict``: a LightningCLI over recipes."""

from __future__ import annotations

import logging
import tempfile
import warnings
from argparse import ArgumentError
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.loggers import CSVLogger

from gazekit.datasets.datamodule import ScanpathDataModule
from gazekit.datasets.loading import check_here
from gazekit.errors import InputError, one_line_warnings
from gazekit.files import sha256_of
from gazekit.memory import keep_freed_memory
from gazekit.models import GazeModel
from gazekit.models.registry import model_name, read_checkpoint
from gazekit.provenance import git_commit
from gazekit.training.callbacks import AtomicCheckpointIO, RunCheckpoint, ScanpathWriter, ScoreFixations
from gazekit.training.features import cache_features
from gazekit.training.object_scores import ScoreObjects
from gazekit.training.recipe import lightning_arguments

# Settings of Lightning that convert batches, and models to another type than float32.
_WHOLE_PRECISIONS = ("bf16-true", "16-true", "64", "transformer-engine")
SUBCOMMANDS = ("fit", "validate", "test", "predict")


class GazeCLI(LightningCLI):
    """Lightning's command line with gazekit's models, data, checkpoints and feature cache."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--cache_features", type=bool, default=True, help="Run a frozen backbone once per image.")
        parser.add_argument(
            "--score_fixations", type=bool, default=True, help="Score whole maps at every validation and test."
        )
        parser.add_argument("--predict.paths", type=int, default=10, help="Scanpaths per image for 'predict'.")
        parser.add_argument("--predict.length", type=int, default=8, help="Fixations per predicted scanpath.")
        parser.add_argument("--predict.name", type=str, default="scanpaths", help="Name of the table of scanpaths.")

    def before_instantiate_classes(self) -> None:
        # A wrong name or a missing folder is said before weights are downloaded.
        given = self._get(self.config, "data.init_args")
        check_here(given["dataset"], given["root"])
        precision = str(self._get(self.config, "trainer.precision"))
        if precision.startswith(_WHOLE_PRECISIONS):
            raise InputError(
                f"trainer.precision is {precision!r}: batches stay as they are read, in float32; take bf16-mixed, "
                f"16-mixed or 32-true"
            )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        folder = Path(self._get(self.config_init, "trainer.default_root_dir") or "runs")
        extra: list[Callback] = [RunCheckpoint(folder), ScoreObjects()]
        if self._get(self.config_init, "score_fixations"):
            extra.append(ScoreFixations())
        if self.subcommand == "predict":
            self._writer = ScanpathWriter(folder, self._get(self.config, "predict")["name"], self._depends_on())
            extra.append(self._writer)
        own = self._get(self.config_init, "trainer.callbacks") or []
        kwargs = {"callbacks": [*own, *extra], **kwargs}
        config = self._get(self.config_init, "trainer")
        if config.get("logger") is None:
            kwargs["logger"] = CSVLogger(folder, name="logs")
        kwargs["plugins"] = [AtomicCheckpointIO()]
        # The data module shares images out itself, so that validation repeats none to fill up.
        kwargs["use_distributed_sampler"] = False
        return super().instantiate_trainer(**kwargs)

    def _prepare(self) -> None:
        model, data = self.model, self.datamodule
        assert isinstance(model, GazeModel)
        assert isinstance(data, ScanpathDataModule)
        self._check_checkpoint(model)
        self._check_proposals(model, data)
        config = self._get(self.config_init, "predict")
        model.predict_paths, model.predict_length = config["paths"], config["length"]
        if self._get(self.config_init, "cache_features"):
            data.feature_cache = cache_features(model, data.served, data.size_wh_px, device=_device(self.trainer))
        if self.subcommand == "predict":
            data.finished = self._writer.finished()
        if self.subcommand == "fit":
            train = data.data.split(data.splits["train"])
            model.train()
            model.prepare_fit(data.stimulus_batches("train"), train.fixations, train.stimuli, train.name)

    def _depends_on(self) -> dict[str, Any]:
        """All that predicted scanpaths depend on."""
        checkpoint = self._get(self.config_init, "ckpt_path")
        checkpoint = checkpoint if checkpoint and Path(checkpoint).is_file() else None
        return {
            "model": self._get(self.config, "model").as_dict(),
            "predict": self._get(self.config, "predict").as_dict(),
            "data": self._get(self.config, "data").as_dict(),
            "checkpoint": sha256_of(Path(checkpoint)) if checkpoint else None,
            "commit": git_commit(),
        }

    def _check_checkpoint(self, model: GazeModel) -> None:
        given = self._get(self.config_init, "ckpt_path")
        if given and Path(given).suffix == ".ckpt":
            found = read_checkpoint(given)["gazekit_model"]
            if found != model_name(model):
                raise InputError(f"{given}: checkpoint of model {found!r}, expected {model_name(model)!r}")

    def _check_proposals(self, model: GazeModel, data: ScanpathDataModule) -> None:
        """What is looked at in training must be what is looked at later, where a model proposes it by itself."""
        own, given = (part.hparams.get("proposals") for part in (model, data))
        if own is not None and given is not None and own != given:
            raise InputError(
                f"model.proposals is {own!r} and data.proposals is {given!r}; objects must be the same in training and "
                f"afterwards: give both"
            )

    before_fit = before_validate = before_test = before_predict = _prepare


def _device(trainer: Trainer) -> str:
    device = trainer.strategy.root_device
    return "cuda" if device.type == "cuda" else "cpu"


def run(subcommand: str, arguments: list[str]) -> None:
    """Run one subcommand; raises InputError for whatever the user can mend."""
    keep_freed_memory()
    # Lightning has its own format for warnings, and announces hardware and products on every start.
    one_line_warnings()
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="gazekit-") as scratch:
        converted = lightning_arguments(arguments, Path(scratch))
        torch.set_float32_matmul_precision("high")
        with warnings.catch_warnings():
            # Lightning's advice on worker counts and idle accelerators is not about this command.
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*GPU available but not used.*")
            warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
            # A frozen backbone stays in evaluation mode on purpose; a run's own folder is not empty when it resumes.
            warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")
            warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty.*")
            # Recipes and model names are resolved first, so Lightning is given other words than were typed.
            warnings.filterwarnings("ignore", message="LightningCLI's args parameter.*")
            # Lightning's own use of jsonargparse and PyTorch.
            warnings.filterwarnings(
                "ignore", category=DeprecationWarning, module=r"(pytorch_lightning|jsonargparse)\..*"
            )
            warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
            try:
                GazeCLI(
                    GazeModel,
                    ScanpathDataModule,
                    subclass_mode_model=True,
                    subclass_mode_data=True,
                    save_config_callback=SaveConfigCallback,
                    save_config_kwargs={"overwrite": True},
                    parser_kwargs={"exit_on_error": False},
                    seed_everything_default=0,
                    args=[subcommand, *converted],
                )
            except (ArgumentError, TypeError, ValueError) as error:
                # jsonargparse wraps whatever a model or data module refuses into its own report.
                if (own := _input_error(error)) is not None:
                    raise own from error
                if isinstance(error, ArgumentError):
                    raise InputError(_one_line(str(error))) from error
                raise


def _input_error(error: BaseException | None) -> InputError | None:
    """The InputError among an exception and those that led to it."""
    while error is not None and not isinstance(error, InputError):
        error = error.__cause__ or error.__context__
    return error


def _one_line(text: str) -> str:
    """The part of jsonargparse's message that says what was wrong, on one line."""
    lines = [line.strip(" -\t") for line in text.splitlines() if line.strip()]
    return " ".join(lines)[:600]
