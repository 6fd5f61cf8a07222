"""Score models, controls and people on one protocol: one row per model and trial.

Finished pieces are kept beside the results, under a key of everything they depend on, so that an
interrupted evaluation goes on where it stopped and an added model costs only itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch
from torch import Tensor

import gazekit
from gazekit.batch import TrialBatch
from gazekit.datasets import GazeDataset, load
from gazekit.datasets.datamodule import StimulusItems
from gazekit.datasets.objects import grid_of_objects
from gazekit.datasets.split import check_split_name
from gazekit.density import exp_shared, fixation_density
from gazekit.errors import InputError
from gazekit.evaluation.folds import fold_checkpoints, load_folds
from gazekit.evaluation.path_scores import PathScorer, PathSet, Question, RecordedPaths, trial_limits
from gazekit.evaluation.protocol import Protocol
from gazekit.evaluation.protocol_parts import path_options
from gazekit.evaluation.scanpath_files import is_scanpath_file, read_scanpaths
from gazekit.files import sha256_of, written_aside
from gazekit.metrics import METRICS, saliency_map_for
from gazekit.metrics.optimal_maps import MapMetric
from gazekit.models import MODELS, GazeModel, create_model, load_model
from gazekit.models.base import first_trial_of_each_stimulus, seed_of
from gazekit.models.fixation_memory import FixationMemory
from gazekit.models.human import Human, ShuffledHuman, shuffled_partner
from gazekit.models.model_file import identity_of, is_model_file, model_from_file, model_names, read_model_file
from gazekit.models.registry import read_checkpoint
from gazekit.provenance import git_commit
from gazekit.registry import unknown_name
from gazekit.tables import outside

# Stimuli per saved piece, and conditional maps in memory at a time (600x800 float32: 2 MB each).
_PIECE, _MAPS_AT_ONCE = 25, 64
_SAMPLE_COLUMNS = {
    "stimulus": "str", "target": "str", "start_x_px": "float64", "start_y_px": "float64", "sample": "int64",
    "fixation": "int64", "x_px": "float64", "y_px": "float64",
}  # fmt: skip
# A scanpath model's score under a static metric and the other way round.
_STATIC_TWIN = {"cnss": "nss", "cauc": "auc", "cig": "ig"}


@dataclass(frozen=True)
class Contestant:
    """A model with the name it has in tables and what identifies it.

    Args:
        name: Unique in the table: the registered name, or the checkpoint's file name.
        model: Ready to predict; None for scanpaths out of a file.
        role: ``model``, ``control`` or ``ceiling``.
        identity: Digest of what defines it (checkpoint file, or registered name).
        provenance: What goes into the record: weights, training images, ...

    """

    name: str
    model: GazeModel | None
    role: str
    identity: str
    provenance: dict[str, Any]
    paths: RecordedPaths | None = None

    @property
    def uses_image(self) -> bool:
        return self.model is not None and self.model.uses_image

    @property
    def is_people(self) -> bool:
        """Whether these are the people who are scored, each against the others."""
        return isinstance(self.model, Human) and not isinstance(self.model, ShuffledHuman)


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation produced.

    Attributes:
        scores: One row per model and trial.
        samples: Sampled scanpaths, one row per fixation: model, stimulus, target (what was searched for), sample,
            fixation (0 is the initial one, where the model makes it), x_px, y_px in px of the stimulus.
        record: Protocol, data, versions, commit, provenance and fitted parameters of every model.
        items: The stimuli that were scored.
        contestants: Whoever was scored, ready to predict.
        protocol: By which.

    """

    scores: pd.DataFrame
    samples: pd.DataFrame
    record: dict[str, Any]
    items: StimulusItems
    contestants: list[Contestant]
    protocol: Protocol


