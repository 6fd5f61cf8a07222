"""Traps seen in published code of this field: ours gives the right number, and the trap another one on the same input.

Each row names what goes wrong elsewhere and where our behaviour is tested; "this file" stands for the tests here whose
names begin with the row (`test_trap_1_...`, `test_defect_1_2_...`). The first part follows the list of traps, the
second the defects of published implementations, by the section of the metric that they are of.

row         what goes wrong                                where it is tested
trap_1      x and y swapped                                this file, tests/metrics/test_metric_laws.py::test_swapped_axes_fail,
                                                           tests/metrics/test_multimatch.py::test_width_is_not_height
trap_2      positions from 1 and from 0 in one library     tests/datasets/test_cat2000.py::test_version_1_1_subtracts_drops_and_deduplicates,
                                                           tests/datasets/test_osie.py::test_values_survive_exactly
trap_3      milliseconds for seconds                       this file, tests/datasets/test_from_frame.py::test_columns_are_renamed_and_units_converted,
                                                           tests/datasets/test_tables_format.py::test_durations_in_milliseconds
trap_4      KL arguments, regularisers, SD of NSS          this file, tests/metrics/test_metric_golden.py::test_cc_sim_kld
trap_5      maps enlarged by tiling, not renormalised      this file, tests/test_density.py::test_resizing_keeps_a_density_and_its_gradient_of_log
trap_6      short paths padded before MultiMatch           this file, tests/metrics/test_multimatch.py::test_short_paths
trap_7      clusters and priors from the test data         this file, tests/models/test_controls.py::test_center_bias_never_uses_the_scored_image
trap_8      split by trial instead of by image             tests/evaluation/test_path_protocols.py::test_protocol_refuses_a_split_by_trial
trap_9      failures as 1000 in 8 bits, or dropped         this file, tests/metrics/test_search_metrics.py::test_failure_is_no_number
trap_10     ceilings pooled in other ways                  tests/evaluation/test_path_protocols.py::test_ceiling_excludes_self_and_uses_the_models_reduction
trap_11     best of N against the mean                     tests/evaluation/test_path_protocols.py::test_best_of_n_uses_equal_numbers_of_references,
                                                           tests/metrics/test_plausibility.py::test_laws
trap_12     recurrence, Judd's index, jitter               this file, tests/metrics/test_recurrence.py::test_gaps_break_lines
trap_13     undefined scores left out in silence           this file, tests/metrics/test_metric_laws.py::test_class_is_the_mean_over_valid_trials
trap_14     numbers of two servers in one table            tests/evaluation/test_path_protocols.py::test_published_numbers_of_two_servers_never_share_a_table
trap_15     cells past the right and bottom edge           this file, tests/metrics/test_grid_strings.py::test_edges_of_the_grid
trap_16     durations not cropped with positions           tests/datasets/test_visions.py::test_longer_durations_are_cut_and_said_so
trap_17     maps resized, fixations not                    tests/evaluation/test_path_protocols.py::test_paths_and_maps_share_the_protocols_frame,
                                                           tests/evaluation/test_runner.py::test_a_grid_scales_maps_and_fixations
trap_18     a GPL port of ScanMatch copied                 this file
defect_1_2  AUC-Judd counts thresholds from 0              this file
defect_3_1  MultiMatch divides by a saccade of length 0    this file, tests/metrics/test_multimatch.py::test_definition_with_ties_and_repeats
defect_3_3  cells of W // n pixels                         tests/metrics/test_grid_strings.py::test_edges_of_the_grid
defect_3_9  recurrence counts runs; no point gives 0       this file, tests/metrics/test_recurrence.py::test_edge_cases
defect_4_1  8-bit numbers of fixations                     tests/metrics/test_search_metrics.py::test_failure_is_no_number
defect_4_4  one density for all fixations, IG of scaled    this file, tests/metrics/test_metric_laws.py::test_each_step_scores_its_own_fixation
            maps

Of the label maps that were published wrong (section 3.5) no code can tell: the docstring of
:func:`gazekit.metrics.semantic_sequence_score` warns of them.
"""  # noqa: E501 - a table

from __future__ import annotations

