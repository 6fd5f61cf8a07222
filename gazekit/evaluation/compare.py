"""``gazekit compare``: two models (or two groups of subjects) on the same images, as paired differences.

Images are resampled and both sides share every resample, so what makes an image hard for both cancels.
Each metric has its own interval; nothing is corrected for looking at several.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import click
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from gazekit.errors import InputError
from gazekit.evaluation.columns import is_score, score_column
from gazekit.evaluation.figures import MODEL_COLORS, _stamp
from gazekit.evaluation.intervals import (
    MIN_IMAGES,
    MIN_IMAGES_OF_CATEGORY,
    finite_product,
    interval,
    resampling_weights,
    stream_seed,
    weighted_means,
)
from gazekit.evaluation.report import number
from gazekit.files import written_aside
from gazekit.registry import unknown_name

Reduction = Literal["macro", "micro"]
Floats = NDArray[np.float64]
Whole = NDArray[np.intp]

LEVEL = 0.95
_KEY = ["stimulus", "subject", "trial"]
_NEEDED = ["model", *_KEY, "n_fixations", "dataset", "protocol", "split"]
# Choices of a protocol that move scores, and the data themselves, as evaluation.json records them.
_RULES = (
    "first_fixation", "out_of_image", "grid", "baseline", "empirical", "empirical_sigma_dva", "shuffled_from",
    "metric_options", "scored_map", "trials", "paths", "search", "objects",
)  # fmt: skip
_MUST_AGREE = ("dataset", "protocol", "split", "data_fingerprint", *_RULES)
# Draws of a crossed bootstrap at a time; each holds a few numbers per image.
_DRAWS_AT_ONCE = 250


def compare_scores(
    a: pd.DataFrame,
    b: pd.DataFrame,
    *,
    model_a: str | None = None,
    model_b: str | None = None,
    by: str | None = None,
    reduction: Reduction = "macro",
    crossed: bool = False,
    n_resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean difference A minus B per metric, with the 95 % percentile interval of a paired bootstrap over images.

    Where both tables have the same subjects, trials are paired, and a pair with an undefined score on
    either side is left out of both means. Where they have no subject in common (two groups of subjects),
    images are paired.

    Args:
        a: One row per model and trial, as ``gazekit evaluate`` writes it to ``scores.parquet``.
        b: The same, of the other model or the other subjects.
        model_a: Which model of `a`; None takes the only one, beside controls and people.
        model_b: Which model of `b`.
        by: Column of categories, such as ``task``: images are resampled within a category, and
            categories weigh the same.
        reduction: ``macro`` is the mean of image means (trials weighted by their fixations, except in
            scores of whole trials, as in :func:`summarize`); ``micro`` is the mean of all trials, weighted
            likewise, so that NSS is a mean over fixations. With `by`, within each category.
        crossed: Resample subjects as well, independently: a trial weighs the product of how often its
            image and its subject were drawn. For claims about people rather than about these subjects.
        n_resamples: How many resamples.
        seed: Of the resamples; the same tables and seed give the same interval.

    Returns:
        One row per metric that both tables have: metric, model_a, model_b, mean_a, mean_b, difference,
        low, high, favors (``a`` or ``b`` where the interval lies on one side of zero, by the metric's
        direction), higher_is_better, n_images, n_pairs of n_total (of `paired_by`: trials or images),
        n_valid_a of n_total_a and n_valid_b of n_total_b trials, values, and what was compared and how.
        Below 20 images, or 5 in a category, low and high are NaN and ``values`` holds the difference on
        each image. The difference is NaN where no pair is left, in any category.

    Raises:
        InputError: An option is unknown, or the tables cannot be paired.

    """
    if reduction not in get_args(Reduction):
        raise unknown_name("reduction", reduction, list(get_args(Reduction)))
    if n_resamples < 1 or seed < 0:
        raise InputError(f"expected n_resamples >= 1 and seed >= 0, found {n_resamples} and {seed}")
    a, b = _one_model(a, model_a, "A"), _one_model(b, model_b, "B")
    for column in _MUST_AGREE:
        _check_agreement(a, b, column)
    if not (metrics := [name for name in a if is_score(name) and name in b]):
        found = [[name for name in table if is_score(name)] for table in (a, b)]
        raise InputError(f"A and B have no metric in common: A has {found[0]}, B has {found[1]}")
    pairs = _pair(a, b, by)
    if crossed and (few := min(pairs.a.n_subjects, pairs.b.n_subjects)) < 2:
        raise InputError(f"a crossed bootstrap resamples subjects and needs at least 2 on each side, found {few}")
    rows = []
    for metric in metrics:
        cells = _cells(pairs, metric)
        row = _point(cells, reduction)
        sizes = np.bincount(cells.category, minlength=cells.n_categories)
        enough = len(cells.category) >= MIN_IMAGES and (by is None or sizes.min() >= MIN_IMAGES_OF_CATEGORY)
        low, high = np.nan, np.nan
        if enough and not np.isnan(row["difference"]):
            low, high = interval(_draws(cells, reduction, crossed, n_resamples, seed), LEVEL)
        higher = score_column(metric).higher_is_better
        rows.append(
            {
                "metric": metric, "model_a": a["model"].iloc[0], "model_b": b["model"].iloc[0], **row,
                "low": low, "high": high,
                "favors": _favors(low, high, higher),
                "higher_is_better": higher,
                "n_images": len(cells.category), "n_pairs": cells.n_pairs, "n_total": pairs.n_total,
                "paired_by": "trial" if pairs.by_trial else "image",
                "n_valid_a": int(a[metric].notna().sum()), "n_total_a": len(a),
                "n_valid_b": int(b[metric].notna().sum()), "n_total_b": len(b),
                "values": () if enough else tuple(_per_image(cells).tolist()),
                "reduction": reduction, "by": by or "", "crossed": crossed, "level": LEVEL,
                "n_resamples": n_resamples, "seed": seed,
                **{key: a[key].iloc[0] for key in ("dataset", "protocol", "split")},
                "simulated": any(bool(table["simulated"].any()) for table in (a, b) if "simulated" in table),
                **{
                    f"{key}_{side}": table[key].iloc[0] if key in table else ""
                    for key in ("checkpoint", "commit") for side, table in (("a", a), ("b", b))
                },
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def _favors(low: float, high: float, higher_is_better: bool | None) -> str:
    """The side that is better by the whole interval; "" where neither is, or where no direction is."""
    if higher_is_better is None or not (low > 0 or high < 0):
        return ""
    return "a" if (low > 0) == higher_is_better else "b"


def difference_figure(table: pd.DataFrame) -> Figure:
    """Per metric the difference A minus B with its interval; zero in the middle, the better side marked.

    Args:
        table: As :func:`compare_scores` returns it. Where it has no interval, the images are drawn as dots.
    """
    figure = Figure(figsize=(4.6, 0.8 + 0.72 * len(table)), layout="constrained")
    first = table.iloc[0]
    rows = table.to_dict("records")
    for axis, row in zip(figure.subplots(len(table), squeeze=False)[:, 0], rows, strict=True):
        _difference_axis(axis, {str(key): value for key, value in row.items()})
    if table["values"].map(len).all():
        how = "each ring is one image, too few for an interval"
    else:
        over = "images and subjects" if first["crossed"] else "images"
        how = f"{round(100 * first['level'])} % bootstrap interval over {over}"
        how += "\nblue: A better, orange: B better, grey: either"
    named = f"A: {first['model_a']}    B: {first['model_b']}"
    figure.supxlabel(f"{named}\ndifference A − B, {how}\n{first['dataset']}, {first['split']}", fontsize=8.5)
    _stamp(figure, "SIMULATED" if first["simulated"] else "")
    return figure


def run_compare(
    path_a: Path,
    path_b: Path,
    out: Path,
    *,
    model_a: str | None = None,
    model_b: str | None = None,
    subjects_a: Sequence[str] = (),
    subjects_b: Sequence[str] = (),
    by: str | None = None,
    reduction: Reduction = "macro",
    crossed: bool = False,
    n_resamples: int = 2000,
    seed: int = 0,
) -> None:
    """Compare two score files; print a table, write ``comparison.csv`` and ``comparison.png`` into `out`.

    Args:
        path_a: ``scores.parquet``, or the folder that ``gazekit evaluate`` wrote it to.
        path_b: The same; may be the same file, if another model or other subjects are chosen.
        out: Folder.
        model_a: As in :func:`compare_scores`, as are the arguments not named here.
        model_b: See `model_a`.
        subjects_a: Only these subjects of A; all, if empty.
        subjects_b: Only these subjects of B.
        by: See :func:`compare_scores`.
        reduction: See :func:`compare_scores`.
        crossed: See :func:`compare_scores`.
        n_resamples: See :func:`compare_scores`.
        seed: See :func:`compare_scores`.

    Raises:
        InputError: A file is not a score table, or the two cannot be paired.

    """
    a, b = (read_scores(path, subjects) for path, subjects in ((path_a, subjects_a), (path_b, subjects_b)))
    a, b = _one_model(a, model_a, "A"), _one_model(b, model_b, "B")
    same = a["model"].iloc[0] == b["model"].iloc[0] and set(a["subject"]) == set(b["subject"])
    if path_a.resolve() == path_b.resolve() and same:
        raise InputError(
            f"A and B are the same scores, {a['model'].iloc[0]!r} of {path_a}; choose another model or other subjects"
        )
    table = compare_scores(a, b, by=by, reduction=reduction, crossed=crossed, n_resamples=n_resamples, seed=seed)
    print_comparison(table)
    for line in _notes(a, b):
        click.echo(f"note: {line}")
    with written_aside(out / "comparison.csv") as aside:
        table.assign(values=[";".join(map(repr, row)) for row in table["values"]]).to_csv(aside, index=False)
    with written_aside(out / "comparison.png") as aside:
        difference_figure(table).savefig(aside, format="png", dpi=200)
    click.echo(f"\ntable:  {out / 'comparison.csv'}\nfigure: {out / 'comparison.png'}")


def print_comparison(table: pd.DataFrame) -> None:
    """The comparison as text, one line per metric; the single images where there are too few for an interval."""
    first = table.iloc[0]
    marked = "SIMULATED DATA, no person was measured; " if first["simulated"] else ""
    click.echo(f"\n{marked}{first['protocol']} on {first['dataset']}, split {first['split']}")
    click.echo(f"A: {first['model_a']}\nB: {first['model_b']}")
    per = f"per {first['by']}, then over categories" if first["by"] else "over all"
    means = {"macro": "means of image means", "micro": "means of all trials or fixations"}[first["reduction"]]
    click.echo(
        f"{means}, {per}; resampled: images{' and subjects' if first['crossed'] else ''}, "
        f"{first['n_resamples']} times; paired by {first['paired_by']}"
    )
    titles = ("metric", "A", "B", "A - B", f"{round(100 * first['level'])} % interval", "better", "images", "pairs")
    width = max(12, *(len(score_column(name).label) + 4 for name in table["metric"]))
    layout = f"{{:{width}}}{{:>9}}{{:>9}}{{:>10}}{{:>21}}{{:>8}}{{:>8}}{{:>14}}{{:>16}}{{:>16}}"
    click.echo(layout.format(*titles, "n valid/all, A", "n valid/all, B"))
    for row in table.to_dict("records"):
        info = score_column(row["metric"])
        few = bool(row["values"])
        click.echo(
            layout.format(
                f"{info.label} {info.arrow}",
                number(row["mean_a"]), number(row["mean_b"]), signed(row["difference"]),
                "values below" if few else f"{signed(row['low'])} to {signed(row['high'])}",
                row["favors"].upper(), row["n_images"], f"{row['n_pairs']} / {row['n_total']}",
                f"{row['n_valid_a']} / {row['n_total_a']}", f"{row['n_valid_b']} / {row['n_total_b']}",
            )
        )  # fmt: skip
        if few:
            click.echo(f"    on each image: {' '.join(signed(value) for value in row['values'])}")


def signed(value: float) -> str:
    """A sign and four decimals, as differences are smaller than scores; a dash where it is undefined."""
    return "–" if np.isnan(value) else f"{value:+.4f}"


def read_scores(path: Path, subjects: Sequence[str] = ()) -> pd.DataFrame:
    """Score table of `path`, with the rules from the ``evaluation.json`` beside it as further columns.

    Raises:
        InputError: No such file, no score table, or a subject that it does not hold.

    """
    path = path / "scores.parquet" if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"no score table {path}; gazekit evaluate writes scores.parquet into its --out folder")
    try:
        scores = pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's own errors derive from these two
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not a score table that gazekit evaluate wrote: {reason}") from error
    _need(scores, str(path))
    known = sorted(set(scores["subject"]))
    for name in subjects:
        if name not in known:
            raise unknown_name(f"subject (in {path})", name, known)
    if subjects:
        scores = scores[scores["subject"].isin(subjects)]
    record_path = path.with_name("evaluation.json")
    if record_path.is_file():
        record = json.loads(record_path.read_text(encoding="utf-8"))
        rules = {key: str(record["protocol"][key]) for key in _RULES if key in record["protocol"]}
        scores = scores.assign(**rules, data_fingerprint=record["data"]["fingerprint"])
    return scores


def _need(scores: pd.DataFrame, what: str) -> None:
    if missing := [name for name in _NEEDED if name not in scores]:
        raise InputError(f"{what} is not a score table of gazekit evaluate: it lacks the columns {missing}")
    if not len(scores):
        raise InputError(f"{what} holds no scores")


def _one_model(scores: pd.DataFrame, wanted: str | None, side: str) -> pd.DataFrame:
    """Rows of the wanted model, or of the only one there is beside controls and people."""
    _need(scores, side)
    names = list(dict.fromkeys(scores["model"]))
    if wanted is None:
        models = list(dict.fromkeys(scores.loc[scores["role"] == "model", "model"])) if "role" in scores else []
        if len(names) != 1 and len(models) != 1:
            raise InputError(f"{side} holds {len(names)} models, {names}; say which: --model-{side.lower()} NAME")
        wanted = names[0] if len(names) == 1 else models[0]
    elif wanted not in names:
        raise unknown_name(f"model (in {side})", wanted, names)
    rows = scores[scores["model"] == wanted]
    twice = rows.duplicated(_KEY)
    if twice.any():
        raise InputError(f"{side} lists a trial of {wanted!r} twice: {_trial_at(rows[twice], 0)}")
    return rows


def _check_agreement(a: pd.DataFrame, b: pd.DataFrame, column: str) -> None:
    if column not in a or column not in b:
        return
    found = [sorted(set(table[column].astype(str))) for table in (a, b)]
    for side, values in zip("AB", found, strict=True):
        if len(values) > 1:
            raise InputError(f"{side} mixes {len(values)} values of {column}, {values}; compare one at a time")
    if found[0] != found[1]:
        raise InputError(
            f"A and B differ in {column}: {found[0][0]!r} and {found[1][0]!r}; evaluate both by one protocol"
        )


@dataclass(frozen=True)
class _Side:
    """Rows of one side, and for each the number of its image (within a category) and of its subject."""

    rows: pd.DataFrame
    image: Whole
    subject: Whole
    n_subjects: int


@dataclass(frozen=True)
class _Pairs:
    """Both sides; row k of A belongs to row k of B if `by_trial`. `category` is that of each image."""

    a: _Side
    b: _Side
    by_trial: bool
    category: Whole
    n_total: int


def _pair(a: pd.DataFrame, b: pd.DataFrame, by: str | None) -> _Pairs:
    """Bring the sides together by trial (same subjects) or by image (no subject in common), or say why not."""
    _check_same_set(a["stimulus"], b["stimulus"], "stimuli")
    of_a, of_b = set(a["subject"]), set(b["subject"])
    by_trial = of_a == of_b
    if not by_trial and (shared := of_a & of_b):
        raise InputError(
            f"A has {len(of_a)} subjects and B {len(of_b)}, {len(shared)} of them in both; compare either "
            "the same subjects, or two groups that share none"
        )
    if by_trial:
        ours, theirs = pd.MultiIndex.from_frame(a[_KEY]), pd.MultiIndex.from_frame(b[_KEY])
        _check_same_set(ours, theirs, "trials")
        b = b.iloc[theirs.get_indexer(ours)]
        _check_same_rule(a, b)
    labels = [_categories(table, by, side) for table, side in ((a, "A"), (b, "B"))]
    if by_trial and (differ := labels[0] != labels[1]).any():
        k = int(differ.argmax())
        here = [str(label[k]) for label in labels]
        raise InputError(f"A and B differ in {by} at {_trial_at(a, k)}: {here[0]!r} and {here[1]!r}")
    images = [
        pd.MultiIndex.from_arrays([label, table["stimulus"].astype(str)])
        for label, table in zip(labels, (a, b), strict=True)
    ]
    every = images[0].union(images[1]).unique().sort_values()
    _check_same_set(images[0], images[1], f"images of each {by}")
    sides = []
    for table, image in zip((a, b), images, strict=True):
        subject, names = pd.factorize(table["subject"], sort=True)
        sides.append(_Side(table, every.get_indexer(image), subject, len(names)))
    category, _ = pd.factorize(every.get_level_values(0), sort=True)
    return _Pairs(sides[0], sides[1], by_trial, category, len(a) if by_trial else len(every))


def _categories(table: pd.DataFrame, by: str | None, side: str) -> NDArray[np.str_]:
    if by is None:
        return np.zeros(len(table)).astype(str)
    if by not in table or by in _KEY or is_score(by):
        head = [name for name in table if not is_score(name) and name not in _KEY]
        raise InputError(f"{side} has no column of categories named {by!r}; it has {head}")
    if table[by].isna().any():
        raise InputError(f"{side} has {int(table[by].isna().sum())} of {len(table)} trials without a {by}")
    labels: NDArray[np.str_] = table[by].astype(str).to_numpy(dtype=str)
    return labels


def _check_same_set(a: pd.Series | pd.MultiIndex, b: pd.Series | pd.MultiIndex, what: str) -> None:
    first, second = set(a), set(b)
    if first != second:
        only = [f"only in {s}: {min(rest)!r}" for s, rest in (("A", first - second), ("B", second - first)) if rest]
        raise InputError(
            f"A and B differ in {what}: {len(first)} and {len(second)}, {len(first & second)} in common "
            f"({', '.join(only)}); evaluate both on the same data"
        )


def _trial_at(table: pd.DataFrame, row: int) -> str:
    return ", ".join(f"{key} {str(table[key].iloc[row])!r}" for key in _KEY)


def _check_same_rule(a: pd.DataFrame, b: pd.DataFrame) -> None:
    """The number of scored fixations tells which rules a trial was scored by, without any record of them."""
    n_a, n_b = a["n_fixations"].to_numpy(), b["n_fixations"].to_numpy()
    if (n_a != n_b).any():
        k = int((n_a != n_b).argmax())
        raise InputError(
            f"A and B differ in the fixations scored on {int((n_a != n_b).sum())} of {len(a)} trials "
            f"({_trial_at(a, k)}: {n_a[k]} and {n_b[k]}), as by another rule for first or out-of-image "
            "fixations; evaluate both by one protocol"
        )


@dataclass(frozen=True)
class _Cells:
    """One metric: per image with a pair and per subject, the weighted sum of scores and the sum of weights."""

    sum_a: Floats
    weight_a: Floats
    sum_b: Floats
    weight_b: Floats
    category: Whole
    n_categories: int
    same_subjects: bool
    n_pairs: int


def _cells(pairs: _Pairs, metric: str) -> _Cells:
    score_a, score_b = (side.rows[metric].to_numpy(dtype=float, copy=True) for side in (pairs.a, pairs.b))
    if pairs.by_trial:
        undefined = np.isnan(score_a) | np.isnan(score_b)
        score_a[undefined] = score_b[undefined] = np.nan
    by_fixations = score_column(metric).weight == "fixations"
    sums = []
    for side, score in ((pairs.a, score_a), (pairs.b, score_b)):
        weight = side.rows["n_fixations"].to_numpy(dtype=float) if by_fixations else np.ones(len(score))
        known = ~np.isnan(score) & (weight > 0)
        at = side.image[known], side.subject[known]
        total, weights = np.zeros((2, len(pairs.category), side.n_subjects))
        with np.errstate(invalid="ignore"):  # infinitely good and bad at once is undefined
            np.add.at(total, at, score[known] * weight[known])
        np.add.at(weights, at, weight[known])
        sums += [total, weights]
    there = (sums[1].sum(1) > 0) & (sums[3].sum(1) > 0)
    n_pairs = int((~np.isnan(score_a)).sum()) if pairs.by_trial else int(there.sum())
    sum_a, weight_a, sum_b, weight_b = (table[there] for table in sums)
    n_categories = int(pairs.category.max()) + 1
    return _Cells(sum_a, weight_a, sum_b, weight_b, pairs.category[there], n_categories, pairs.by_trial, n_pairs)


def _point(cells: _Cells, reduction: Reduction) -> dict[str, float]:
    """The means and their difference: the resample that draws everything once."""
    means = []
    for rows in _rows_of_category(cells):
        once = np.full((1, len(rows)), 1.0 / max(1, len(rows)))
        means.append(_images_drawn(cells, rows, once, reduction))
    with np.errstate(invalid="ignore"):
        mean_a, mean_b = np.mean(means, axis=0)[:, 0]
        return {"mean_a": float(mean_a), "mean_b": float(mean_b), "difference": float(mean_a - mean_b)}


def _per_image(cells: _Cells) -> Floats:
    with np.errstate(invalid="ignore"):
        difference: Floats = cells.sum_a.sum(1) / cells.weight_a.sum(1) - cells.sum_b.sum(1) / cells.weight_b.sum(1)
    return difference


def _draws(cells: _Cells, reduction: Reduction, crossed: bool, n_resamples: int, seed: int) -> Floats:
    """(n_resamples,) differences A minus B; images are drawn within each category, subjects for all at once."""
    n_a, n_b = cells.sum_a.shape[1], cells.sum_b.shape[1]
    subjects_a = resampling_weights(n_a, n_resamples, stream_seed(seed, 0)) if crossed else None
    subjects_b = resampling_weights(n_b, n_resamples, stream_seed(seed, 1)) if crossed else None
    if cells.same_subjects:
        subjects_b = subjects_a
    total = np.zeros(n_resamples)
    for k, rows in enumerate(_rows_of_category(cells)):
        # One seed for all categories would draw alike in those of one size, as if they were one.
        own = seed if cells.n_categories == 1 else stream_seed(seed, 2 + k)
        images = resampling_weights(len(rows), n_resamples, own)
        for start in range(0, n_resamples, _DRAWS_AT_ONCE):
            some = slice(start, start + _DRAWS_AT_ONCE)
            if subjects_a is None or subjects_b is None:
                mean_a, mean_b = _images_drawn(cells, rows, images[some], reduction)
            else:
                mean_a, mean_b = _both_drawn(
                    cells, rows, images[some], subjects_a[some], subjects_b[some], reduction
                )  # fmt: skip
            with np.errstate(invalid="ignore"):
                total[some] += (mean_a - mean_b) / cells.n_categories
    return total


def _rows_of_category(cells: _Cells) -> Iterator[Whole]:
    for k in range(cells.n_categories):
        yield np.flatnonzero(cells.category == k)


def _images_drawn(cells: _Cells, rows: Whole, images: Floats, reduction: Reduction) -> tuple[Floats, Floats]:
    """Mean of A and of B in each draw, from (draws, rows) weights of images."""
    sides = ((cells.sum_a, cells.weight_a), (cells.sum_b, cells.weight_b))
    means = []
    for total, weight in sides:
        sums, weights = total[rows].sum(1), weight[rows].sum(1)
        if reduction == "macro":
            means.append(weighted_means(images, sums / weights))
        else:
            means.append(weighted_means(images, sums) / weighted_means(images, weights))
    return means[0], means[1]


def _both_drawn(
    cells: _Cells, rows: Whole, images: Floats, subjects_a: Floats, subjects_b: Floats, reduction: Reduction
) -> tuple[Floats, Floats]:
    """The same where (draws, subjects) weights multiply those of the images."""
    sums, weights = [], []
    for total, weight, subjects in (
        (cells.sum_a, cells.weight_a, subjects_a), (cells.sum_b, cells.weight_b, subjects_b),
    ):  # fmt: skip
        sums.append(finite_product(subjects, total[rows].T))
        weights.append(subjects @ weight[rows].T)
    # An image of which one side has no subject in the draw is no pair in that draw.
    drawn = np.where((weights[0] > 0) & (weights[1] > 0), images, 0.0)
    means = []
    for total, weight in zip(sums, weights, strict=True):
        if reduction == "macro":
            total = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
            weight = np.ones_like(weight)
        above = np.multiply(drawn, total, out=np.zeros_like(total), where=drawn > 0).sum(1)
        below = (drawn * weight).sum(1)
        means.append(np.divide(above, below, out=np.full(len(below), np.nan), where=below > 0))
    return means[0], means[1]


def _difference_axis(axis: Axes, row: dict[str, object]) -> None:
    info = score_column(str(row["metric"]))
    difference, low, high = (float(str(row[key])) for key in ("difference", "low", "high"))
    values = np.array(row["values"], dtype=float)
    color = {"a": MODEL_COLORS[0], "b": MODEL_COLORS[1]}.get(str(row["favors"]), "#5a5a5a")
    axis.axvline(0.0, color="black", lw=0.9)
    if len(values):
        axis.plot(values, np.zeros(len(values)), "o", mfc="none", mec="#8a8a8a", ms=4)
    if np.isfinite([low, high]).all():
        axis.plot([low, high], [0, 0], color=color, lw=2.6, solid_capstyle="round")
    if np.isfinite(difference):
        axis.plot([difference], [0], "o", color=color, ms=5.5)
    ends = np.abs([x for x in (difference, low, high, *values) if np.isfinite(x)])
    reach = 1.15 * float(ends.max(initial=0.0)) or 1.0
    axis.set_xlim(-reach, reach)
    axis.set_ylim(-1, 1)
    axis.set_yticks([])
    axis.locator_params(axis="x", nbins=5)
    bounds = f" ({signed(low)} to {signed(high)})" if not np.isnan(low) else ""
    axis.set_title(f"{info.titled}  {signed(difference)}{bounds}", fontsize=8.5, loc="left", pad=3)
    better = {True: "A better →", False: "← A better", None: ""}[info.higher_is_better]
    axis.set_title(better, fontsize=8, loc="right", color="#5a5a5a", pad=3)
    axis.tick_params(axis="x", labelsize=7.5)
    axis.grid(axis="x", lw=0.3)
    axis.spines[["top", "right", "left"]].set_visible(False)


def _notes(a: pd.DataFrame, b: pd.DataFrame) -> list[str]:
    notes = []
    for side, table, other in (("A", a, b), ("B", b, a)):
        if "seen_in_training" in table and table["seen_in_training"].any():
            n = table.loc[table["seen_in_training"], "stimulus"].nunique()
            notes.append(f"{side} was trained on {n} of the scored images")
        if lone := [score_column(name).label for name in table if is_score(name) and name not in other]:
            notes.append(f"only {side} has {', '.join(lone)}")
        if "first_fixation" not in table:
            notes.append(f"no evaluation.json lies beside {side}: its rules were checked by the score table alone")
    commits = [str(table["commit"].iloc[0]) if "commit" in table else "" for table in (a, b)]
    if commits[0] != commits[1]:
        notes.append(f"A was scored at commit {commits[0] or 'unknown'}, B at {commits[1] or 'unknown'}")
    return notes
