"""Whose caption goes with a trial: the subject's own, another subject's, that of another image, or none.

The conditions of NevaClip (Zanca et al. 2023, arXiv:2305.12380) in which a caption should help, help somewhat, mislead,
or not be there.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from gazekit.datasets.dataset import GazeDataset
from gazekit.errors import InputError
from gazekit.registry import unknown_name

CONDITIONS = ("subject", "other_subject", "other_stimulus", "none")


def with_captions_of(data: GazeDataset, condition: str, seed: int = 0) -> GazeDataset:
    """The dataset with its captions exchanged; every trial, fixation and image stays.

    Args:
        data: With a column ``caption`` in its trials.
        condition: ``subject``: each trial's own caption; ``other_subject``: that of the next subject on the same
            stimulus, in a seeded order; a stimulus with one caption keeps none; ``other_stimulus``: one of another
            stimulus, which is drawn once per stimulus, so that no stimulus keeps its own and each is used once (a
            derangement); ``none``: empty captions.
        seed: Of the exchange; it does not depend on which trials a split holds back, as long as `data` is whole.

    Raises:
        InputError: Unknown condition, no captions, or fewer than two stimuli with captions to exchange.

    """
    if condition not in CONDITIONS:
        raise unknown_name("caption condition", condition, list(CONDITIONS))
    if "caption" not in data.trials:
        raise InputError(f"{data.name}: the trials have no caption; use a dataset with captions, such as capmit1003")
    trials = data.trials.copy()
    own = trials["caption"].fillna("").astype(str)
    if condition == "subject":
        return data
    if condition == "none":
        return replace(data, trials=trials.assign(caption=""))
    rng = np.random.default_rng(seed)
    told = trials[own != ""]
    of_stimulus = {str(name): part for name, part in told.groupby("stimulus", sort=True)}
    caption = pd.Series("", index=trials.index)
    if condition == "other_subject":
        for part in of_stimulus.values():
            order = rng.permutation(len(part))
            # The next one in a random circle is never oneself, unless one is alone.
            if len(part) > 1:
                caption.loc[part.index[order]] = own.loc[part.index[np.roll(order, -1)]].to_numpy()
    else:
        names = list(of_stimulus)
        if len(names) < 2:
            raise InputError(
                f"{data.name}: captions of other stimuli need at least 2 stimuli with captions, found {len(names)}"
            )
        order = rng.permutation(len(names))
        partner = {names[a]: names[b] for a, b in zip(order, np.roll(order, -1), strict=True)}
        for name, part in of_stimulus.items():
            theirs = own.loc[of_stimulus[partner[name]].index].to_numpy()
            caption.loc[part.index] = theirs[np.arange(len(part)) % len(theirs)]
    return replace(data, trials=trials.assign(caption=caption))
