"""Opening stimuli: every kind of image gives RGB, every kind of damage one line, and nothing warns."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gazekit import InputError
from gazekit.datasets.images import image_size_wh_px, read_image, read_rgb, to_tensor

WIDTH, HEIGHT = 37, 23


def rgb_pixels(seed: int = 0, size_wh_px: tuple[int, int] = (WIDTH, HEIGHT)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size_wh_px[::-1], 3), dtype=np.uint8)


def saved(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def png_header(width: int, height: int, depth: int = 8, color: int = 2) -> bytes:
    """The start of a PNG that claims this size, and nothing behind it."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    chunk = b"IHDR" + header
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(header)) + chunk + struct.pack(">I", zlib.crc32(chunk))


def refused(path: Path) -> None:
    for call in (image_size_wh_px, read_rgb, read_image):
        with pytest.raises(InputError, match="not a readable image") as caught:
            call(path)
        message = str(caught.value)
        assert message.startswith(str(path))
        assert message.endswith("; replace the file")
        assert len(message.splitlines()) == 1


def refused_when_decoded(path: Path) -> None:
    with pytest.raises(InputError, match=r"not a readable image .*; replace the file") as caught:
        read_rgb(path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("kind", ["png", "bmp", "ppm", "tif", "webp"])
def test_lossless_pixels_are_those_that_were_saved(tmp_path, kind):
    pixels = rgb_pixels()
    options = {"lossless": True} if kind == "webp" else {}
    path = saved(tmp_path / f"a.{kind}", Image.fromarray(pixels), **options)
    assert image_size_wh_px(path) == (WIDTH, HEIGHT)
    assert image_size_wh_px(str(path)) == (WIDTH, HEIGHT)
    found = read_rgb(path)
    assert found.shape == (HEIGHT, WIDTH, 3)
    assert found.dtype == np.uint8
    assert np.array_equal(found, pixels)


def test_the_suffix_does_not_matter(tmp_path):
    """Releases hold PNG files that are named .jpg."""
    memory = io.BytesIO()
    Image.fromarray(rgb_pixels()).save(memory, "PNG")
    (tmp_path / "a.jpg").write_bytes(memory.getvalue())
    assert np.array_equal(read_rgb(tmp_path / "a.jpg"), rgb_pixels())


def test_as_tensor_in_the_order_of_the_axes(tmp_path):
    path = saved(tmp_path / "a.png", Image.fromarray(rgb_pixels()))
    tensor = read_image(path)
    assert tensor.shape == (3, HEIGHT, WIDTH)
    assert tensor.dtype == torch.float32
    expected = rgb_pixels()[5, 30] / 255
    # One rounding to float32.
    np.testing.assert_allclose(tensor[:, 5, 30], expected, rtol=1e-7)
    extremes = to_tensor(np.array([[[0, 255, 128]]], dtype=np.uint8))
    assert extremes.flatten()[:2].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P", "RGBA"])
def test_every_mode_gives_its_colors(tmp_path, mode):
    """Blocks of colors that each mode can hold; transparency is dropped, not blended."""
    if mode == "1":
        colors = np.array([[0, 0, 0], [255, 255, 255]], dtype=np.uint8)
    elif mode in ("L", "LA"):
        colors = np.array([[0, 0, 0], [128, 128, 128], [200, 200, 200]], dtype=np.uint8)
    else:
        colors = np.array([[255, 0, 0], [0, 128, 255], [7, 8, 9]], dtype=np.uint8)
    pixels = colors[np.arange(WIDTH * HEIGHT).reshape(HEIGHT, WIDTH) % len(colors)]
    image = Image.fromarray(pixels)
    image = image.quantize(8) if mode == "P" else image.convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(np.tile(np.arange(WIDTH, dtype=np.uint8), (HEIGHT, 1))))
    path = saved(tmp_path / "a.png", image)
    assert np.array_equal(read_rgb(path), pixels)


@pytest.mark.parametrize("transparency", [0, bytes([0, 128, 255])])
def test_a_palette_with_transparent_entries_is_an_image(tmp_path, transparency):
    """Many web graphics are such; Pillow advises something about them, which is no fault of the file."""
    colors = np.array([[255, 0, 0], [0, 128, 255], [7, 8, 9]], dtype=np.uint8)
    entries = np.arange(WIDTH * HEIGHT, dtype=np.uint8).reshape(HEIGHT, WIDTH) % 3
    palette = Image.frombytes("P", (WIDTH, HEIGHT), entries.tobytes())
    palette.putpalette(colors.tobytes())
    path = saved(tmp_path / "a.png", palette, transparency=transparency)
    assert np.array_equal(read_rgb(path), colors[entries])