def evaluate(
    protocol: Protocol,
    models: list[str],
    out: Path,
    data_root: Path | None = None,
    split: str | None = None,
    device: str = "cpu",
    progress: Callable[[str, int, int], None] | None = None,
    unseen: bool = False,
) -> Evaluation:
    """Run `protocol` over `models`, its controls and its ceiling.

    Args:
        protocol: What to do.
        models: Checkpoints, folders of ``gazekit crossvalidate``, tables of scanpaths, names of models that need no
            training, or YAML files of such models with their arguments.
        out: Folder for ``scores.parquet``, ``samples.parquet`` and ``evaluation.json``; written last and
            whole, so an earlier result stays until the new one is complete.
        data_root: Data folder; None is ``$GAZEKIT_DATA``, then the cache.
        split: Overrides the protocol's split; ``all`` scores every image.
        device: Where models and metrics run.
        progress: Called with (model, done, total) stimuli.
        unseen: Score only stimuli of the split on which none of the models was trained.

    Raises:
        InputError: Data, a model or a fixation is not what the protocol needs.

    """
    # What costs nothing to check comes before what takes minutes.
    check_split_name(split or protocol.split)
    check_models(models)
    whole = load(protocol.dataset, root=data_root)
    data = _wanted_trials(whole, protocol)
    if "amplitude_js" in protocol.overall:
        _ = data.screen  # says what to do where the geometry is not known
    scored = _scored_part(data, split or protocol.split)
    table = apply_fixation_rules(data, protocol)
    contestants = gather(protocol, models, table, data, device)
    scored = _unseen_part(scored, contestants) if unseen else scored
    scorer = None
    if protocol.paths or protocol.search or protocol.objects:
        scorer = PathScorer(protocol, table, scored.trials, data.stimuli, data.objects)
    served = replace(scored, fixations=_of(table, scored))
    if protocol.objects is not None and protocol.objects.grid is not None:
        served = replace(served, objects=grid_of_objects(served.stimuli, *protocol.objects.grid))
    items = StimulusItems(
        served,
        _grid(protocol),
        decode=any(c.uses_image for c in contestants),
        # Models of looks at objects are told where objects are, and which of them is searched for.
        with_search=protocol.by_target
        or ((protocol.first_fixation == "design" or protocol.objects is not None) and "target" in data.trials),
        with_objects=protocol.objects is not None,
    )
    full = None
    if protocol.pictures == "stimulus" and _grid(protocol) is not None and items.decode:
        full = StimulusItems(items.data, with_search=items.with_search)
    judge = _Judge(
        protocol, items, scorer, ShuffledFixations(table, data),
        RecordedPaths(table[table["in_path"]], data.stimuli, trial_limits(protocol, data.trials)),
        sorted(set(table.loc[table["in_path"], "stimulus"])), _baseline(protocol, contestants, table, data), device,
        full,
    )  # fmt: skip
    parts_folder = out / "parts"
    common = {
        "protocol": protocol.as_dict(), "data": whole.fingerprint(), "code": source_digest(), "device": device,
        "length": None if scorer is None else (scorer.length, scorer.longest),
    }  # fmt: skip
    trials_of = {name: part.tolist() for name, part in scored.trials.groupby("stimulus")["trial"]}
    scores, samples, live = [], [], set()
    for contestant in contestants:
        for start in range(0, len(items), _PIECE):
            rows = range(start, min(start + _PIECE, len(items)))
            names = [items.names[i] for i in rows]
            trials = [trials_of.get(name) for name in names]
            key = _key({**common, "model": contestant.identity, "stimuli": names, "trials": trials})
            score_path, sample_path = (parts_folder / f"{key}.{kind}.parquet" for kind in ("scores", "samples"))
            live |= {score_path, sample_path}
            if not (score_path.exists() and sample_path.exists()):
                part, drawn = judge.run_piece(contestant, rows)
                _write(drawn, sample_path)
                _write(part, score_path)
            scores.append(pd.read_parquet(score_path).assign(model=contestant.name, role=contestant.role))
            samples.append(pd.read_parquet(sample_path).assign(model=contestant.name))
            if progress is not None:
                progress(contestant.name, rows.stop, len(items))
    record = _record(protocol, whole, scored, split, contestants)
    result = Evaluation(
        _finish(pd.concat(scores, ignore_index=True), contestants, scored, protocol, split, record["commit"]),
        pd.concat(samples, ignore_index=True),
        record,
        items,
        contestants,
        protocol,
    )
    _write(result.scores, out / "scores.parquet")
    _write(result.samples, out / "samples.parquet")
    with written_aside(out / "evaluation.json") as aside:
        aside.write_text(json.dumps(record, indent=2, default=str), encoding="utf-8")
    # Pieces of other protocols, data or models would pile up; those of this run speed up the next one.
    for stale in set(parts_folder.glob("*.parquet")) - live:
        stale.unlink(missing_ok=True)
    return result


def check_models(models: list[str]) -> None:
    """Raise an InputError unless each can be scored; see :func:`evaluate`."""
    for given in models:
        if is_scanpath_file(given):
            read_scanpaths(Path(given))
        elif Path(given).is_dir():
            fold_checkpoints(Path(given))
        elif is_model_file(given):
            name, arguments = read_model_file(given)
            if "checkpoint" in arguments:
                read_checkpoint(arguments["checkpoint"])
            elif not needs_no_training(name):
                raise InputError(
                    f"{given}: model {name!r} needs training; give its checkpoint file, here as 'checkpoint: FILE'"
                )
        elif given not in MODELS:
            if not Path(given).is_file() and Path(given).stem == given:  # a name, not the path of a file
                mend = "; or give a checkpoint, a model file or a table of scanpaths"
                raise unknown_name("model or file", given, model_names(), mend)
            read_checkpoint(given)
        elif not needs_no_training(given):
            raise InputError(f"model {given!r} needs training; give its checkpoint file, written by 'gazekit fit'")


