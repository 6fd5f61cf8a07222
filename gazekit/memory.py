"""Settings of the process that make large arrays cheap."""

from __future__ import annotations

import ctypes
import platform


def keep_freed_memory() -> None:
    """Let glibc keep large blocks for reuse; without effect on other systems.

    By default it hands them back to the kernel after every operation, and fetching them again makes
    convolutions on a CPU take about twice as long.
    """
    if platform.libc_ver()[0] == "glibc":
        m_trim_threshold, m_mmap_threshold = -1, -3
        for option in (m_trim_threshold, m_mmap_threshold):
            ctypes.CDLL("libc.so.6").mallopt(option, 2**30)
