"""The demo from one end to the other, on the simulated set: what it says, what it writes, what it labels."""

import pandas as pd
import pytest
from click.testing import CliRunner

from gazekit import demo, load_model
from gazekit.cli import main


@pytest.mark.slow
def test_demo_without_data_or_network(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "_reachable", lambda address: False)
    # The download's address is the card's; nobody listens there.
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    out = tmp_path / "out"
    run = CliRunner().invoke(main, ["demo", "--epochs", "1", "--out", str(out)])
    assert run.exit_code == 0, run.output
    # The progress bar that was wiped leaves its blanks.
    said = [line for line in run.output.splitlines() if line.strip().startswith("no OSIE (")]
    assert len(said) == 1
    assert "SIMULATED" in said[0]
    assert "RANDOM weights" in run.output
    assert "simulated_free_viewing v2 on simulated (SIMULATED), split test" in run.output
    scores = pd.read_parquet(out / "scores.parquet")
    assert scores["simulated"].all()
    assert set(scores["model"]) == {
        "uniform", "center_bias", "shuffled_human", "saliency_readout", "next_fixation", "human",
    }  # fmt: skip
    assert scores.groupby("model").size().nunique() == 1
    assert not scores["seen_in_training"].any()
    assert scores.loc[scores["model"] == "saliency_readout", "weights"].str.startswith("random").all()
    assert "lighting" in run.output
    searches = pd.read_parquet(out / "asymmetry" / "trials.parquet")
    assert set(searches["model"]) == {"eccnet_small", "chance"}
    report = (out / "report.html").read_text()
    assert report.count("SIMULATED") > 20  # the banner, every chart, table row and picture
    assert load_model(out / "next_fixation" / "next_fixation.ckpt").provenance()["train_dataset"] == "simulated"