def needs_no_training(name: str) -> bool:
    """Whether a registered model can be scored as it is, or after looking at the fixations."""
    model_class: Any = MODELS.load(name)
    return name == "uniform" or bool(model_class.fits_fixations or model_class.zero_shot)


def _wanted_trials(data: GazeDataset, protocol: Protocol) -> GazeDataset:
    """The trials, of all splits, that the protocol asks for; whoever learns from people learns from these.

    Raises:
        InputError: A column is not there, or nothing is left.

    """
    keep = pd.Series(True, index=data.trials.index)
    for column, wanted in protocol.trials.items():
        if column not in data.trials:
            raise InputError(
                f"protocol {protocol.name!r} wants trials with {column}: {wanted}, and {data.name} has no such column"
            )
        keep &= (data.trials[column] == wanted).fillna(False).astype(bool)
    if protocol.by is not None and protocol.by not in data.trials:
        raise InputError(f"protocol {protocol.name!r} averages by {protocol.by}, and {data.name} has no such column")
    if not keep.any():
        wanted = protocol.trials or "a scanpath"
        raise InputError(f"{data.name}: none of {len(keep)} trials has {wanted}")
    if keep.all():
        return data
    part = data.subset(trials=data.trials.loc[keep, "trial"].tolist())
    seen = part.stimuli["stimulus"].isin(part.trials["stimulus"])
    return part if seen.all() else part.subset(stimuli=part.stimuli.loc[seen, "stimulus"].tolist())


def _scored_part(data: GazeDataset, split: str) -> GazeDataset:
    """Those of the split.

    Raises:
        InputError: The dataset's split divides the trials on one image.

    """
    if split != "all" and data.card.split_rule.by == "trial":
        raise InputError(
            f"{data.name} is split by trial, so that a model may have been trained on the very images that it is "
            f"scored on; give a split by stimulus or by subject, or --split all"
        )
    return data.split(split)


def _unseen_part(data: GazeDataset, contestants: list[Contestant]) -> GazeDataset:
    """The stimuli on which nobody was trained.

    Raises:
        InputError: There is none.

    """
    trained = [set(c.provenance.get("train_stimuli", ())) for c in contestants
               if c.provenance.get("train_dataset") == data.name]  # fmt: skip
    seen = set().union(*trained)
    left = [name for name in data.stimuli["stimulus"] if name not in seen]
    if not left:
        raise InputError(f"{data.name}: on each of {len(data.stimuli)} stimuli a model was trained; give fewer models")
    return data.subset(stimuli=left)


def apply_fixation_rules(data: GazeDataset, protocol: Protocol) -> pd.DataFrame:
    """The dataset's fixations with the boolean columns ``scored`` and ``in_path``, after the protocol's rules.

    The first fixation stays in the table as history where maps are not scored on it; scanpaths (``in_path``) hold it
    where models make it or are told it.

    Raises:
        InputError: A fixation lies outside its image and the rule is ``raise``.

    """
    table = data.fixations.copy()
    off = outside(table, data.stimuli)
    if off.any() and protocol.out_of_image == "raise":
        first = table[off].iloc[0]
        raise InputError(
            f"{data.name}: {int(off.sum())} fixations outside their image (first: subject {first['subject']}, stimulus "
            f"{first['stimulus']}, (x, y) = ({first['x_px']:.1f}, {first['y_px']:.1f}) px); protocol "
            f"{protocol.name!r} allows none: correct the data, or use a protocol with out_of_image: drop or clip"
        )
    first = table["fixation"] == 0
    table["scored"] = protocol.first_fixation == "keep"
    table["scored"] |= ~first
    table["in_path"] = table["scored"] | protocol.start_is_given
    if protocol.out_of_image == "drop":
        table["scored"] &= ~off
        # Where models are told how a scanpath starts it starts there, be it outside.
        table["in_path"] &= ~off | (first & protocol.start_is_given)
    sizes = data.stimuli.set_index("stimulus").loc[table["stimulus"], ["width_px", "height_px"]].to_numpy(float)
    if protocol.first_fixation == "center":
        table.loc[first, ["x_px", "y_px"]] = sizes[first.to_numpy()] / 2.0
    if off.any():
        # Off-image positions stay usable as history: at the edge of the image.
        table[["x_px", "y_px"]] = _clipped(table, data.stimuli)
    return table


def _clipped(table: pd.DataFrame, stimuli: pd.DataFrame) -> np.ndarray:
    """(n, 2) positions, those off their stimulus at its edge."""
    sizes = stimuli.set_index("stimulus").loc[table["stimulus"], ["width_px", "height_px"]].to_numpy(float)
    # The last number below the edge in single precision, which batches use.
    last = np.nextafter(sizes.astype(np.float32), np.float32(0.0)).astype(float)
    return np.asarray(np.clip(table[["x_px", "y_px"]].to_numpy(float), 0.0, last))


