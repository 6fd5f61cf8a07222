"""The codebook model's bench: what it times is what it says."""

import re

from gazekit.models.bench_codebook import bench_codebook


def test_the_codebook_is_timed_with_features_and_with_images():
    said: list[str] = []
    seconds = bench_codebook(
        said.append, 3, repeats=1, scenes=2, size_wh_px=(256, 192), backbone="mobilenetv2_035", width=16, hidden=8
    )
    assert list(seconds) == [
        "training step, images", "training step, cached features, first epoch",
        "training step, cached features, later epochs", "3 paths", "48 maps",
    ]  # fmt: skip
    images, first, later, paths, maps = seconds.values()
    # An encoding of the scenes is what the cache saves, and one for each fixation what a scanpath saves.
    assert later < images
    assert later < first
    # 87 scenes by two: 44 steps.
    of_87 = [float(re.search(r", ([\d.]+) s for 87 scenes by 2", line)[1]) for line in said[:3]]
    assert of_87 == [round(44 * s, 1) for s in (images, first, later)]
    assert float(re.search(r"([\d.]+) scanpaths/s of 13 fixations", said[3])[1]) == round(3 / paths, 1)
    assert float(re.search(r": (\d+) x$", said[3])[1]) > 1
    assert float(re.search(r"([\d.]+) maps/s of 256x192 px", said[4])[1]) == round(48 / maps, 1)
    assert said[5].startswith("codebook, mobilenetv2_035, cells of 16 px, bottleneck codebook, ")
