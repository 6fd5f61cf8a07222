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
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

import gazekit
from gazekit.batch import TrialBatch
from gazekit.datasets import GazeDataset, load
from gazekit.datasets.datamodule import StimulusItems
from gazekit.datasets.split import check_split_name
from gazekit.density import exp_shared, fixation_density
from gazekit.errors import InputError
from gazekit.evaluation.protocol import Protocol
from gazekit.files import sha256_of, written_aside
from gazekit.metrics import METRICS
from gazekit.models import MODELS, GazeModel, create_model, load_model
from gazekit.models.base import first_trial_of_each_stimulus, seed_of
from gazekit.models.fixation_memory import FixationMemory
from gazekit.models.registry import read_checkpoint
from gazekit.provenance import git_commit
from gazekit.tables import outside

# Stimuli per saved piece, and conditional maps in memory at a time (600x800 float32: 2 MB each).
_PIECE, _MAPS_AT_ONCE = 25, 64
# A scanpath model's score under a static metric and the other way round.
_STATIC_TWIN = {"cnss": "nss", "cauc": "auc", "cig": "ig"}


@dataclass(frozen=True)
class Contestant:
    """A model with the name it has in tables and what identifies it.

    Args:
        name: Unique in the table: the registered name, or the checkpoint's file name.
        model: Ready to predict.
        role: ``model``, ``control`` or ``ceiling``.
        identity: Digest of what defines it (checkpoint file, or registered name).
        provenance: What goes into the record: weights, training images, ...

    """

    name: str
    model: GazeModel
    role: str
    identity: str
    provenance: dict[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation produced.

    Attributes:
        scores: One row per model and trial.
        samples: Sampled scanpaths, one row per fixation: model, stimulus, sample, fixation, x_px, y_px.
        record: Protocol, data, versions, commit, provenance and fitted parameters of every model.
        items: The stimuli that were scored.
        contestants: Whoever was scored, ready to predict.

    """

    scores: pd.DataFrame
    samples: pd.DataFrame
    record: dict[str, Any]
    items: StimulusItems
    contestants: list[Contestant]


def evaluate(
    protocol: Protocol,
    models: list[str],
    out: Path,
    data_root: Path | None = None,
    split: str | None = None,
    device: str = "cpu",
    progress: Callable[[str, int, int], None] | None = None,
) -> Evaluation:
    """Run `protocol` over `models`, its controls and its ceiling.

    Args:
        protocol: What to do.
        models: Checkpoint paths, or names of models that need no training.
        out: Folder for ``scores.parquet``, ``samples.parquet`` and ``evaluation.json``; written last and
            whole, so an earlier result stays until the new one is complete.
        data_root: Data folder; None is ``$GAZEKIT_DATA``, then the cache.
        split: Overrides the protocol's split; ``all`` scores every image.
        device: Where models and metrics run.
        progress: Called with (model, done, total) stimuli.

    Raises:
        InputError: Data, a model or a fixation is not what the protocol needs.

    """
    # What costs nothing to check comes before what takes minutes.
    check_split_name(split or protocol.split)
    check_models(models)
    data = load(protocol.dataset, root=data_root)
    scored = data.split(split or protocol.split)
    table = apply_fixation_rules(data, protocol)
    contestants = gather(protocol, models, table, data, device)
    items = StimulusItems(replace(scored, fixations=_of(table, scored)), _grid(protocol))
    shuffled = ShuffledFixations(table, data)
    parts_folder = out / "parts"
    common = {
        "protocol": protocol.as_dict(), "data": data.fingerprint(), "code": source_digest(), "device": device,
    }  # fmt: skip
    baseline = next((c.model for c in contestants if c.name == protocol.baseline), None)
    if baseline is None:
        baseline = _fitted(create_model(protocol.baseline), table, data)
    scores, samples, live = [], [], set()
    for contestant in contestants:
        for start in range(0, len(items), _PIECE):
            rows = range(start, min(start + _PIECE, len(items)))
            key = _key({**common, "model": contestant.identity, "stimuli": [items.names[i] for i in rows]})
            score_path, sample_path = (parts_folder / f"{key}.{kind}.parquet" for kind in ("scores", "samples"))
            live |= {score_path, sample_path}
            if not (score_path.exists() and sample_path.exists()):
                part, drawn = _run_piece(contestant, baseline, items, rows, shuffled, protocol, device)
                _write(drawn, sample_path)
                _write(part, score_path)
            scores.append(pd.read_parquet(score_path).assign(model=contestant.name, role=contestant.role))
            samples.append(pd.read_parquet(sample_path).assign(model=contestant.name))
            if progress is not None:
                progress(contestant.name, rows.stop, len(items))
    record = _record(protocol, data, scored, split, contestants)
    result = Evaluation(
        _finish(pd.concat(scores, ignore_index=True), contestants, data, protocol, split, record["commit"]),
        pd.concat(samples, ignore_index=True),
        record,
        items,
        contestants,
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
    """Raise an InputError unless each is a checkpoint of gazekit's or a model that needs no training."""
    for given in models:
        if given not in MODELS:
            read_checkpoint(given)
        elif not needs_no_training(given):
            raise InputError(f"model {given!r} needs training; give its checkpoint file, written by 'gazekit fit'")


def needs_no_training(name: str) -> bool:
    """Whether a registered model can be scored as it is, or after looking at the fixations."""
    model_class: Any = MODELS.load(name)
    return name == "uniform" or bool(model_class.fits_fixations)


def apply_fixation_rules(data: GazeDataset, protocol: Protocol) -> pd.DataFrame:
    """The dataset's fixations with the boolean column ``scored``, after the protocol's rules.

    The first fixation stays in the table as history where the rule is to drop it from scoring.

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
    table["scored"] = True
    if protocol.first_fixation == "drop":
        table["scored"] = table["fixation"] > 0
    if protocol.out_of_image == "drop":
        table["scored"] &= ~off
    if off.any():
        # Off-image positions stay usable as history: at the edge of the image.
        sizes = data.stimuli.set_index("stimulus").loc[table["stimulus"], ["width_px", "height_px"]].to_numpy(float)
        # The last number below the edge in single precision, which batches use.
        last = np.nextafter(sizes.astype(np.float32), np.float32(0.0)).astype(float)
        table[["x_px", "y_px"]] = np.clip(table[["x_px", "y_px"]].to_numpy(), 0.0, last)
    return table


def gather(
    protocol: Protocol, models: list[str], table: pd.DataFrame, data: GazeDataset, device: str
) -> list[Contestant]:
    """Controls, models and ceiling, in the order of the table, fitted or restored."""
    contestants = [_builtin(name, "control", table, data) for name in protocol.controls]
    for given in models:
        if given in MODELS:
            if given not in {c.name for c in contestants} | {protocol.ceiling}:
                contestants.append(_builtin(given, "model", table, data))
            continue
        path = Path(given)
        model = load_model(path).to(device)
        name = _unique(path.stem, {c.name for c in contestants} | set(MODELS) - {path.stem})
        contestants.append(Contestant(name, model, "model", sha256_of(path), _checkpoint_provenance(path, model)))
    if protocol.ceiling:
        contestants.append(_builtin(protocol.ceiling, "ceiling", table, data))
    return contestants


def _builtin(name: str, role: str, table: pd.DataFrame, data: GazeDataset) -> Contestant:
    model = _fitted(create_model(name), table, data)
    fitted = model.parameters_fitted if isinstance(model, FixationMemory) else {}
    return Contestant(name, model, role, name, {"fitted": fitted} if fitted else {})


def _fitted(model: GazeModel, table: pd.DataFrame, data: GazeDataset) -> GazeModel:
    if isinstance(model, FixationMemory):
        model.fit_fixations(table[table["scored"]], data.stimuli, data.screen.px_per_dva)
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
    return table[table["stimulus"].isin(scored.stimuli["stimulus"])].reset_index(drop=True)


@torch.inference_mode()
def _run_piece(
    contestant: Contestant, baseline: GazeModel, items: StimulusItems, rows: range, shuffled: ShuffledFixations,
    protocol: Protocol, device: str,
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    scores, samples = [], []
    loader = torch.utils.data.DataLoader(
        torch.utils.data.Subset(items, list(rows)), batch_size=1, collate_fn=items.collate, num_workers=0
    )
    is_scored = items.data.fixations.set_index(["trial", "fixation"])["scored"]
    for batch in loader:
        batch = batch.to(device)
        if contestant.model.feature_spec(batch.size_wh_px) is not None and batch.image is not None:
            # The backbone runs once per image, not once per question asked about it.
            batch = replace(batch, features=contestant.model.encode(batch.image))
        scores.append(_score_stimulus(contestant.model, baseline, batch, _scored(batch, is_scored), shuffled, protocol))
        samples.append(_sample_stimulus(contestant.model, batch, protocol))
    return pd.concat(scores, ignore_index=True), pd.concat(samples, ignore_index=True)


def _scored(batch: TrialBatch, is_scored: pd.Series) -> Tensor:
    """(B, T) bool: the valid fixations that the protocol scores."""
    scored = batch.valid.clone()
    for row, trial in enumerate(batch.trial.tolist()):
        n = int(batch.valid[row].sum())
        if n:
            scored[row, :n] = torch.from_numpy(is_scored.loc[trial].to_numpy(copy=True)).to(scored.device)
    return scored


def _score_stimulus(
    model: GazeModel,
    baseline: GazeModel,
    batch: TrialBatch,
    scored: Tensor,
    shuffled: ShuffledFixations,
    protocol: Protocol,
) -> pd.DataFrame:
    """One row per trial on the batch's one stimulus."""
    wanted = [METRICS[name] for name in protocol.metrics]
    needs = {info.needs for info in wanted}
    columns: dict[str, Any] = {
        "stimulus": batch.stimulus[0],
        "subject": list(batch.subject),
        "trial": batch.trial.tolist(),
        "n_fixations": scored.sum(1).tolist(),
    }
    xy = batch.xy_px
    base = baseline.log_density(batch)
    log_density = model.log_density(batch)
    density = exp_shared(log_density)
    empirical = _empirical(batch, scored, protocol) if "empirical" in needs else None
    values: dict[str, Tensor] = {}
    for info in wanted:
        if info.name == "sauc":
            other = shuffled.others(batch.stimulus[0], batch.size_wh_px).to(batch.device)
            inside = torch.ones(len(other), dtype=torch.bool, device=batch.device)
            values["sauc"] = info.function(density, xy, scored, other, inside)
        elif info.name == "ig":
            values["ig"] = info.function(log_density, base, xy, scored)
        elif info.needs == "log_density":
            values[info.name] = info.function(log_density, xy, scored)
        elif info.needs == "map":
            values[info.name] = info.function(density, xy, scored)
        elif info.needs == "empirical":
            assert empirical is not None
            leaks = protocol.empirical == "pooled" and model.per_subject
            score = torch.full((len(batch),), torch.nan) if leaks else info.function(density, empirical)
            # A trial without a scored fixation has no empirical density.
            values[info.name] = score.masked_fill((~scored.any(1)).to(score.device), torch.nan)
    if "conditional" in needs:
        names = [info.name for info in wanted if info.needs == "conditional"]
        if model.is_scanpath():
            values |= _conditional(model, base, batch, scored, names)
        else:
            # The same map before every fixation: by definition the static score.
            for name in names:
                twin = METRICS[_STATIC_TWIN[name]]
                if twin.name not in values:
                    first = (log_density, base) if name == "cig" else (density,)
                    values[twin.name] = twin.function(*first, xy, scored)
                values[name] = values[twin.name]
    columns |= {name: values[name].double().cpu().numpy() for name in protocol.metrics}
    return pd.DataFrame(columns)


def _conditional(
    model: GazeModel, base: Tensor, batch: TrialBatch, scored: Tensor, names: list[str]
) -> dict[str, Tensor]:
    step = max(1, _MAPS_AT_ONCE // batch.xy_px.shape[1])
    parts: dict[str, list[Tensor]] = {name: [] for name in names}
    for start in range(0, len(batch), step):
        some = batch.trials(start, start + step)
        log_density = model.conditional_log_density(some)
        for name in names:
            given = (log_density, base[start : start + step]) if name == "cig" else (log_density,)
            parts[name].append(METRICS[name].function(*given, some.xy_px, scored[start : start + step]))
    return {name: torch.cat(part) for name, part in parts.items()}


def _empirical(batch: TrialBatch, scored: Tensor, protocol: Protocol) -> Tensor:
    sigma_px = protocol.empirical_sigma_dva * batch.px_per_dva
    if protocol.empirical == "pooled":
        everyone = batch.xy_px.reshape(1, -1, 2), scored.reshape(1, -1)
        pooled = fixation_density(*everyone, batch.size_wh_px, sigma_px, torch.float32)
        return pooled.expand(len(batch), -1, -1)
    density = fixation_density(batch.xy_px, scored, batch.size_wh_px, sigma_px, torch.float32)
    # Trials without a scored fixation become NaN by the caller; a flat map keeps the metrics quiet.
    return density.nan_to_num(1.0 / density[0].numel())


def _sample_stimulus(model: GazeModel, batch: TrialBatch, protocol: Protocol) -> pd.DataFrame:
    """Scanpaths on the stimulus, as long as a typical human one; seeded by the stimulus alone."""
    n = protocol.samples["per_stimulus"]
    generator = torch.Generator().manual_seed(seed_of(protocol.samples["seed"], batch.stimulus[0]))
    one = first_trial_of_each_stimulus(batch)
    if model.per_subject:
        # Anybody's scanpath will do: nobody is left out.
        one = replace(one, subject=("",))
    length = max(1, int(batch.valid.sum(1).float().median()))
    paths = model.sample(one, n, length, generator)
    sample, fixation = paths.valid[0].nonzero(as_tuple=True)
    xy = paths.xy_px[0][sample, fixation].cpu().numpy()
    return pd.DataFrame(
        {
            "stimulus": batch.stimulus[0],
            "sample": sample.cpu().numpy(),
            "fixation": fixation.cpu().numpy(),
            "x_px": xy[:, 0],
            "y_px": xy[:, 1],
        }
    )


def _finish(
    scores: pd.DataFrame, contestants: list[Contestant], data: GazeDataset, protocol: Protocol, split: str | None,
    commit: str,
) -> pd.DataFrame:  # fmt: skip
    """Add what each row must carry: data, protocol, checkpoint, commit, and whether it was trained on."""
    trained = {c.name: set(c.provenance.get("train_stimuli", ())) for c in contestants}
    of_same_data = {c.name: c.provenance.get("train_dataset") == data.name for c in contestants}
    seen = [of_same_data[m] and s in trained[m] for m, s in zip(scores["model"], scores["stimulus"], strict=True)]
    checkpoint = {c.name: c.provenance.get("sha256", "")[:16] for c in contestants}
    head = scores[["model", "role", "stimulus", "subject", "trial", "n_fixations"]].assign(
        seen_in_training=seen,
        dataset=data.name,
        simulated=data.card.simulated,
        protocol=f"{protocol.name} v{protocol.version}",
        split=split or protocol.split,
        checkpoint=scores["model"].map(checkpoint),
        weights=scores["model"].map({c.name: c.provenance.get("weights", "") for c in contestants}),
        commit=commit,
    )
    return pd.concat([head, scores[list(protocol.metrics)]], axis=1)


def _record(
    protocol: Protocol, data: GazeDataset, scored: GazeDataset, split: str | None, contestants: list[Contestant]
) -> dict[str, Any]:
    return {
        "protocol": protocol.as_dict(),
        "split": split or protocol.split,
        "data": {
            "name": data.name, "label": data.card.label, "simulated": data.card.simulated,
            "fingerprint": data.fingerprint(), "stimuli_here": len(data.stimuli),
            "stimuli_in_card": data.card.expect["stimuli"], "stimuli_scored": len(scored.stimuli),
            "trials_scored": len(scored.trials), "citation": " ".join(data.card.content["citation"].split()),
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