def gather(
    protocol: Protocol, models: list[str], table: pd.DataFrame, data: GazeDataset, device: str
) -> list[Contestant]:
    """Controls, models and ceiling, in the order of the table, fitted or restored."""
    contestants = [_builtin(name, "control", protocol, table, data) for name in protocol.controls]
    for given in models:
        if given in MODELS:
            if given not in {c.name for c in contestants} | {protocol.ceiling}:
                contestants.append(_builtin(given, "model", protocol, table, data))
            continue
        path = Path(given)
        name = _unique(path.stem, {c.name for c in contestants} | set(MODELS) - {path.stem})
        if is_scanpath_file(given):
            contestants.append(_from_file(path, name, protocol, data))
            continue
        if path.is_dir():
            folds, digest = load_folds(path)
            about = {"checkpoint": path.name, "sha256": digest, **folds.provenance()}
            contestants.append(Contestant(name, folds.to(device), "model", digest, about))
            continue
        if is_model_file(given):
            model = _fitted(model_from_file(given).to(device), table, data)
            about = {"arguments": read_model_file(given)[1], **model.provenance()}
            contestants.append(Contestant(name, model, "model", identity_of(given, model), about))
            continue
        model = load_model(path).to(device)
        contestants.append(Contestant(name, model, "model", sha256_of(path), _checkpoint_provenance(path, model)))
    if protocol.ceiling:
        contestants.append(_builtin(protocol.ceiling, "ceiling", protocol, table, data))
    return contestants


def _from_file(path: Path, name: str, protocol: Protocol, data: GazeDataset) -> Contestant:
    """A model of which only scanpaths are known; it has no scores of maps."""
    table = read_scanpaths(path)
    known = table["stimulus"].isin(data.stimuli["stimulus"])
    if not known.any():
        raise InputError(
            f"{path}: none of its {table['stimulus'].nunique()} stimuli is in {data.name}; expected names such as "
            f"{data.stimuli['stimulus'].iloc[0]!r}"
        )
    table = table[known].reset_index(drop=True)
    off = outside(table, data.stimuli)
    if off.any() and protocol.out_of_image == "raise":
        at = table[off].iloc[0]
        raise InputError(
            f"{path}: {int(off.sum())} fixations outside their image (first: stimulus {at['stimulus']}, (x, y) = "
            f"({at['x_px']:.1f}, {at['y_px']:.1f}) px); protocol {protocol.name!r} allows none"
        )
    if protocol.out_of_image == "drop":
        table = table[~off]
    elif off.any():
        table[["x_px", "y_px"]] = _clipped(table, data.stimuli)
    if not protocol.by_target:
        table = table.assign(target="")
    if protocol.first_fixation != "keep":
        # By the rule for people: the initial fixation is not the model's, or not compared.
        table = table[table["fixation"] > 0]
    # Scanpaths for different targets lie on stimuli of different names.
    if protocol.first_fixation != "design":
        table = table.assign(start_x_px=np.nan, start_y_px=np.nan)
    which = [table[name] for name in ("stimulus", "target", "start_x_px", "start_y_px")]
    keyed = table.assign(stimulus=[_path_key(s, t, (x, y)) for s, t, x, y in zip(*which, strict=True)])
    sizes = data.stimuli.merge(
        pd.DataFrame({"stimulus": table["stimulus"], "key": keyed["stimulus"]}).drop_duplicates(), on="stimulus"
    )
    paths = RecordedPaths(keyed, sizes.assign(stimulus=sizes["key"]))
    about = {"scanpaths": path.name, "sha256": sha256_of(path), "stimuli": int(table["stimulus"].nunique())}
    return Contestant(name, None, "model", sha256_of(path), about, paths)


def _path_key(stimulus: str, target: str, start_px: tuple[float, float] | None = None) -> str:
    """Of scanpaths out of a file; a start that is NaN is none."""
    begins = "" if start_px is None or np.isnan(start_px).any() else "{:.2f} {:.2f}".format(*start_px)
    return f"{stimulus}\n{target}\n{begins}"


def _builtin(name: str, role: str, protocol: Protocol, table: pd.DataFrame, data: GazeDataset) -> Contestant:
    model = create_model(name)
    # Scanpaths of people are taken from the table: their densities are fitted where maps are scored.
    if protocol.metrics or not isinstance(model, Human):
        model = _fitted(model, table, data)
    fitted = model.parameters_fitted if isinstance(model, FixationMemory) else {}
    return Contestant(name, model, role, name, {"fitted": fitted} if fitted else {})


def _baseline(
    protocol: Protocol, contestants: list[Contestant], table: pd.DataFrame, data: GazeDataset
) -> GazeModel | None:
    if protocol.baseline is None:
        return None
    found = next((c.model for c in contestants if c.name == protocol.baseline), None)
    return _fitted(create_model(protocol.baseline), table, data) if found is None else found


