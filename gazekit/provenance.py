"""Which code made a number."""

from __future__ import annotations

import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

import gazekit


@lru_cache(maxsize=1)
def git_commit() -> str:
    """Commit of the checkout that gazekit runs from, ``-dirty`` if files differ; "" if it is installed."""
    folder = Path(gazekit.__file__).parent.parent
    git = shutil.which("git")
    if git is None or not (folder / ".git").exists():
        return ""

    def ask(*words: str) -> str:
        run = subprocess.run([git, "-C", str(folder), *words], capture_output=True, text=True, check=False)  # noqa: S603
        return run.stdout.strip() if run.returncode == 0 else ""

    commit = ask("rev-parse", "--short=12", "HEAD")
    return f"{commit}-dirty" if commit and ask("status", "--porcelain", "--untracked-files=no") else commit
