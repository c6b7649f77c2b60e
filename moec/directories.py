"""Where moec keeps files of its own."""

from __future__ import annotations

import os
from pathlib import Path


def cache_directory() -> Path:
    """What can be made again: `MOEC_CACHE_DIR`, or the user's cache directory."""
    if chosen := os.environ.get("MOEC_CACHE_DIR"):
        return Path(chosen)
    import platformdirs

    return Path(platformdirs.user_cache_dir("moec"))