def _fitted(model: GazeModel, table: pd.DataFrame, data: GazeDataset) -> GazeModel:
    if isinstance(model, FixationMemory):
        px_per_dva = float("nan") if data.card.screen is None else data.screen.px_per_dva
        model.fit_fixations(table[table["scored"]], data.stimuli, px_per_dva)
    return model.eval()


def _checkpoint_provenance(path: Path, model: GazeModel) -> dict[str, Any]:
    return {"checkpoint": path.name, "sha256": sha256_of(path), **model.provenance()}


def _unique(name: str, taken: set[str]) -> str:
    return name if name not in taken else next(n for i in range(2, 99) if (n := f"{name}-{i}") not in taken)


class ShuffledFixations:
    """Fixations on all other images, in the frame of the scored one: the negatives of the shuffled AUC."""

    def __init__(self, table: pd.DataFrame, data: GazeDataset) -> None:
        scored = table[table["scored"]]
        sizes = data.stimuli.set_index("stimulus").loc[scored["stimulus"], ["width_px", "height_px"]].to_numpy(float)
        self._relative = torch.from_numpy(scored[["x_px", "y_px"]].to_numpy() / sizes)
        self._stimulus = scored["stimulus"].to_numpy()

    def others(self, stimulus: str, size_wh_px: tuple[int, int]) -> Tensor:
        """(M, 2) positions in px of the frame."""
        size = torch.tensor(size_wh_px, dtype=torch.float64)
        xy = self._relative[torch.from_numpy(self._stimulus != stimulus)] * size
        return torch.minimum(xy, torch.nextafter(size, torch.zeros_like(size)))


def _grid(protocol: Protocol) -> tuple[int, int] | None:
    return None if protocol.grid == "stimulus" else protocol.grid  # type: ignore[return-value]


def _of(table: pd.DataFrame, scored: GazeDataset) -> pd.DataFrame:
    return table[table["trial"].isin(scored.trials["trial"])].reset_index(drop=True)


