"""What the documents name is there, and the tour quotes what the stages print."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import ml_dtypes
import numpy as np
import pytest
import torch
from click.testing import CliRunner

import moec
from moec.cli import main
from moec.language.read import read
from moec.opt import PASSES, load_pass
from moec.options import Options
from moec.pipeline import STAGES, Compilation
from tests.checkpoint.models import weights, write_gguf, write_sharded
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
    table = re.findall(r"^\| (`.*?`) \| (.*?) *\|", TOUR, re.MULTILINE)
    named = re.findall(r"`([a-z-]+)`", " ".join(names for names, _ in table))
    assert sorted(named) == sorted({*PASSES, "canonicalize", "dce"})
    assert all(f"the pass `{name}`" in TOUR.lower() for name in ("schedule", "fold-gathers"))


def test_a_pass_and_the_tour_say_what_it_needs() -> None:
    needs = dict(re.findall(r"^\| `([a-z-]+)` \| (.*?) *\|", TOUR, re.MULTILINE))
    for name in PASSES:
        told = re.search(r"^    Needs (.*?)\. Leaves ", load_pass(name).__doc__ or "", re.MULTILINE)
        assert told, name
        assert re.findall(r"`([a-z-]+)`", told[1]) == re.findall(r"`([a-z-]+)`", needs[name]), name
        assert told[1].startswith("nothing") != bool(needs[name]), name


def test_the_readme_has_every_floor_and_every_command() -> None:
    floors = README.split("The code has floors")[1].split("\n\n")[0].partition("): ")[2]
    named = [set(re.findall(r"`(\w+)`", floor)) for floor in floors.split("·")]
    assert named == [set(floor) for floor in FLOORS if not {"__main__", ""} & set(floor)]
    for name in main.list_commands(None):  # pyright: ignore[reportArgumentType]
        assert f"`{name}`" in COMMANDS
        assert re.search(rf"`moec {name}\b", README)


@pytest.fixture
def beside_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory to run in that has what the snippets of the documents name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    write_gguf(tmp_path / "model.gguf", [weights(i) for i in range(4)], dict.fromkeys(("gate", "up", "down"), "Q8_0"))
    (tmp_path / "OLMoE-1B-7B").mkdir()
    write_sharded(tmp_path / "OLMoE-1B-7B", [weights(i) for i in range(4)])
    return tmp_path


def run_snippet(page: str, holding: str, **names: Any) -> dict[str, Any]:
    """Runs the snippet of a page that holds some text, with small dimensions and what the page has no need to define;
    the names that it leaves."""
    found = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    (snippet,) = (each for each in found if holding in each)
    exec(snippet.replace("1024", "256").replace("2048", "512"), names)
    return names


def module(arrays: dict[str, Any]) -> SimpleNamespace:
    """What has weights in memory as `transformers` has them."""
    tensors = {
        "gate.weight": arrays["router"],
        "experts.gate_up_proj": np.concatenate([arrays["gate"], arrays["up"]], 1),
        "experts.down_proj": arrays["down"],
    }
    state = {f"model.layers.3.mlp.{name}": torch.from_numpy(array) for name, array in tensors.items()}
    return SimpleNamespace(state_dict=lambda: state)


def tokens(count: int, width: int, dtype: Any = ml_dtypes.bfloat16) -> Any:
    return np.random.default_rng(0).standard_normal((count, width)).astype(dtype)


def test_the_snippet_of_the_readme_runs(beside_examples: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays, x = weights(H=256, I=512, E=8), tokens(20, 256)
    left = run_snippet("README.md", "moec.compile", **arrays, arrays=arrays, x=x, model=module(arrays))
    told = capsys.readouterr().out
    assert told.startswith(f"{dict.fromkeys(('gate', 'up', 'down'), 'q4_K')}\n")
    assert f"{dict.fromkeys(('gate', 'up', 'down'), 'q8_0')} int8\n" in told and 'tile = "int8' in told
    errors = np.abs(left["y"].astype(np.float32) - left["truth"]).max(1) / np.abs(left["truth"]).max()
    assert (errors < 0.02).mean() > 0.5  # the others chose between two experts that were as good


def test_the_oracle_of_integers_is_the_snippet_s(beside_examples: Path) -> None:
    arrays, x = weights(H=256, I=512, E=8), tokens(20, 256, np.float32)
    left = run_snippet("docs/formats.md", "moec.reference", arrays=arrays, x=x)
    assert left["ran"].activations == "int8"
    errors = np.abs(left["kernel"](x, left["packed"]) - left["truth"]).max(1) / np.abs(left["truth"]).max()
    assert (errors < 1e-3).mean() > 0.5


def test_the_snippet_of_checkpoints_runs(beside_examples: Path) -> None:
    x = tokens(5, 64)
    left = run_snippet("docs/checkpoints.md", "moec.load", moec=moec, module=module(weights(3)), x=x)
    assert left["kernel"](x, left["weights"]).tobytes() == left["y"].tobytes()


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