import ast
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import gazekit
import gazekit.metrics as gm
from gazekit.density import normalize_log_density, resize_log_density
from gazekit.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
TRAPS = [f"trap_{number}" for number in range(1, 19)]
DEFECTS = ["defect_1_2", "defect_3_1", "defect_3_3", "defect_3_9", "defect_4_1", "defect_4_4"]
# The references are printed with seven decimals.
PRINTED = {"rel": 0.0, "abs": 6e-8}

RAMP = torch.arange(12.0, dtype=torch.float64).view(1, 3, 4)


def read_table() -> dict[str, str]:
    """Row of the docstring -> where it is tested."""
    rows: dict[str, str] = {}
    name = ""
    for line in (__doc__ or "").partition("\nrow ")[2].partition("\n\n")[0].splitlines()[1:]:
        name = line.split()[0] if not line.startswith(" ") else name
        rows[name] = rows.get(name, "") + " " + line[59:]
    return rows


TABLE = read_table()
NAMED = sorted({place for where in TABLE.values() for place in re.findall(r"tests/[\w/]+\.py::\w+", where)})


def functions_of(path: Path) -> set[str]:
    if not path.is_file():
        return set()
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


def path(*xy: tuple[float, float]) -> tuple[Tensor, Tensor]:
    return torch.tensor([xy], dtype=torch.float64).reshape(1, -1, 2), torch.ones(1, len(xy), dtype=torch.bool)