@dataclass(frozen=True)
class _Judge:
    """Everything that scoring a stimulus takes, besides who is scored."""

    protocol: Protocol
    items: StimulusItems
    scorer: PathScorer | None
    shuffled: ShuffledFixations
    recorded: RecordedPaths
    names: list[str]
    baseline: GazeModel | None
    device: str
    # The stimuli in their own size, where maps are on a grid but pictures are not.
    full: StimulusItems | None = None

    @torch.inference_mode()
    def run_piece(self, contestant: Contestant, rows: range) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Scores and sampled scanpaths on some of the stimuli."""
        scores, samples = [], []
        loader = torch.utils.data.DataLoader(
            torch.utils.data.Subset(self.items, list(rows)), batch_size=1, collate_fn=self.items.collate, num_workers=0
        )
        is_scored = self.items.data.fixations.set_index(["trial", "fixation"])["scored"]
        for batch in loader:
            batch = batch.to(self.device)
            model = contestant.model
            if model is not None and model.feature_spec(batch.size_wh_px) is not None and batch.image is not None:
                # The backbone runs once per image, not once per question asked about it.
                shown = batch if self.full is None else self._in_full(batch)
                assert shown.image is not None
                batch = replace(batch, features=model.encode(shown.image), search=shown.search)
            table = _score_stimulus(
                model, self.baseline, batch, _scored(batch, is_scored), self.shuffled, self.protocol
            )  # fmt: skip
            paths = self._paths(contestant, batch)
            if self.scorer is not None:
                table = table.merge(self._path_scores(self.scorer, contestant, batch, paths), on="trial", how="left")
            scores.append(table)
            samples.append(self._sample_table(batch, paths))
        return pd.concat(scores, ignore_index=True), pd.concat(samples, ignore_index=True)

    def _in_full(self, batch: TrialBatch) -> TrialBatch:
        """The stimulus, and the pictures of its targets, in their own size; all else as it was."""
        assert self.full is not None
        own = self.full.collate([self.full[self.full.row_of[batch.stimulus[0]]]]).to(self.device)
        search = batch.search
        if search is not None and own.search is not None:
            search = replace(
                search, template=own.search.template, template_of_trial=own.search.template_of_trial
            )  # fmt: skip
        return replace(batch, image=own.image, search=search)

    def _path_scores(
        self, scorer: PathScorer, contestant: Contestant, batch: TrialBatch, paths: list[PathSet | None]
    ) -> pd.DataFrame:
        """One row per trial: scanpaths of the contestant against those of people."""
        stimulus, frame = batch.stimulus[0], batch.size_wh_px
        parts = []
        for group in scorer.groups(stimulus, frame):
            if contestant.is_people:
                made = None
            elif isinstance(contestant.model, ShuffledHuman):
                # All scanpaths of people on another image; no draw is needed.
                partner = shuffled_partner(self.names, stimulus)
                made = self.recorded.on(partner, frame, None if partner != stimulus else np.empty(0, np.int64))
                made = made.after_first() if self.protocol.start_is_given else made
            else:
                # Each trial by the scanpaths that began where it did.
                for number in pd.unique(group.question):
                    asked, found = group.question == number, paths[number]
                    assert found is not None
                    scores = {name: value[asked] for name, value in scorer.score(group, found).items()}
                    parts.append(pd.DataFrame({"trial": group.trials[asked], **scores}))
                continue
            parts.append(pd.DataFrame({"trial": group.trials, **scorer.score(group, made)}))
        return pd.concat(parts, ignore_index=True)

    def _questions(self, stimulus: str) -> list[Question]:
        return [Question("", None, 0)] if self.scorer is None else self.scorer.questions(stimulus)

    def _paths(self, contestant: Contestant, batch: TrialBatch) -> list[PathSet | None]:
        """Scanpaths of the contestant by question, in px of the frame; seeded by stimulus and question alone.

        Fixations that a protocol gives, or leaves out, are not among them. None where the contestant makes none.
        """
        stimulus, model = batch.stimulus[0], contestant.model
        found: list[PathSet | None] = []
        for question in self._questions(stimulus):
            if contestant.paths is not None:
                # The most that a file says: for the target from the start, for the target, for any.
                starts, targets = dict.fromkeys((question.start_px, None)), dict.fromkeys((question.target, ""))
                ways = [_path_key(stimulus, target, start) for target in targets for start in starts]
                key = next((key for key in ways if len(contestant.paths.trials(key))), ways[0])
                made = contestant.paths.on(key, batch.size_wh_px)
                found.append(replace(made, start_px=self._start(question, batch, len(made))))
            elif model is None or (isinstance(model, Human) and not model.memory):
                found.append(None)
            else:
                found.append(self._sampled(model, batch, question))
        return found

    def _sampled(self, model: GazeModel, batch: TrialBatch, question: Question) -> PathSet:
        rules = self.protocol.samples
        parts: list[Any] = [batch.stimulus[0]] + ([question.target] if question.target else [])
        parts += [] if question.start_px is None else list(question.start_px)
        generator = torch.Generator().manual_seed(seed_of(rules["seed"], *parts))
        one = first_trial_of_each_stimulus(batch)
        if self.protocol.by_target and batch.search is not None:
            row = batch.search.target.index(question.target)
            one = first_trial_of_each_stimulus(batch.trials(row, row + 1))
        start = self._start(question, batch, rules["per_stimulus"])
        if start is not None and one.search is not None:
            search = replace(
                one.search, start_xy_px=start[:1].to(one.search.start_xy_px),
                has_start=torch.ones_like(one.search.has_start),
            )  # fmt: skip
            one = replace(one, search=search)
        if model.per_subject:
            # Anybody's scanpath will do: nobody is left out.
            one = replace(one, subject=("",))
        if self.scorer is None:
            length = max(1, int(batch.valid.sum(1).float().median()))
        else:
            asked = max(self.scorer.longest, question.length) if model.ends_itself else question.length
            length = max(1, asked - int(self.protocol.start_is_given))
        # Of a model of scanpaths the first fixation is the initial one; where it is not the model's, one more is made.
        extra = int(self.scorer is not None and self.protocol.first_fixation != "keep" and model.is_scanpath())
        made = model.sample(one, rules["per_stimulus"], length + extra, generator)
        paths = PathSet(made.xy_px[0].double().cpu(), made.valid[0].cpu(), None)
        paths = paths.after_first() if extra else paths
        return replace(paths, start_px=start)

    def _start(self, question: Question, batch: TrialBatch, n: int) -> Tensor | None:
        """(n, 2) float64 where the question puts the eye, in px of the frame."""
        if question.start_px is None:
            return None
        own = self.items.own_sizes[self.items.row_of[batch.stimulus[0]]]
        scale = np.array(batch.size_wh_px) / np.array(own)
        return torch.from_numpy(np.tile(np.array(question.start_px) * scale, (n, 1)))

    def _sample_table(self, batch: TrialBatch, paths: list[PathSet | None]) -> pd.DataFrame:
        """The scanpaths as rows, in px of the stimulus; an initial fixation that was left out is number 0.

        Samples of one target from several starts are counted on.
        """
        width, height = self.items.own_sizes[self.items.row_of[batch.stimulus[0]]]
        scale = np.array([width / batch.size_wh_px[0], height / batch.size_wh_px[1]])
        offset = int(self.scorer is not None and self.protocol.first_fixation != "keep")
        parts = [pd.DataFrame(columns=list(_SAMPLE_COLUMNS)).astype(_SAMPLE_COLUMNS)]
        counted: dict[str, int] = {}
        for question, made in zip(self._questions(batch.stimulus[0]), paths, strict=True):
            if made is None:
                continue
            target, before = question.target, counted.get(question.target, 0)
            counted[target] = before + len(made)
            sample, fixation = made.valid.nonzero(as_tuple=True)
            xy = made.px[sample, fixation].numpy() * scale
            start = (np.nan, np.nan) if question.start_px is None else question.start_px
            columns = (
                batch.stimulus[0],
                target,
                *start,
                sample.numpy() + before,
                fixation.numpy() + offset,
                xy[:, 0],
                xy[:, 1],
            )
            parts.append(pd.DataFrame(dict(zip(_SAMPLE_COLUMNS, columns, strict=True))).astype(_SAMPLE_COLUMNS))
        return pd.concat(parts, ignore_index=True)


def _scored(batch: TrialBatch, is_scored: pd.Series) -> Tensor:
    """(B, T) bool: the valid fixations that the protocol scores."""
    scored = batch.valid.clone()
    for row, trial in enumerate(batch.trial.tolist()):
        n = int(batch.valid[row].sum())
        if n:
            scored[row, :n] = torch.from_numpy(is_scored.loc[trial].to_numpy(copy=True)).to(scored.device)
    return scored


def _score_stimulus(
    model: GazeModel | None,
    baseline: GazeModel | None,
    batch: TrialBatch,
    scored: Tensor,
    shuffled: ShuffledFixations,
    protocol: Protocol,
) -> pd.DataFrame:
    """One row per trial on the batch's one stimulus: what is scored, and the scores of maps."""
    wanted = [METRICS[name] for name in protocol.metrics]
    needs = {info.needs for info in wanted}
    columns: dict[str, Any] = {
        "stimulus": batch.stimulus[0],
        "subject": list(batch.subject),
        "trial": batch.trial.tolist(),
        "n_fixations": scored.sum(1).tolist(),
    }
    if model is None or baseline is None:
        # Scanpaths alone give no map.
        return pd.DataFrame(columns | dict.fromkeys(protocol.metrics, np.nan))
    xy = batch.xy_px
    base = baseline.log_density(batch)
    log_density = model.log_density(batch)
    density = exp_shared(log_density)
    empirical = _empirical(batch, scored, protocol) if "empirical" in needs else None
    values: dict[str, Tensor] = {}
    for info in wanted:
        options = path_options(protocol.metric_options.get(info.name, {}))
        if info.needs in ("map", "empirical"):
            density_of = _best_map(info.name, log_density, density, base, batch, scored, protocol, options)
        if info.name == "sauc":
            other = shuffled.others(batch.stimulus[0], batch.size_wh_px).to(batch.device)
            inside = torch.ones(len(other), dtype=torch.bool, device=batch.device)
            values[info.name] = info.function(density_of, xy, scored, other, inside, **options)
        elif info.name == "ig":
            values["ig"] = info.function(log_density, base, xy, scored, **options)
        elif info.needs == "log_density":
            values[info.name] = info.function(log_density, xy, scored, **options)
        elif info.needs == "map":
            values[info.name] = info.function(density_of, xy, scored, **options)
        elif info.needs == "empirical":
            assert empirical is not None
            leaks = protocol.empirical == "pooled" and model.per_subject
            score = torch.full((len(batch),), torch.nan)
            score = score if leaks else info.function(density_of, empirical, **options)
            # A trial without a scored fixation has no empirical density.
            values[info.name] = score.masked_fill((~scored.any(1)).to(score.device), torch.nan)
    if "conditional" in needs:
        names = [info.name for info in wanted if info.needs == "conditional"]
        if model.is_scanpath():
            values |= _conditional(model, base, batch, scored, names, protocol)
        else:
            # The same map before every fixation: by definition the static score.
            for name in names:
                twin = METRICS[_STATIC_TWIN[name]]
                options = protocol.metric_options.get(name, {})
                # Options are those of the conditional score, and only the density itself is its static twin.
                same = not options and twin.name not in protocol.metric_options and protocol.scored_map == "density"
                if options:
                    values |= _conditional(model, base, batch, scored, [name], protocol)
                elif same and twin.name in values:
                    values[name] = values[twin.name]
                else:
                    first = (log_density, base) if name == "cig" else (density,)
                    values[name] = twin.function(*first, xy, scored)
    columns |= {name: values[name].double().cpu().numpy() for name in protocol.metrics}
    return pd.DataFrame(columns)


