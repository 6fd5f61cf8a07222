"""The models of a cross-validation as one: each stimulus by the one that did not see it."""

from __future__ import annotations

import pytest
import torch

from gazekit import InputError
from gazekit.evaluation.folds import Folds, fold_checkpoints, load_folds
from gazekit.models import create_model
from tests.models.test_model_laws import STIMULI, make_batch, save

SMALL = {"backbone": "mobilenetv2_035", "weights": None, "width": 8, "hidden": 4}


def member(seed, trained_on):
    torch.manual_seed(seed)
    model = create_model("codebook", **SMALL)
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.train_stimuli, model.train_dataset = list(trained_on), "made_up"
    return model.eval()


def test_each_stimulus_is_answered_by_the_model_that_did_not_see_it(tmp_path):
    members = [member(0, STIMULI[1:]), member(1, STIMULI[:1] + STIMULI[2:])]
    for fold, model in enumerate(members):
        (tmp_path / f"fold_{fold}").mkdir()
        save(model, tmp_path / f"fold_{fold}" / "codebook.ckpt")
        save(model, tmp_path / f"fold_{fold}" / "last.ckpt")
    folds, _ = load_folds(tmp_path)
    for fold, stimulus in enumerate(STIMULI[:2]):
        batch = make_batch([stimulus])
        with torch.no_grad():
            steps = folds.conditional_log_density(batch)
            assert torch.equal(steps, members[fold].conditional_log_density(batch))
            assert not torch.equal(steps, members[1 - fold].conditional_log_density(batch))
    # What both saw is nobody's.
    assert folds.provenance()["train_stimuli"] == sorted(STIMULI[2:])
    with pytest.raises(InputError, match="every fold was trained on stimulus 'moor'"):
        folds.log_density(make_batch(["moor"]))


def test_folders_that_are_no_folds(tmp_path):
    with pytest.raises(InputError, match="holds no fold_0"):
        fold_checkpoints(tmp_path)
    (tmp_path / "fold_0").mkdir()
    with pytest.raises(InputError, match="expected one finished checkpoint, found 0"):
        fold_checkpoints(tmp_path)
    with pytest.raises(InputError, match="2 or more models of one kind"):
        Folds([member(0, STIMULI[:1])])
