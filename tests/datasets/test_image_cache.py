"""Decoded images found again by content: never stale, remade when damaged, shared by processes."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gazekit import InputError
from gazekit.datasets import image_cache
from gazekit.datasets.image_cache import ImageCache
from gazekit.datasets.images import read_rgb

SIZE = (20, 12)


def picture(path: Path, seed: int, size_wh_px: tuple[int, int] = (37, 23)) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size_wh_px[::-1], 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def cache(tmp_path):
    return ImageCache(tmp_path / "kept")


@pytest.fixture
def decoded(monkeypatch):
    """The images that were decoded, in order."""
    paths: list[str] = []

    def noting(path, size_wh_px=None):
        paths.append(Path(path).name)
        return read_rgb(path, size_wh_px)

    monkeypatch.setattr(image_cache, "read_rgb", noting)
    return paths


def kept(cache: ImageCache) -> list[Path]:
    return sorted(path for path in cache.folder.rglob("*") if path.is_file())


def test_the_same_pixels_as_without_it(cache, tmp_path, decoded):
    path = picture(tmp_path / "a.png", 1)
    for size in (SIZE, (37, 23), (50, 70)):
        first, second = cache.read(path, size), cache.read(str(path), size)
        for found in (first, second, ImageCache(cache.folder).read(path, size)):
            assert np.array_equal(found, read_rgb(path, size))
            assert found.shape == (size[1], size[0], 3)
            assert found.dtype == np.uint8
    assert decoded == ["a.png"] * 3


def test_what_is_given_out_can_be_written_to(cache, tmp_path):
    """A training augmentation may work in place; neither the file nor the next reader may see it."""
    path = picture(tmp_path / "a.png", 1)
    for _ in range(3):
        found = cache.read(path, SIZE)
        assert np.array_equal(found, read_rgb(path, SIZE))
        found[:] = 0


def test_one_content_is_kept_once_whatever_its_name(cache, tmp_path, decoded):
    picture(tmp_path / "a.png", 1)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.jpg").write_bytes((tmp_path / "a.png").read_bytes())
    one, other = (cache.read(path, SIZE) for path in (tmp_path / "a.png", tmp_path / "elsewhere" / "b.jpg"))
    assert np.array_equal(one, other)
    assert decoded == ["a.png"]
    assert len(kept(cache)) == 1


def test_two_contents_are_two(cache, tmp_path):
    paths = [picture(tmp_path / f"{seed}.png", seed) for seed in range(4)]
    for path in paths * 2:
        assert np.array_equal(cache.read(path, SIZE), read_rgb(path, SIZE))
    assert len(kept(cache)) == 4


@pytest.mark.parametrize("fresh", [True, False])
def test_another_content_under_the_same_name_gives_its_own_pixels(cache, tmp_path, fresh):
    path = picture(tmp_path / "a.bmp", 1)  # every bitmap of one size has as many bytes
    before = cache.read(path, SIZE)
    n_bytes, modified_ns = path.stat().st_size, path.stat().st_mtime_ns
    picture(path, 2)
    os.utime(path, ns=(modified_ns + 1, modified_ns + 1))
    assert path.stat().st_size == n_bytes
    after = (ImageCache(cache.folder) if fresh else cache).read(path, SIZE)
    assert np.array_equal(after, read_rgb(path, SIZE))
    assert not np.array_equal(after, before)


def test_sizes_are_kept_apart_and_sides_not_swapped(cache, tmp_path):
    path = picture(tmp_path / "a.png", 1)
    assert cache.read(path, (20, 12)).shape == (12, 20, 3)
    assert cache.read(path, (12, 20)).shape == (20, 12, 3)
    assert len({cache.path(path, size).parent for size in ((20, 12), (12, 20))}) == 2


def test_the_default_place_is_the_cache_folder(tmp_path):
    path = picture(tmp_path / "a.png", 1)
    ImageCache().read(path, SIZE)
    assert len(list((tmp_path / "cache" / "images").rglob("*.npy"))) == 1


def _npy(pixels: np.ndarray, **options) -> bytes:
    memory = io.BytesIO()
    np.save(memory, pixels, **options)
    return memory.getvalue()


def _npz() -> bytes:
    memory = io.BytesIO()
    np.savez(memory, a=np.zeros(3))
    return memory.getvalue()


_GOOD = _npy(np.zeros((12, 20, 3), np.uint8))


def _with_header(text: str) -> bytes:
    header = text.encode().ljust(117) + b"\n"
    return _GOOD[:8] + len(header).to_bytes(2, "little") + header + bytes(720)


DAMAGE = {
    "empty": b"",
    "text": b"not an array",
    "truncated": _GOOD[:-1],
    "header only": _GOOD[:100],
    "archive": _npz(),
    "archive that is none": b"PK\3\4" + bytes(40),
    "pickle": _npy(np.array([{"a": 1}], dtype=object), allow_pickle=True),
    "another shape": _npy(np.zeros((20, 12, 3), np.uint8)),
    "another type": _npy(np.zeros((12, 20, 3), np.float32)),
    "grey": _npy(np.zeros((12, 20), np.uint8)),
    "huge": _with_header("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000, 1000000, 3), }"),
    "huger": _with_header("{'descr': '|u1', 'fortran_order': False, 'shape': (" + "9" * 40 + ", 20, 3), }"),
    "negative": _with_header("{'descr': '|u1', 'fortran_order': False, 'shape': (-12, 20, 3), }"),
    "open bracket": _with_header("{'descr': '|u1', 'fortran_order': False, 'shape': ((((12, 20, 3), }"),
    "open quote": _with_header("{'descr': '''|u1, 'fortran_order': False, 'shape': (12, 20, 3), }"),
    "python 2": _with_header("{'descr': '|u1', 'fortran_order': False, 'shape': (12L, 20L, 3L), }"),
    "other keys": _with_header("{1: 2, 'a': 3}"),
    "deep": _with_header("(" * 110),
}


@pytest.mark.parametrize("damage", sorted(DAMAGE))
def test_a_damaged_file_is_remade(cache, tmp_path, damage, decoded):
    path = picture(tmp_path / "a.png", 1)
    cache.read(path, SIZE)
    (file,) = kept(cache)
    whole = file.read_bytes()
    file.write_bytes(DAMAGE[damage])
    assert np.array_equal(cache.read(path, SIZE), read_rgb(path, SIZE))
    assert file.read_bytes() == whole
    assert kept(cache) == [file]
    assert decoded == ["a.png"] * 2


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 127), st.integers(0, 255)), max_size=4), st.integers(0, len(_GOOD)))
def test_a_randomly_damaged_header_is_remade(tmp_path_factory, bytes_put, keep):
    """Flipped bits among the pixels go unseen; reading them all twice would cost what the cache saves."""
    folder = tmp_path_factory.getbasetemp() / "random_damage"
    path = folder / "a.png"
    if not path.exists():
        picture(path, 1)
    cache = ImageCache(folder / "kept")
    file = cache.path(path, SIZE)
    file.unlink(missing_ok=True)
    cache.read(path, SIZE)
    whole = file.read_bytes()
    content = bytearray(whole[:keep] if keep % 2 else whole)
    for at, value in bytes_put:
        if at < len(content):
            content[at] = value
    file.write_bytes(content)
    assert np.array_equal(cache.read(path, SIZE), read_rgb(path, SIZE))


@pytest.mark.parametrize("content", [b"", b"not an image"])
def test_what_is_no_image_is_one_line_and_not_kept(cache, tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(InputError, match=r"a\.png: not a readable image") as caught:
            cache.read(path, SIZE)
        assert len(str(caught.value).splitlines()) == 1
    assert kept(cache) == []


def test_a_missing_image_is_one_line_even_if_it_was_kept(cache, tmp_path):
    path = picture(tmp_path / "a.png", 1)
    cache.read(path, SIZE)
    path.unlink()
    with pytest.raises(InputError, match=r"a\.png: not a readable image .*No such file"):
        cache.read(path, SIZE)


@pytest.mark.parametrize("in_the_way", ["kept", "kept/20x12-v1"])
def test_a_cache_that_cannot_be_written_costs_time_and_nothing_else(tmp_path, in_the_way):
    """As for the tables of a dataset: the pixels are there, so there is nothing to stop for."""
    path = picture(tmp_path / "a.png", 1)
    (tmp_path / in_the_way).parent.mkdir(exist_ok=True)
    (tmp_path / in_the_way).write_bytes(b"in the way")
    assert np.array_equal(ImageCache(tmp_path / "kept").read(path, SIZE), read_rgb(path, SIZE))


def test_a_full_disk_costs_time_and_leaves_no_part(cache, tmp_path, monkeypatch):
    path = picture(tmp_path / "a.png", 1)

    def full(file, pixels, **_):
        file.write(b"some")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as during:
        during.setattr(np, "save", full)
        assert np.array_equal(cache.read(path, SIZE), read_rgb(path, SIZE))
    assert kept(cache) == []


def test_killed_while_writing_nothing_half_done_is_found(cache, tmp_path, monkeypatch):
    path = picture(tmp_path / "a.png", 1)

    def killed(file, pixels, **_):
        file.write(_GOOD[:50])
        raise KeyboardInterrupt

    with monkeypatch.context() as during:
        during.setattr(np, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            cache.read(path, SIZE)
    assert not cache.path(path, SIZE).exists()
    assert np.array_equal(cache.read(path, SIZE), read_rgb(path, SIZE))


def test_many_at_the_same_time(cache, tmp_path):
    paths = [picture(tmp_path / f"{seed}.png", seed) for seed in range(6)]
    expected = [read_rgb(path, SIZE) for path in paths]
    faults: list[object] = []

    def work(turn: int) -> None:
        own = ImageCache(cache.folder)
        for number in [(turn + step) % 6 for step in range(12)]:
            try:
                if not np.array_equal(own.read(paths[number], SIZE), expected[number]):
                    faults.append(number)
            except Exception as error:
                faults.append(error)

    workers = [threading.Thread(target=work, args=(turn,)) for turn in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert faults == []
    assert len(kept(cache)) == 6


_CHILD = """
import sys
from pathlib import Path
import numpy as np
from gazekit.datasets.image_cache import ImageCache
from gazekit.datasets.images import read_rgb
sys.stdin.readline()
for path in sorted(Path(sys.argv[1]).glob("*.png")):
    assert np.array_equal(ImageCache(Path(sys.argv[2])).read(path, (20, 12)), read_rgb(path, (20, 12)))
"""


@pytest.mark.slow
def test_processes_share_it(cache, tmp_path):
    for seed in range(40):
        picture(tmp_path / "images" / f"{seed}.png", seed)
    command = [sys.executable, "-c", _CHILD, str(tmp_path / "images"), str(cache.folder)]
    children = [subprocess.Popen(command, stdin=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        for child in children:
            child.communicate("go\n", timeout=60)
    finally:
        for child in children:
            child.kill()
            child.wait()
    assert [child.returncode for child in children] == [0, 0]
    assert len(kept(cache)) == 40