def test_sixteen_bits_become_eight(tmp_path):
    """All values above 255 of 65535 are not white."""
    ramp = np.linspace(0, 65535, WIDTH * HEIGHT).astype(np.uint16).reshape(HEIGHT, WIDTH)
    path = saved(tmp_path / "a.png", Image.fromarray(ramp))
    found = read_rgb(path)
    assert (found == found[..., :1]).all()
    # Dividing by 256 or by 257 differ by one.
    assert np.abs(found[..., 0].astype(int) - (ramp // 257).astype(int)).max() <= 1


def test_sixteen_bit_colors_become_eight(tmp_path):
    row = np.linspace(0, 65535, WIDTH).astype(">u2")
    rows = [b"\0" + np.stack([np.roll(row, 3 * y), row, row[::-1]], -1).astype(">u2").tobytes() for y in range(HEIGHT)]
    data = b"IDAT" + zlib.compress(b"".join(rows))
    end = b"IEND"
    path = tmp_path / "a.png"
    path.write_bytes(
        png_header(WIDTH, HEIGHT, 16)
        + b"".join(struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (data, end))
    )
    found = read_rgb(path)
    assert np.abs(found[4, :, 1].astype(int) - (row // 257).astype(int)).max() <= 1
    assert np.abs(found[4, :, 0].astype(int) - (np.roll(row, 12) // 257).astype(int)).max() <= 1


def test_a_grey_jpeg(tmp_path):
    path = saved(tmp_path / "a.jpg", Image.fromarray(np.full((HEIGHT, WIDTH), 77, np.uint8)))
    assert (read_rgb(path) == 77).all()


def test_a_cmyk_jpeg_has_its_colors(tmp_path):
    red = Image.new("RGB", (WIDTH, HEIGHT), (250, 10, 10)).convert("CMYK")
    found = read_rgb(saved(tmp_path / "a.jpg", red, quality=95))
    # JPEG is lossy; inverted inks would give (5, 245, 245).
    assert np.abs(found.astype(int) - (250, 10, 10)).max() <= 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_not_applied(tmp_path, orientation):
    """Fixations refer to the pixels as they are stored."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = rgb_pixels()
    path = saved(tmp_path / "a.png", Image.fromarray(pixels), exif=exif)
    assert image_size_wh_px(path) == (WIDTH, HEIGHT)
    assert np.array_equal(read_rgb(path), pixels)


def test_the_first_picture_of_an_animation(tmp_path):
    first, second = (Image.new("RGB", (WIDTH, HEIGHT), color) for color in ("red", "blue"))
    path = saved(tmp_path / "a.gif", first, save_all=True, append_images=[second])
    assert (read_rgb(path) == (255, 0, 0)).all()


@pytest.mark.parametrize("size_wh_px", [(11, 5), (80, 31), (5, 60)])
def test_resizing_gives_that_size_and_keeps_what_is_there(tmp_path, size_wh_px):
    path = saved(tmp_path / "a.png", Image.new("RGB", (WIDTH, HEIGHT), (9, 99, 199)))
    found = read_rgb(path, size_wh_px)
    assert found.shape == (size_wh_px[1], size_wh_px[0], 3)
    assert (found == (9, 99, 199)).all()
    assert read_image(path, size_wh_px).shape == (3, size_wh_px[1], size_wh_px[0])


def test_resizing_does_not_swap_sides(tmp_path):
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 40:] = 255
    found = read_rgb(saved(tmp_path / "a.png", Image.fromarray(pixels)), (20, 10))
    assert (found[:, :8] == 0).all()
    assert (found[:, 12:] == 255).all()


def test_shrinking_averages(tmp_path):
    """A fine checkerboard is grey from afar; without antialiasing it would be black, white or stripes."""
    board = (np.indices((240, 320)).sum(0) % 2 * 255).astype(np.uint8)
    path = saved(tmp_path / "a.png", Image.fromarray(board))
    found = read_rgb(path, (32, 30)).astype(int)
    # Away from the edges, where the filter's window is cut.
    assert np.abs(found[2:-2, 2:-2] - 127.5).max() <= 3


def test_its_own_size_is_not_touched(tmp_path):
    path = saved(tmp_path / "a.png", Image.fromarray(rgb_pixels()))
    assert np.array_equal(read_rgb(path, (WIDTH, HEIGHT)), rgb_pixels())


@pytest.mark.parametrize(
    "content",
    [b"", b"not an image", b"<html>rate limit</html>" * 100, b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\0" * 500,
     b"GIF89a", b"BM",
     b"II*\0\x08\0\0\0", b"RIFF\0\0\0\0WEBP", b"P6\n", "text in two bytes".encode("utf-16"), b"PK\3\4" + bytes(100)],
    ids=lambda content: repr(content[:12]),
)  # fmt: skip
def test_what_is_no_image_is_one_line(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    refused(path)


def test_a_missing_image_and_a_folder_are_one_line(tmp_path):
    refused(tmp_path / "nowhere.png")
    refused(tmp_path)


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "a\0b.png"])
def test_a_name_that_cannot_be_is_one_line(tmp_path, name):
    with pytest.raises(InputError) as caught:
        read_rgb(tmp_path / name)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("kind", ["png", "jpg", "bmp", "gif", "webp", "tif"])
@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_a_truncated_image_is_one_line(tmp_path, kind, keep):
    path = saved(tmp_path / f"a.{kind}", Image.fromarray(rgb_pixels()))
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    refused_when_decoded(path)


@pytest.mark.parametrize("size_wh_px", [(60_000, 60_000), (2**31 - 1, 2**31 - 1), (1, 2**31 - 1), (12_000, 12_000)])
def test_a_huge_size_is_refused_at_once(tmp_path, size_wh_px):
    """From the header alone: quickly, and without the memory that it asks for."""
    path = tmp_path / "a.png"
    path.write_bytes(png_header(*size_wh_px) + b"\0\0\0\4IDAT")
    start = time.perf_counter()
    tracemalloc.start()
    try:
        refused(path)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - start < 2


def test_a_text_block_that_swells_is_refused(tmp_path):
    """A compressed comment of kilobytes can claim gigabytes."""
    text = b"zTXt" + b"Comment\0\0" + zlib.compress(bytes(30_000_000), 9)
    path = tmp_path / "a.png"
    path.write_bytes(
        png_header(WIDTH, HEIGHT) + struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    )
    tracemalloc.start()
    try:
        refused_when_decoded(path)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "content",
    [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 37 23\n%%EndComments\n(/etc/passwd) (r) file\nshowpage\n%%EOF\n"],
    ids=["PostScript"],
)
def test_a_program_is_no_image(tmp_path, content):
    """Pillow would hand PostScript to Ghostscript, which runs it; a stimulus is never one."""
    path = tmp_path / "a.png"
    path.write_bytes(content)
    refused(path)


def test_nothing_warns_even_where_pillow_would(tmp_path):
    """A JPEG whose EXIF is damaged shows its pixels all the same."""
    memory = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 1, "a description"
    Image.fromarray(rgb_pixels()).save(memory, "JPEG", exif=exif)
    content = memory.getvalue()
    at = content.index(b"Exif\0\0") + 10
    path = tmp_path / "a.jpg"
    path.write_bytes(content[:at] + b"\xff\xff\xff\x7f" + content[at + 4 :])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert image_size_wh_px(path) == (WIDTH, HEIGHT)
        assert read_rgb(path).shape == (HEIGHT, WIDTH, 3)
    assert said == []


def _encoded(kind: str) -> bytes:
    memory = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rgb_pixels(size_wh_px=(19, 13))).save(memory, kind, exif=exif)
    return memory.getvalue()


_SAMPLES = {kind: _encoded(kind) for kind in ("PNG", "JPEG", "TIFF", "WEBP")}


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(sorted(_SAMPLES)),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=5),
    st.floats(0, 1),
)
def test_random_damage_gives_pixels_or_one_line(tmp_path_factory, kind, bytes_put, keep):
    content = bytearray(_SAMPLES[kind])
    for at, value in bytes_put:
        content[int(at**2 * (len(content) - 1))] = value  # rather in the header
    del content[int((1 - (1 - keep) ** 4) * len(content)) + 1 :]
    path = tmp_path_factory.getbasetemp() / f"damaged_{kind}"
    path.write_bytes(content)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for call in (image_size_wh_px, read_rgb):
            try:
                call(path)
            except InputError as error:
                assert_one_line(error)
    assert said == []


def assert_one_line(error: BaseException) -> None:
    assert len(str(error).splitlines()) == 1
