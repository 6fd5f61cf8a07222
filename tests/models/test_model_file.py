"""Models in YAML files: the registered name and the arguments of its constructor."""

from __future__ import annotations

import pytest
import torch

from gazekit.errors import InputError
from gazekit.evaluation.runner import check_models
from gazekit.models import create_model
from gazekit.models.model_file import identity_of, is_model_file, model_from_file, read_model_file
from gazekit.models.searcher import Searcher
from gazekit.resources import resource_names
from tests.models.test_model_laws import save


def write(folder, text):
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def test_arguments_reach_the_model(tmp_path):
    path = write(tmp_path, "model: chance_search\ntitle: anywhere\namong: items\n")
    model = model_from_file(path)
    assert model.among == "items"
    assert not model.training
    assert read_model_file(path) == ("chance_search", {"among": "items"})
    check_models([str(path)])


@pytest.mark.parametrize("name", resource_names("evaluation/models"))
def test_shipped_ones_name_a_model_and_its_arguments(name):
    model, arguments = read_model_file(name)
    assert is_model_file(name)
    assert arguments
    check_models([name])
    assert not is_model_file(model)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("among: items\n", "says not which model it is"),
        ("model: chanse_search\n", "did you mean 'chance_search'"),
        ("model: chance_search\namongst: items\n", "amongst"),
        ("model: chance_search\namong: shelves\n", "expected 'cells' or 'items'"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as error:
        model_from_file(write(tmp_path, text))
    assert "\n" not in str(error.value)


def test_one_that_is_not_there_and_one_that_needs_training(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        check_models([str(tmp_path / "none.yaml")])
    with pytest.raises(InputError, match="needs training"):
        check_models([str(write(tmp_path, "model: saliency_readout\n"))])


def test_other_arguments_or_other_files_are_another_model(tmp_path):
    kept = {}
    for among in ("cells", "items"):
        path = write(tmp_path, f"model: chance_search\namong: {among}\n")
        kept[among] = identity_of(path, model_from_file(path))
    assert kept["cells"] != kept["items"]
    weights = tmp_path / "weights.bin"
    path, model = write(tmp_path, f"model: saliency_search\nsaliency: {weights}\n"), create_model("chance_search")
    found = []
    for content in (b"one", b"two"):
        weights.write_bytes(content)
        found.append(identity_of(path, model))
    assert found[0] != found[1]


def test_a_trained_model_with_what_may_be_set_after_training(tmp_path):
    small = {"backbone": "mobilenetv2_035", "weights": None, "width": 8, "hidden": 4}
    model = create_model("codebook", **small).eval()
    checkpoint = save(model, tmp_path / "m.ckpt")
    eager = write(tmp_path, f"model: codebook\ncheckpoint: {checkpoint}\neagerness: 2\n")
    check_models([str(eager)])
    restored = model_from_file(eager)
    assert restored.eagerness == 2.0
    assert not restored.training
    weights = restored.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    # Another checkpoint under the same name is another model.
    before = identity_of(eager, restored)
    with torch.no_grad():
        model.see.weight.add_(1.0)
    save(model, checkpoint)
    assert identity_of(eager, restored) != before
    for text, message in (
        ("haste: 2", "mine.yaml: Codebook has no 'haste' to set after training; it has: eagerness"),
        ("width: 8", "has no 'width' to set after training"),
    ):
        with pytest.raises(InputError, match=message):
            model_from_file(write(tmp_path, f"model: codebook\ncheckpoint: {checkpoint}\n{text}\n"))
    with pytest.raises(InputError, match="checkpoint of model 'codebook', expected 'oat'"):
        model_from_file(write(tmp_path, f"model: oat\ncheckpoint: {checkpoint}\n"))
    with pytest.raises(InputError, match="does not exist"):
        check_models([str(write(tmp_path, "model: codebook\ncheckpoint: none.ckpt\n"))])


def test_searchers_can_be_scored_by_name():
    assert Searcher.zero_shot
    check_models(["eccnet", "chance_search", "center_search", "saliency_search", "pixel_match"])


def test_an_unknown_name_lists_registered_models_and_shipped_files():
    with pytest.raises(
        InputError, match=r"no model or file named 'ecnet_scenes_nl'; did you mean 'eccnet_scenes_nl'\?"
    ) as told:
        check_models(["ecnet_scenes_nl"])
    assert "center_bias" in str(told.value)
    assert "give a checkpoint" in str(told.value)


@pytest.mark.parametrize("given", ["nothing.ckpt", "runs/nothing"])
def test_a_path_that_leads_nowhere_is_not_taken_for_a_name(given):
    with pytest.raises(InputError, match=f"checkpoint '{given}' does not exist"):
        check_models([given])
