"""Displays on disk: to run them with people, and to search on displays that were made elsewhere.

Layout, one folder per condition, as the published displays have it::

    CONDITION/stimuli/1.png ...    the displays, by set size and then by trial
    CONDITION/target/1.png ...     the target of each, in the version that the display has
    CONDITION/gt/1.png ...         white where the display counts as target
    CONDITION/displays.csv         number, set size, target present, boxes in px and places in dva (written here)
    gt_mask.npy                    (cells, H, W) uint8, 255 in each possible item cell; may also lie in CONDITION
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image

from gazekit.displays import SearchDisplays
from gazekit.errors import InputError
from gazekit.files import written_aside
from gazekit.stimuli.design import DrawnDisplay, SearchDesign

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")


def display_svg(design: SearchDesign, display: DrawnDisplay) -> str:
    """The display as SVG, sharp at any size; its width is given in degrees in a comment and in px in the file."""
    width, height = design.size_wh_px
    ground = f"#{design.background:02x}{design.background:02x}{design.background:02x}"
    items = "".join(
        f'<svg x="{item.box_px[0]}" y="{item.box_px[1]}" width="{design.item_px}" height="{design.item_px}">'
        f"{item.drawing.svg(design.item_px, design.background, design.contrast)}</svg>\n"
        for item in display.items
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">\n'
        f"<!-- {display.name}; {width / design.px_per_dva:g} x {height / design.px_per_dva:g} dva at "
        f"{design.px_per_dva:g} px per dva -->\n"
        f'<rect width="{width}" height="{height}" fill="{ground}"/>\n{items}</svg>\n'
    )


def export_condition(design: SearchDesign, folder: Path, absent: bool = False) -> pd.DataFrame:
    """Write every display of a design below ``folder/CONDITION`` as PNG and SVG; return and write ``displays.csv``.

    Args:
        design: What to draw.
        folder: Gets a folder named after the condition, and ``gt_mask.npy``.
        absent: Also a target-absent display for every target-present one, for people who answer yes or no.

    """
    base = folder / design.name
    rows: list[dict[str, object]] = []
    for set_size in design.set_sizes:
        for trial in range(design.trials):
            for present in (True, False) if absent else (True,):
                display = design.draw(set_size, trial, present)
                number = len(rows) + 1
                area = np.zeros(display.image.shape[:2], np.uint8)
                if display.target_area_px is not None:
                    left, top, right, bottom = display.target_area_px
                    area[top:bottom, left:right] = 255
                for part, pixels in (("stimuli", display.image), ("target", display.target), ("gt", area)):
                    with written_aside(base / part / f"{number}.png") as aside:
                        Image.fromarray(pixels).save(aside, "PNG")
                with written_aside(base / "svg" / f"{number}.svg") as aside:
                    aside.write_text(display_svg(design, display), encoding="utf-8")
                rows.append({"number": number, "set_size": set_size, "trial": trial} | _where(design, display))
    width, height = design.size_wh_px
    cells = np.zeros((design.n_cells, height, width), np.uint8)
    for cell, mask in enumerate(cells):
        left, top, right, bottom = design.cell_box_px(cell)
        mask[top:bottom, left:right] = 255
    with written_aside(folder / "gt_mask.npy") as aside, aside.open("wb") as file:
        np.save(file, cells)
    table = pd.DataFrame(rows)
    with written_aside(base / "displays.csv") as aside:
        table.to_csv(aside, index=False)
    return table


def _where(design: SearchDesign, display: DrawnDisplay) -> dict[str, object]:
    row: dict[str, object] = {"target_present": display.target_box_px is not None}
    left, top, right, bottom = display.target_box_px or (np.nan,) * 4
    row |= {"target_left_px": left, "target_top_px": top, "target_right_px": right, "target_bottom_px": bottom}
    width, height = design.size_wh_px
    # Offsets from the middle of the display, to the right and downwards.
    row["target_x_dva"] = ((left + right) / 2.0 - width / 2.0) / design.px_per_dva
    row["target_y_dva"] = ((top + bottom) / 2.0 - height / 2.0) / design.px_per_dva
    row["cells"] = " ".join(str(item.cell) for item in display.items)
    return row


@dataclass(frozen=True)
class FolderCondition:
    """A condition whose displays lie in a folder, in the layout above: published ones, or one's own.

    Args:
        folder: Holds ``stimuli``, ``target`` and ``gt``.
        set_sizes: In the order of the files; None: as ``displays.csv`` says.
        background: Grey around a display and in erased cells; None: the most frequent grey of the first display.
        px_per_dva: Pixels per degree.
        max_fixations: None: one more than there are cells.
        window_px: See :class:`gazekit.displays.SearchDisplays`.
        name: Of the condition; default is the folder's.

    Raises:
        InputError: A folder or file is missing, the displays do not share out over the set sizes.

    """

    folder: Path
    set_sizes: tuple[int, ...] = ()
    background: int | None = None
    px_per_dva: float = 30.0
    max_fixations: int | None = None
    window_px: int = 10
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))
        object.__setattr__(self, "name", self.name or self.folder.name)
        object.__setattr__(self, "set_sizes", tuple(self.set_sizes) or tuple(sorted(set(self._table()["set_size"]))))
        self._numbers()

    def _table(self) -> pd.DataFrame:
        file = self.folder / "displays.csv"
        if not file.is_file():
            raise InputError(f"{self.folder}: no displays.csv and no set_sizes; say how many items the displays show")
        try:
            table = pd.read_csv(file)
            return table[table["target_present"]] if "target_present" in table else table
        except (ValueError, KeyError) as error:
            raise InputError(f"{file}: not a table with number and set_size ({error})") from error

    def _numbers(self) -> dict[int, list[int]]:
        """Set size -> numbers of its displays."""
        numbers = sorted(int(file.stem) for file in self._files("stimuli").values())
        if (self.folder / "displays.csv").is_file():
            table = self._table()
            if missing := {"number", "set_size"} - set(table):
                raise InputError(f"{self.folder / 'displays.csv'}: lacks column {sorted(missing)[0]!r}")
            shown = {n: table.loc[table["set_size"] == n, "number"].tolist() for n in self.set_sizes}
            if lost := [k for ks in shown.values() for k in ks if k not in numbers]:
                raise InputError(f"{self.folder / 'stimuli'}: display {lost[0]} of displays.csv is missing")
            return shown
        each, rest = divmod(len(numbers), len(self.set_sizes))
        if rest or not each:
            raise InputError(
                f"{self.folder}: {len(numbers)} displays do not share out over {len(self.set_sizes)} set sizes"
            )
        return {n: numbers[i * each : (i + 1) * each] for i, n in enumerate(self.set_sizes)}

    def _files(self, part: str) -> dict[int, Path]:
        folder = self.folder / part
        files = {
            int(file.stem): file
            for file in (folder.iterdir() if folder.is_dir() else ())
            if file.suffix.lower() in _SUFFIXES and file.stem.isdigit()
        }
        if not files:
            raise InputError(f"{folder}: no displays (1.png, 2.png, ...; also .jpg); see gazekit.stimuli.export")
        return files

    def _cells(self) -> torch.Tensor:
        for file in (self.folder / "gt_mask.npy", self.folder.parent / "gt_mask.npy"):
            if file.is_file():
                try:
                    return torch.from_numpy(np.load(file, allow_pickle=False)).bool()
                except (OSError, ValueError, TypeError) as error:
                    raise InputError(f"{file}: not a (cells, H, W) array ({error})") from error
        raise InputError(f"{self.folder}: no gt_mask.npy here or one folder up, with a mask for each item cell")

    def displays(self, set_size: int) -> SearchDisplays:
        """All displays of one set size.

        Raises:
            InputError: A file is missing or unreadable, sizes differ, a display has no target, a mask does not fit.

        """
        numbers = self._numbers()[set_size]
        parts = {}
        for part in ("stimuli", "target", "gt"):
            files = self._files(part)
            if lost := [k for k in numbers if k not in files]:
                raise InputError(f"{self.folder / part}: no picture for display {lost[0]}")
            parts[part] = _stack([files[k] for k in numbers])
        image, cells = parts["stimuli"], self._cells()
        ground = self.background
        if ground is None:
            ground = int(image[0].float().mean(0).round().long().flatten().mode().values)
        return SearchDisplays(
            name=tuple(f"{self.name}/{set_size}/{k}" for k in numbers),
            image=image,
            target=parts["target"],
            # As published: what is brighter than the middle, since JPEG leaves no clean black and white.
            target_mask=parts["gt"].float().mean(1) > 125,
            cells=cells,
            background=ground,
            max_fixations=self.max_fixations or len(cells) + 1,
            px_per_dva=self.px_per_dva,
            window_px=self.window_px,
        )

    def fingerprint(self) -> str:
        """Digest of the files' names, sizes and times, and of the settings."""
        crc = zlib.crc32(repr(self).encode())
        for part in ("stimuli", "target", "gt"):
            for number, file in sorted(self._files(part).items()):
                stat = file.stat()
                crc = zlib.crc32(f"{part}{number}{stat.st_size}{stat.st_mtime_ns}".encode(), crc)
        return f"{crc:08x}"


def _stack(files: Sequence[Path]) -> torch.Tensor:
    pixels: list[NDArray[np.uint8]] = []
    for file in files:
        try:
            with Image.open(file) as image:
                pixels.append(np.asarray(image.convert("RGB")))
        except OSError as error:
            raise InputError(f"{file}: cannot be read as a picture ({error})") from error
        if pixels[-1].shape != pixels[0].shape:
            raise InputError(
                f"{file}: {pixels[-1].shape[1]}x{pixels[-1].shape[0]} px, but {files[0].name} is "
                f"{pixels[0].shape[1]}x{pixels[0].shape[0]} px; all of one set size must be of one size"
            )
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