def counts(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_table_has_every_row_and_each_says_where():
    assert list(TABLE) == TRAPS + DEFECTS
    own = functions_of(Path(__file__))
    for name, where in TABLE.items():
        here = any(function.startswith(f"test_{name}_") for function in own)
        assert ("this file" in where) is here, name
        assert here or "::" in where, name


@pytest.mark.parametrize("place", NAMED)
def test_every_test_in_the_table_exists(place):
    file, _, function = place.partition("::")
    assert function in functions_of(ROOT / file), f"{file} has no test of this name"


def test_trap_1_x_runs_along_the_width():
    smap = torch.zeros(1, 30, 40, dtype=torch.float64)
    smap[0, 5, 20] = 1.0  # row 5, column 20
    assert gm.auc(smap, *path((20.5, 5.5))).item() == pytest.approx(1 - 0.5 / 1200, abs=1e-14)
    assert gm.auc(smap, *path((5.5, 20.5))).item() == pytest.approx(0.5 - 0.5 / 1200, abs=1e-14)
    # What cannot be a place tells by itself.
    with pytest.raises(InputError, match="outside the 40x30 px map"):
        gm.auc(smap, *path((5.5, 39.5)))
    # On the grid, too: 8 cells along x, 6 along y. Two places in one column, then in one row.
    grid = {"size_wh_px": (800, 300), "bins_wh": (8, 6)}
    assert gm.edit_distance(*path((110, 10)), *path((190, 40)), **grid).item() == 0
    assert gm.edit_distance(*path((10, 110)), *path((40, 190)), **grid).item() == 1


def test_trap_3_seconds_not_milliseconds():
    a, b = path((5, 5), (15, 5), (35, 25)), path((5, 5), (35, 25), (15, 5))
    seconds = [counts(0.2, 0.4, 0.1)[None], counts(0.1, 0.1, 0.3)[None]]
    grid = {"size_wh_px": (40, 30), "bins_wh": (4, 3), "temporal_bin_s": 0.05}
    right = gm.scanmatch(*a, *b, a_duration_s=seconds[0], b_duration_s=seconds[1], **grid)
    assert 0 < right.item() < 1
    with pytest.raises(InputError, match="Durations are in seconds; divide ms by 1000"):
        gm.scanmatch(*a, *b, a_duration_s=seconds[0] * 1000, b_duration_s=seconds[1] * 1000, **grid)
    # A bin of 50 s instead of 50 ms leaves nothing of any fixation: no score, rather than one of nothing.
    assert gm.scanmatch(
        *a, *b, a_duration_s=seconds[0], b_duration_s=seconds[1], **{**grid, "temporal_bin_s": 50.0}
    ).isnan()
    # Merging around fixations shorter than 0.3 s: of 200 ms read as seconds none is short, and nothing is merged.
    zigzag, straight = path((0, 0), (50, 0), (100, 5), (200, 100)), path((0, 0), (100, 5), (200, 100))
    duration_s = [counts(0.2, 0.2, 0.2, 0.2)[None], counts(0.2, 0.2, 0.2)[None]]
    how = {"size_wh_px": (400, 300), "simplify": gm.Simplification(amplitude_px=0.0)}
    scores = [gm.multimatch(*zigzag, *straight, *(s * unit for s in duration_s), **how)[0] for unit in (1, 1000)]
    assert scores[0][0].item() == pytest.approx(1.0, abs=1e-12)
    assert scores[1][0].item() < 0.99


def test_trap_4_kl_divergence_and_nss_are_of_one_kind():
    p = torch.tensor([[[0.5, 0.25], [0.25, 0.0]]], dtype=torch.float64)
    uniform = torch.full((1, 2, 2), 0.25, dtype=torch.float64)
    # Prediction p, empirical density uniform; the other order is another number, and finite.
    assert gm.kld(predicted=p, empirical=uniform).item() == pytest.approx(8.491058, abs=6e-7)
    assert gm.kld(predicted=uniform, empirical=p).item() == pytest.approx(0.3465736, **PRINTED)
    # Two regularisers in use; whoever wants the second has to say so.
    assert gm.kld(p, uniform, "floor").item() == pytest.approx(10.993065, abs=6e-7)
    assert gm.kld(p, uniform).item() == gm.kld(p, uniform, "mit").item()
    # NSS by the SD of all pixels; the sample SD (one pixel less) gives 1.5254255.
    got = gm.nss(RAMP, *path((3, 2))).item()
    assert got == pytest.approx(1.5932550, **PRINTED)
    assert got != pytest.approx((11 - 5.5) / RAMP.std(correction=1).item(), abs=0.05)
    step = (RAMP / 66).log()[:, None]
    assert gm.conditional_nss(step, *path((1, 2))).item() == pytest.approx(1.0138895, **PRINTED)


def test_trap_5_densities_are_interpolated_and_renormalised():
    coarse = normalize_log_density(torch.tensor([[[0.0, 1.0, 3.0], [2.0, -1.0, 0.5]]], dtype=torch.float64))
    fine = resize_log_density(coarse, (12, 8))
    tiled = coarse.repeat_interleave(4, 1).repeat_interleave(4, 2)
    # Tiles have steps and plateaus, an interpolated map has neither.
    assert tiled.diff(dim=2)[0, 0].count_nonzero() == 2
    assert fine.diff(dim=2)[0, 0, 2:-2].count_nonzero() == 7
    at = path((3.5, 3.5), (8.5, 1.5))
    with pytest.raises(InputError, match="not a log-density"):
        gm.log_likelihood(tiled, *at)
    right, after = gm.log_likelihood(fine, *at).item(), gm.log_likelihood(normalize_log_density(tiled), *at).item()
    assert right != pytest.approx(after, abs=0.05)
    # On 16 times as many pixels each holds a 16th: without renormalising, a gain of log 16 nats out of nothing.
    flat = torch.full((1, 2, 3), -math.log(6), dtype=torch.float64)
    score = gm.log_likelihood(resize_log_density(flat, (12, 8)), *at).item()
    assert score == pytest.approx(-math.log(96), abs=1e-12)
    assert score == pytest.approx(-math.log(6) - math.log(16), abs=1e-12)


def test_trap_6_short_paths_have_no_score_instead_of_that_of_a_pad():
    screen = {"size_wh_px": (400, 300)}
    short, long = path((100, 80), (140, 90)), path((100, 80), (140, 90), (300, 200), (20, 250))
    assert gm.multimatch(*short, *long, **screen).isnan().all()

    def moved(by: float, **options):
        return gm.multimatch(short[0] + by, short[1], long[0] + by, long[1], **screen, **options)[0, :4]

    # The padded score of the same two paths depends on where on the screen they are: it measures the way to (1, 1).
    padded = [moved(by, short="pad") for by in (0.0, 50.0)]
    assert padded[0].isfinite().all()
    assert not torch.allclose(*padded, rtol=0, atol=1e-3)
    metric = gm.MultiMatch((400, 300))
    metric.update(*short, *long)
    assert (metric.n_valid.sum().item(), metric.n_total.item()) == (0, 1)


def test_trap_7_clusters_are_of_whom_they_are_said_to_be():
    """An alphabet that has seen the test subject knows of a place that nobody else visits."""
    rng = np.random.default_rng(0)
    places = np.array([[100.0, 100.0], [500.0, 120.0], [300.0, 400.0], [720.0, 520.0]])

    def looks(order: list[int]) -> Tensor:
        return torch.from_numpy(places[order] + rng.normal(0, 6, (len(order), 2)))

    train = torch.stack([looks([0, 1, 2, 0, 1, 2]) for _ in range(8)])
    test = torch.stack([looks([0, 1, 3, 3, 1, 0]) for _ in range(6)])
    keep = torch.ones(8, 6, dtype=torch.bool)
    alphabet = gm.fit_alphabet(train, keep)
    leaky = gm.fit_alphabet(torch.cat([train, test]), torch.ones(14, 6, dtype=torch.bool))
    assert (len(alphabet.centers_px), len(leaky.centers_px)) == (3, 4)
    model = looks([0, 1, 2, 2, 1, 0])[None]
    one = keep[:1]
    scores = [
        gm.sequence_score(model, one, test[:1], one, centers_px=found.centers_px).item() for found in (alphabet, leaky)
    ]
    # By the training subjects' alphabet the far place is the nearest of theirs, and counts as a match.
    assert scores == [1.0, pytest.approx(4 / 6)]


def test_trap_9_failures_are_neither_1000_nor_232_nor_left_out():
    n_fix = counts(1, 2, 4, math.inf)
    with np.errstate(all="ignore"):
        wrapped = torch.from_numpy(np.array([1, 2, 4, 1000]).astype(np.uint8)).double()
    assert wrapped.tolist() == [1, 2, 4, 232]
    # With a generous limit, the wrapped failure is found and the sentinel is an outlier of 1000 fixations.
    assert gm.search_accuracy(n_fix, max_saccades=300).item() == 0.75
    assert gm.search_accuracy(wrapped, max_saccades=300).item() == 1.0
    assert gm.search_accuracy(n_fix, max_saccades=-1).item() == 0.75
    assert gm.search_accuracy(counts(1, 2, 4, 1000), max_saccades=-1).item() == 1.0
    # Efficiency over successes flatters a searcher who finds one of four; the restricted mean does not.
    quitter = gm.search_efficiency(counts(2, math.inf, math.inf, math.inf), max_saccades=6)
    diligent = gm.search_efficiency(counts(2, 3, 3, 4), max_saccades=6)
    assert quitter.mean_found < diligent.mean_found
    assert quitter.restricted_mean > diligent.restricted_mean
    assert quitter.restricted_mean.item() == (2 + 7 + 7 + 7) / 4
    assert [int(e.n_found) for e in (quitter, diligent)] == [1, 4]


def test_trap_12_lines_are_contiguous_and_parameters_count():
    f = path((0, 0), (10, 0), (20, 0), (30, 0), (40, 0))
    g = path((0, 0), (10, 0), (999, 0), (30, 0), (999, 0))  # recurrent at steps 0, 1 and 3
    got = gm.cross_recurrence(*f, *g, radius_px=5)
    # Two of three points lie on a line; counting the whole diagonal as one line gives 100.
    assert got.det.item() == pytest.approx(200 / 3, abs=1e-12)
    # A radius and a length that are ignored would leave all four numbers as they are.
    wide = gm.cross_recurrence(*f, *g, radius_px=11)
    assert wide.rec.item() > got.rec.item()
    assert gm.cross_recurrence(*f, *g, radius_px=5, min_line_fixations=3).det.item() == 0


def test_trap_12_no_random_jitter():
    smap = torch.tensor([[[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]]], dtype=torch.float64)
    at = path((0, 0), (3, 1))
    state = torch.get_rng_state()
    for metric, expected in ((gm.auc, (5.5 + 1.5) / 16), (gm.auc_judd, None)):
        first = metric(smap, *at)
        assert all(torch.equal(metric(smap, *at), first) for _ in range(5))
        if expected is not None:  # ties give half credit, not what a draw gives
            assert first.item() == pytest.approx(expected, abs=1e-14)
    assert torch.equal(torch.get_rng_state(), state)
    # Jittered, the same map has other scores from one draw to the next.
    noise = torch.Generator().manual_seed(0)
    jittered = {gm.auc(smap + 1e-7 * torch.rand(smap.shape, generator=noise), *at).item() for _ in range(20)}
    assert len(jittered) > 3


def test_trap_13_what_was_left_out_is_counted():
    """A model that nearly always stops after one fixation: the mean is of the three pairs that are left."""
    rng = np.random.default_rng(1)
    n_pairs, n_long = 200, 3
    human = torch.from_numpy(rng.random((n_pairs, 6, 2)) * [400, 300])
    valid = torch.ones(n_pairs, 6, dtype=torch.bool)
    model_valid = valid.clone()
    model_valid[n_long:, 1:] = False
    metric = gm.MultiMatch((400, 300))
    metric.update(human, model_valid, human, valid)
    # A perfect score, of 3 of 200 pairs, and it says so.
    assert metric.compute()["shape"].item() == 1.0
    assert (int(metric.n_valid[0]), int(metric.n_total)) == (n_long, n_pairs)
    # As zeros (failures) the same pairs would score 0.015.
    padded = gm.multimatch(human, model_valid, human, valid, size_wh_px=(400, 300))[:, 0].nan_to_num(0.0).mean()
    assert padded.item() == pytest.approx(n_long / n_pairs)
    # Nothing at all left: no number, not 0 and not 1.
    nothing = gm.MultiMatch((400, 300))
    nothing.update(human[n_long:], model_valid[n_long:], human[n_long:], valid[n_long:])
    assert nothing.compute()["shape"].isnan()
    assert int(nothing.n_valid.sum()) == 0
    # The same of the samples of a model.
    spp = gm.plausibility(human[None, :10], model_valid[None, :10], human[None], valid[None], size_wh_px=(400, 300),
                          k=range(1, 6), n_fix=6)  # fmt: skip
    assert (spp.score.item(), int(spp.n_samples), int(spp.n_humans)) == (0.0, n_long, n_pairs)


def test_trap_15_the_last_pixels_are_in_the_last_cell():
    size, n = (803, 599), 5
    a, b = path((802.0, 10.0)), path((10.0, 130.0))  # top right, and second row at the left
    grid = {"size_wh_px": size, "bins_wh": (n, n)}
    naive = [int(y // (size[1] // n)) * n + int(x // (size[0] // n)) for x, y in (a[0][0, 0], b[0][0, 0])]
    assert naive == [5, 5]  # column 5 of row 0 runs over into column 0 of row 1
    assert [gm.grid_symbols(*p, **grid).item() for p in (a, b)] == [4, 5]
    assert gm.edit_distance(*a, *b, **grid).item() == 1
    assert gm.ss_grid(*a, *b, **grid).item() == 0
    assert gm.scanmatch(*a, *b, **grid).item() < 0.01


def test_trap_18_scanmatch_is_written_from_its_definition():
    a, b = path((5, 5), (15, 5), (35, 25)), path((5, 5), (35, 25))
    grid = {"size_wh_px": (40, 30), "bins_wh": (4, 3), "threshold_bins": 2.0, "gap": -0.5}
    # The port's table begins with one gap too many; here it has to be asked for.
    assert gm.scanmatch(*a, *b, **grid).item() == pytest.approx(0.5833333, **PRINTED)
    assert gm.scanmatch(*a, *b, **grid, border="port").item() == pytest.approx(0.5, **PRINTED)
    # No file of ours carries the licence that copied code would bring along.
    files = sorted(Path(gazekit.__file__).parent.rglob("*.py"))
    assert len(files) > 50
    marked = [file.name for file in files if re.search(r"\bGPL|GNU General Public", file.read_text())]
    assert marked == []


def test_defect_1_2_judd_counts_thresholds_from_one():
    at = path((3, 2), (1, 1))
    assert gm.auc_judd(RAMP, *at).item() == pytest.approx(0.875, **PRINTED)
    # Thresholds numbered from 0 leave the fixation itself among the false alarms.
    values, n_pixels = [11, 5], 12
    false_rate = [0.0, *((n_pixels - v - i) / (n_pixels - 2) for i, v in enumerate(values)), 1.0]
    hit_rate = [0.0, 0.5, 1.0, 1.0]
    assert torch.trapezoid(counts(*hit_rate), counts(*false_rate)).item() == pytest.approx(0.8, abs=1e-12)


def test_defect_3_1_a_repeated_fixation_has_an_angle_of_zero():
    """Merging takes a saccade of length 0 as straight on; dividing by its length makes NaN, and merges nothing."""
    again, once = path((0, 0), *[(100, 0)] * 4, (100, 100)), path((0, 0), (100, 0), (100, 100))
    seconds = [torch.full((1, n), 0.2, dtype=torch.float64) for n in (6, 3)]
    how = {"size_wh_px": (400, 300)}
    merged = gm.multimatch(*again, *once, *seconds, **how, simplify=gm.Simplification(amplitude_px=0.0))[0]
    torch.testing.assert_close(merged, torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-12)
    # Three of five saccades have no length and no partner: the median difference is 100 px.
    unmerged = gm.multimatch(*again, *once, *seconds, **how)[0]
    assert unmerged[0].item() == pytest.approx(1 - 100 / 1000, abs=1e-12)


def test_defect_3_9_points_not_runs_and_no_number_without_a_point():
    f = path((0, 0), (10, 0), (20, 0), (30, 0))
    # One diagonal of three points out of four points: 75 %; one run out of four points would be 25 %.
    g = path((0, 0), (10, 0), (20, 0), (0, 0))
    assert gm.cross_recurrence(*f, *g, radius_px=5).det.item() == 75
    # No point at all: rec is 0 and the others are undefined; with a small number added to C they would be 0.
    apart = gm.cross_recurrence(*f, f[0] + 900, f[1], radius_px=5)
    assert apart.rec.item() == 0
    assert all(getattr(apart, name).isnan().all() for name in ("det", "lam", "corm"))
    metric = gm.CrossRecurrence(radius_px=5)
    metric.update(*f, *g)
    metric.update(*f, f[0] + 900, f[1])
    assert metric.compute().det.item() == 75  # 37.5 if undefined were 0
    assert (metric.n_valid.tolist(), int(metric.n_total)) == ([2, 1, 1, 1], 2)


def test_defect_4_4_each_fixation_has_its_own_density_which_is_not_rescaled():
    rng = np.random.default_rng(2)
    steps = normalize_log_density(torch.from_numpy(rng.standard_normal((1, 3, 5, 7))))
    baseline = normalize_log_density(torch.from_numpy(rng.standard_normal((1, 5, 7))))
    at = path((1, 2), (6, 0), (3, 4))
    each = [
        gm.information_gain(steps[:, t], baseline, at[0][:, t : t + 1], at[1][:, t : t + 1]).item() for t in range(3)
    ]
    assert gm.conditional_information_gain(steps, baseline, *at).item() == pytest.approx(np.mean(each), abs=1e-12)
    # All earlier fixations under the last density.
    last = steps[:, -1:].expand(-1, 3, -1, -1)
    assert gm.conditional_information_gain(last, baseline, *at).item() != pytest.approx(np.mean(each), abs=0.05)
    # To stretch a density to [0, 1] first is harmless for NSS and AUC, and not for IG.
    density = steps[:, 0].exp()
    low, high = density.amin(), density.amax()
    stretched = (density - low) / (high - low)
    for metric in (gm.nss, gm.auc):
        torch.testing.assert_close(metric(stretched, *at), metric(density, *at), rtol=1e-12, atol=1e-12)
    away = path((6, 0), (3, 4))
    normalised = (stretched / stretched.sum()).log()
    right, wrong = (gm.information_gain(p, baseline, *away).item() for p in (steps[:, 0], normalised))
    assert right != pytest.approx(wrong, abs=0.05)
    with pytest.raises(InputError, match="not a log-density"):
        gm.information_gain(stretched, baseline, *away)
