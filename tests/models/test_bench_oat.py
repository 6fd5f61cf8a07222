"""OAT's bench: what it times is what it says."""

from gazekit.models.bench_oat import bench_oat


def test_oat_is_timed_on_paths_of_two_lengths():
    said: list[str] = []
    seconds = bench_oat(said.append, 30, repeats=1, appearance="none", width=24, n_heads=2, hidden=16, n_layers=1)
    assert set(seconds) == {"anew per fixation", "to the limit", "as long as people's", "training step"}
    lengths = [float(line.split(" fixations each")[0].split()[-1]) for line in said[:2]]
    # Random scores are near each other, not equal: about 15 fixations, or most of the 58.
    assert 5 < lengths[1] < 0.6 * lengths[0] < 58
