"""The card that travels with data written in another format."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from gazekit.datasets.dataset import GazeDataset

# What a card says about files of its release, or expects of its reader.
_OF_THE_RELEASE = (
    "download", "archives", "manual", "files", "needs", "bytes", "parts", "observer", "expect", "format", "split",
)  # fmt: skip


def exported_card(
    data: GazeDataset, format_name: str, needs: list[str], images: str, counted: bool = True
) -> dict[str, Any]:
    """The data's card, with the counts of what is written, and the screen and split that it has now.

    Args:
        data: What is written.
        format_name: The ``format`` that it is written in.
        needs: Files and folders that mark a copy.
        images: ``required`` or ``optional``.
        counted: False where the writer may leave trials out, so that nothing is expected.

    """
    kept = {key: value for key, value in data.card.content.items() if key not in _OF_THE_RELEASE}
    screen = data.card.screen
    known = {} if screen is None else {key: value for key, value in asdict(screen).items() if value is not None}
    geometry = {key: list(value) if isinstance(value, tuple) else value for key, value in known.items()}
    expect = {
        "subjects": int(data.trials["subject"].nunique()),
        "stimuli": len(data.stimuli),
        "trials": len(data.trials),
        "fixations": len(data.fixations),
    }
    split, lost = _split_of(data)
    return kept | {
        "format": format_name,
        "needs": needs,
        "images": images,
        "screen": geometry or None,
        "expect": expect if counted else {},
        "split": split,
        "known_issues": [*kept.get("known_issues", []), *lost],
    }


def _split_of(data: GazeDataset) -> tuple[dict[str, Any], list[str]]:
    """The split as lists of stimuli, or of subjects where the stimuli are not divided."""
    if "split" not in data.stimuli or "split" not in data.trials:  # tables made in memory, not divided yet
        return dict(data.card.content["split"]), []
    for by, table in (("stimulus", data.stimuli), ("subject", data.trials.drop_duplicates(["subject", "split"]))):
        if (table["split"] != "").all() and not table[by].duplicated().any():
            val, test = (table.loc[table["split"] == part, by].tolist() for part in ("val", "test"))
            return {"by": by, "val": val, "test": test}, []
    lost = (
        "The data were divided neither by stimulus nor by subject; that split is lost, and all trials are for training."
    )
    return {"by": "stimulus", "val": [], "test": []}, [lost]