def _best_map(
    name: str, log_density: Tensor, density: Tensor, base: Tensor, batch: TrialBatch, scored: Tensor,
    protocol: Protocol, options: dict[str, Any],
) -> Tensor:  # fmt: skip
    """The map that a metric scores: the density, or the one of highest expected score under it."""
    if protocol.scored_map == "density" or name not in get_args(MapMetric):
        return density
    assert protocol.empirical_sigma_dva is not None
    n_trials = 1 if protocol.empirical == "subject" else len(batch)
    # As many fixations as an empirical density holds, of an average trial.
    n_fixations = max(1, round(float(scored.sum()) / max(1, len(batch)) * n_trials))
    sampled = {"n_fixations": n_fixations, "n_samples": options.pop("n_samples", 200)} if name == "sim" else {}
    return saliency_map_for(name, log_density, base, protocol.empirical_sigma_dva * batch.px_per_dva, **sampled)  # type: ignore[arg-type]


def _conditional(
    model: GazeModel, base: Tensor, batch: TrialBatch, scored: Tensor, names: list[str], protocol: Protocol
) -> dict[str, Tensor]:
    step = max(1, _MAPS_AT_ONCE // batch.xy_px.shape[1])
    parts: dict[str, list[Tensor]] = {name: [] for name in names}
    for start in range(0, len(batch), step):
        some = batch.trials(start, start + step)
        log_density = model.conditional_log_density(some)
        for name in names:
            given = (log_density, base[start : start + step]) if name == "cig" else (log_density,)
            options = protocol.metric_options.get(name, {})
            parts[name].append(METRICS[name].function(*given, some.xy_px, scored[start : start + step], **options))
    return {name: torch.cat(part) for name, part in parts.items()}


def _empirical(batch: TrialBatch, scored: Tensor, protocol: Protocol) -> Tensor:
    assert protocol.empirical_sigma_dva is not None
    sigma_px = protocol.empirical_sigma_dva * batch.px_per_dva
    if protocol.empirical == "pooled":
        everyone = batch.xy_px.reshape(1, -1, 2), scored.reshape(1, -1)
        pooled = fixation_density(*everyone, batch.size_wh_px, sigma_px, torch.float32)
        return pooled.expand(len(batch), -1, -1)
    density = fixation_density(batch.xy_px, scored, batch.size_wh_px, sigma_px, torch.float32)
    # Trials without a scored fixation become NaN by the caller; a flat map keeps the metrics quiet.
    return density.nan_to_num(1.0 / density[0].numel())


def _finish(
    scores: pd.DataFrame, contestants: list[Contestant], data: GazeDataset, protocol: Protocol, split: str | None,
    commit: str,
) -> pd.DataFrame:  # fmt: skip
    """Add what each row must carry: data, protocol, checkpoint, commit, and whether it was trained on."""
    trained = {c.name: set(c.provenance.get("train_stimuli", ())) for c in contestants}
    of_same_data = {c.name: c.provenance.get("train_dataset") == data.name for c in contestants}
    seen = [of_same_data[m] and s in trained[m] for m, s in zip(scores["model"], scores["stimulus"], strict=True)]
    checkpoint = {c.name: c.provenance.get("sha256", "")[:16] for c in contestants}
    keys = ["stimulus", "subject", "trial"]
    of_trial = data.trials.set_index("trial")
    categories = {
        name: scores["trial"].map(of_trial[name])
        for name in dict.fromkeys(["task", "target", *([protocol.by] if protocol.by else [])])
        if name in of_trial and name not in keys
    }
    head = scores[["model", "role", *keys, "n_fixations"]].assign(
        **categories,
        seen_in_training=seen,
        dataset=data.name,
        simulated=data.card.simulated,
        protocol=protocol.label,
        split=split or protocol.split,
        checkpoint=scores["model"].map(checkpoint),
        weights=scores["model"].map({c.name: c.provenance.get("weights", "") for c in contestants}),
        commit=commit,
    )
    # Curves and shares of pairs follow the scores.
    rest = [name for name in scores if name not in {*head, *protocol.columns}]
    return pd.concat([head, scores[list(protocol.columns)], scores[rest]], axis=1)


def _record(
    protocol: Protocol, data: GazeDataset, scored: GazeDataset, split: str | None, contestants: list[Contestant]
) -> dict[str, Any]:
    return {
        "protocol": protocol.as_dict(),
        "split": split or protocol.split,
        "data": {
            "name": data.name, "label": data.card.label, "simulated": data.card.simulated,
            "fingerprint": data.fingerprint(), "stimuli_here": len(data.stimuli),
            "stimuli_in_card": data.card.expect.get("stimuli", len(data.stimuli)),
            "stimuli_scored": len(scored.stimuli), "trials_scored": len(scored.trials),
            "citation": " ".join(data.card.content["citation"].split()),
        },
        "models": {c.name: {"role": c.role, **c.provenance} for c in contestants},
        "commit": git_commit(),
        "code": source_digest(),
        "versions": {"gazekit": gazekit.__version__, "torch": torch.__version__, "numpy": np.__version__},
    }  # fmt: skip


def _write(table: pd.DataFrame, path: Path) -> None:
    with written_aside(path) as aside:
        table.to_parquet(aside, index=False)


def _key(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:20]


def source_digest() -> str:
    """Digest of gazekit's own source files: results of other code are never taken for these."""
    digest = hashlib.sha256()
    folder = Path(gazekit.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
