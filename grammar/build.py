"""A step of building the wheel: the parser's tables are made of the grammar once, here, and installed beside it."""

from __future__ import annotations

import runpy
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Tables(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return  # a checkout's grammar may change
        root = Path(self.root)
        text = (root / "grammar" / "moe.lark").read_text(encoding="utf-8")
        tables = runpy.run_path(str(root / "moec" / "language" / "tables.py"))
        name = tables["file_name"](text)
        self._folder = tempfile.TemporaryDirectory()
        made = Path(self._folder.name) / name
        made.write_bytes(tables["written"](tables["build"](text)).encode())
        build_data["force_include"][str(made)] = f"moec/language/{name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            self._folder.cleanup()
