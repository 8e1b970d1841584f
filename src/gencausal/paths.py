"""Where things are: the study's root, what runs make, and how a file is written whole or not at all.

Every path starts at `root()`, found by a marker file and never by the working directory, because papermill
runs a notebook in the caller's folder and nbval in the notebook's own.
"""

import os
import tempfile
from functools import cache
from pathlib import Path

MARKER = "claims.yaml"


@cache
def root() -> Path:
    """The folder that holds `claims.yaml`: above the package (a checkout), else above the working directory."""
    for start in (Path(__file__).resolve(), Path.cwd() / "here"):
        for folder in start.parents:
            if (folder / MARKER).is_file() and (folder / "notebooks").is_dir():
                return folder
    raise FileNotFoundError(f"The study's folder was not found: no {MARKER} beside notebooks/ above the package or {Path.cwd().name}/; run from a checkout of GenCausal.")


def build(profile: str) -> Path:
    """`build/<profile>/`, everything one profile makes; `GENCAUSAL_BUILD` moves `build/` elsewhere."""
    return Path(os.environ.get("GENCAUSAL_BUILD") or root() / "build") / profile


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write `content` to `path` through a temporary file beside it, so that a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path
