"""What the documents name is there, and the tour quotes what the stages print."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest
from click.testing import CliRunner

from moec.cli import main
from moec.language.read import read
from moec.opt import PASSES
from moec.options import Options
from moec.pipeline import STAGES, Compilation
from tests.test_floors import FLOORS

ROOT: Final = Path(__file__).parents[1]
PAGES: Final = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
TOUR: Final = (ROOT / "docs" / "tour.md").read_text()
README: Final = PAGES[0].read_text()
COMMANDS: Final = (ROOT / "docs" / "command.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    prose = re.sub(r"```.*?```|`[^`\n]*`", "code", text, flags=re.DOTALL)
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", prose) if "://" not in link]
    sources = re.findall(r"`((?:moec|tests|docs|grammar|benchmarks|examples)/[\w/.-]*)`", text)
    assert not [link for link in links if not (page.parent / link).exists()]
    assert not [name for name in sources if not (ROOT / name).exists()]


def test_the_tour_quotes_what_the_stages_print() -> None:
    compilation = Compilation(read(ROOT / "examples" / "mixtral.moe"), Options.of())
    printed = {line.strip() for stage in ("moe", "moe-opt") for line in str(compilation.show(stage)).splitlines()}
    quotes = [
        line.strip() for block in re.findall(r"```mlir\n(.*?)```", TOUR, re.DOTALL) for line in block.splitlines()
    ]
    assert len(quotes) > 10
    assert not [line for line in quotes if "…" not in line and line not in printed]


def test_the_tour_has_every_stage_and_every_pass() -> None:
    chapters = re.findall(r"`([a-z-]+)`", " ".join(re.findall(r"^## (.*)", TOUR, re.MULTILINE)))
    assert [name for name in STAGES if name != "passes"] == chapters
    table = re.findall(r"^\| (`.*?`) \|", TOUR, re.MULTILINE)
    named = set(re.findall(r"`([a-z-]+)`", " ".join(table)))
    planning = {"schedule", "fold-gathers"}  # told where the plan is
    assert named == {*PASSES, "canonicalize", "dce"} - planning
    assert all(f"the pass `{name}`" in TOUR.lower() for name in planning)


def test_the_readme_has_every_floor_and_every_command() -> None:
    floors = README.split("The code has floors")[1].split("\n\n")[0].partition("): ")[2]
    named = [set(re.findall(r"`(\w+)`", floor)) for floor in floors.split("·")]
    assert named == [set(floor) for floor in FLOORS if not {"__main__", ""} & set(floor)]
    for name in main.list_commands(None):  # pyright: ignore[reportArgumentType]
        assert f"`{name}`" in COMMANDS
        assert re.search(rf"`moec {name}\b", README)


#: The options that several commands take, and which: `all but` some.
SHARED: Final = re.findall(r"^\| (`--[^|]*(?:\\\|[^|]*)*) \| ([^|]*) \|", COMMANDS, re.MULTILINE)


@pytest.mark.parametrize("name", [name for name in main.list_commands(None) if name != "opt"])  # pyright: ignore
def test_the_page_of_commands_has_every_option(name: str) -> None:
    command = main.get_command(None, name)  # pyright: ignore[reportArgumentType]
    assert command is not None
    section = (re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", COMMANDS, re.MULTILINE | re.DOTALL) or [""])[0]
    row = (re.search(rf"^\| \[?`{name}`.*", COMMANDS, re.MULTILINE) or [""])[0]
    own = f"{section} {row} {(ROOT / 'docs' / 'serving.md').read_text() if name == 'serve' else ''}"
    shared = {
        option: (name in commands) != commands.startswith("all but")
        for options, commands in SHARED
        for option in re.findall(r"--[\w-]+", options)
    }
    for parameter in command.params:
        if parameter.param_type_name == "option":
            told = shared.get(parameter.opts[0], False)
            assert told or any(re.search(rf"(?<![\w-]){option}(?![a-z-])", own) for option in parameter.opts), (
                parameter.opts
            )
    taken = {option for parameter in command.params for option in parameter.opts}
    assert not {option for option, told in shared.items() if told} - taken


def test_the_help_has_every_exit_code() -> None:
    page = re.findall(r"^\| (\d+) \|", COMMANDS.partition("## Exit codes")[2], re.MULTILINE)
    told = CliRunner().invoke(main, ["--help"]).output.partition("Exit codes:")[2].partition("Environment:")[0]
    assert re.findall(r"^ +(\d+) ", told, re.MULTILINE) == page
