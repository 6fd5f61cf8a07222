"""The plan of an asymmetry experiment: which tasks, which searchers, scored how; one YAML file."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gazekit.errors import InputError
from gazekit.metrics.asymmetry import MS_PER_FIXATION, MS_WITHOUT_FIXATION
from gazekit.models import MODELS
from gazekit.registry import unknown_name
from gazekit.resources import read_yaml, resource_path
from gazekit.stimuli.design import Condition, SearchDesign
from gazekit.stimuli.drawings import drawing_from
from gazekit.stimuli.export import FolderCondition
from gazekit.stimuli.tasks import PUBLISHED_TASKS, AsymmetryTask, published_task
from gazekit.training.visual_diet import DietRecipe

# A trial without a find is left out (and counted), or scored as if it had taken as many fixations as there were items.
Miss = Literal["exclude", "set_size"]


@dataclass(frozen=True)
class PlannedTask:
    """A task and the published experiment whose settings a searcher takes for it.

    Args:
        task: The two conditions.
        like: Name of a published experiment, for searchers with settings per experiment; None: their default.

    """

    task: AsymmetryTask
    like: str | None


@dataclass(frozen=True)
class PlannedModel:
    """A searcher under a name of its own.

    Args:
        name: In tables and figures.
        model: A registered model.
        arguments: Of its constructor.
        seeds: A searcher that draws is run once for each.
        group: Models of one group are replications of each other, such as networks of one diet; "" is none.
        network: A network to train for it first, or None.
        optional: Run only where it is asked for by name: it needs weights that may not be there.

    """

    name: str
    model: str
    arguments: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    group: str = ""
    network: DietRecipe | None = None
    optional: bool = False


@dataclass(frozen=True)
class Plan:
    """An experiment as a whole.

    Args:
        name: As the file.
        title: One line for people.
        tasks: In the order of tables and figures.
        models: Likewise.
        miss: See :data:`Miss`; the published scoring is ``set_size``.
        ms_per_fixation: Of the mapping from fixations to reaction times.
        ms_without_fixation: Of the mapping.
        draws: Bootstrap samples.
        level: Mass of the intervals.
        seed: Of the bootstrap.

    """

    name: str
    title: str
    tasks: tuple[PlannedTask, ...]
    models: tuple[PlannedModel, ...]
    miss: Miss = "exclude"
    ms_per_fixation: float = MS_PER_FIXATION
    ms_without_fixation: float = MS_WITHOUT_FIXATION
    draws: int = 2000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.miss not in ("exclude", "set_size"):
            raise InputError(f"plan {self.name!r}: miss is {self.miss!r}, expected 'exclude' or 'set_size'")
        if self.draws < 1 or not 0 < self.level < 1:
            raise InputError(f"plan {self.name!r}: need draws >= 1 and 0 < level < 1, got {self.draws}, {self.level}")
        for what, names in (
            ("task", [planned.task.name for planned in self.tasks]),
            ("condition", [c.name for planned in self.tasks for _, c in planned.task.conditions]),
            ("model", [model.name for model in self.models]),
        ):
            if not names or len(set(names)) < len(names):
                raise InputError(
                    f"plan {self.name!r}: {what}s must be one or more, each with its own name; got {names}"
                )

    def but(self, **changes: Any) -> Plan:
        """The same plan with some values changed."""
        return dataclasses.replace(self, **changes)

    def smaller(self, trials: int) -> Plan:
        """With fewer displays per set size, for a quick look."""
        return self.but(tasks=tuple(PlannedTask(p.task.but(trials=trials), p.like) for p in self.tasks))


_KEYS = ("name", "title", "version", "display", "compat", "tasks", "models", "networks", "scoring")
_DESIGN_KEYS = tuple(f.name for f in dataclasses.fields(SearchDesign) if f.init)
_SCORING = ("miss", "ms_per_fixation", "ms_without_fixation", "draws", "level", "seed")


def read_plan(name_or_path: str | Path) -> Plan:
    """The plan of that name, or in that file.

    Raises:
        InputError: No such plan; an unknown, missing or wrong key.

    """
    path = resource_path("asymmetry", name_or_path)
    content = read_yaml(path)
    _known(content, _KEYS, path.name)
    if missing := [key for key in ("name", "tasks", "models") if key not in content]:
        raise InputError(f"{path.name}: the plan lacks {missing}")
    shared = _mapping(content.get("display"), f"{path.name}, display")
    _known(shared, _DESIGN_KEYS, f"{path.name}, display")
    compat = content.get("compat", False)
    scoring = _mapping(content.get("scoring"), f"{path.name}, scoring")
    _known(scoring, _SCORING, f"{path.name}, scoring")
    tasks = [_task(spec, shared, bool(compat), path) for spec in _list(content["tasks"], f"{path.name}, tasks")]
    models = [
        model
        for name, spec in _mapping(content["models"], f"{path.name}, models").items()
        for model in _models(str(name), spec, content.get("networks"), path)
    ]
    return Plan(content["name"], str(content.get("title", "")), tuple(tasks), tuple(models), **scoring)


def _task(spec: Any, shared: dict[str, Any], compat: bool, path: Path) -> PlannedTask:
    spec = {"name": spec} if isinstance(spec, str) else _mapping(spec, f"{path.name}, tasks")
    if "name" not in spec:
        raise InputError(f"{path.name}: a task lacks its name: {spec}")
    name = str(spec["name"])
    at = f"{path.name}, task {name!r}"
    changes = {key: _plain(value) for key, value in (shared | spec).items() if key in _DESIGN_KEYS and key != "name"}
    if "easy" not in spec:
        _known(spec, ("name", *_DESIGN_KEYS), at)
        return PlannedTask(published_task(name, compat, **changes), name)
    _known(spec, ("name", "easy", "hard", "like", *_DESIGN_KEYS), at)
    easy = _condition(spec["easy"], changes, f"{at}, easy", path)
    hard_spec = spec.get("hard")
    if isinstance(hard_spec, str):
        if not isinstance(easy, SearchDesign):
            raise InputError(
                f"{at}: hard is a name, which swaps target and distractor of a drawn condition, not of a folder"
            )
        hard: Condition = easy.swapped(hard_spec)
    else:
        hard = _condition(hard_spec, changes, f"{at}, hard", path)
    like = spec.get("like")
    if like is not None and like not in PUBLISHED_TASKS:
        raise unknown_name("published task", like, list(PUBLISHED_TASKS))
    return PlannedTask(AsymmetryTask(name, easy, hard), like)


def _condition(spec: Any, changes: dict[str, Any], at: str, path: Path) -> Condition:
    spec = _mapping(spec, at)
    if "folder" in spec:
        known = tuple(f.name for f in dataclasses.fields(FolderCondition))
        _known(spec, known, at)
        # A folder is meant from where the plan lies.
        folder = path.parent / Path(spec["folder"]).expanduser()
        return FolderCondition(**{k: _plain(v) for k, v in spec.items() if k != "folder"}, folder=folder)
    _known(spec, _DESIGN_KEYS, at)
    if missing := [key for key in ("name", "target", "distractors") if key not in spec]:
        raise InputError(f"{at}: lacks {missing}")
    own = changes | {key: _plain(value) for key, value in spec.items()}
    own["target"] = drawing_from(spec["target"])
    own["distractors"] = [drawing_from(kind) for kind in _list(spec["distractors"], f"{at}, distractors")]
    design: SearchDesign = _built(SearchDesign, own, at)
    return design


def _models(name: str, spec: Any, networks: Any, path: Path) -> list[PlannedModel]:
    at = f"{path.name}, model {name!r}"
    spec = dict(_mapping(spec, at))
    seeds = spec.pop("seeds", [0])
    model, optional = spec.pop("model", None), bool(spec.pop("optional", False))
    if model is None:
        raise InputError(f"{at}: says not which model it is (model: NAME)")
    MODELS[model]
    diets = spec.pop("diets", None)
    if not isinstance(seeds, list) or not all(isinstance(seed, int) for seed in seeds):
        raise InputError(f"{at}: seeds is {seeds!r}, expected a list of whole numbers")
    if diets is None:
        return [PlannedModel(name, model, spec, tuple(seeds), optional=optional)]
    recipe = _mapping(networks, f"{path.name}, networks")
    return [
        PlannedModel(
            f"{diet}_{seed}", model, spec, (0,), str(diet),
            _built(DietRecipe, {k: _plain(v) for k, v in recipe.items()} | {"diet": diet, "seed": seed}, at),
        )
        for diet in _list(diets, f"{at}, diets")
        for seed in seeds
    ]  # fmt: skip


def _built(kind: Any, arguments: dict[str, Any], at: str) -> Any:
    try:
        return kind(**arguments)
    except TypeError as error:
        raise InputError(f"{at}: {error}") from error


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _mapping(value: Any, at: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{at}: expected a mapping of keys, found {value!r}")
    return value


def _list(value: Any, at: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise InputError(f"{at}: expected a list, found {value!r}")
    return value


def _known(content: dict[str, Any], keys: tuple[str, ...], at: str) -> None:
    for key in content:
        if key not in keys:
            raise unknown_name(f"key (in {at})", key, list(keys))
