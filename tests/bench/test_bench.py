"""`moec bench`: forms found by trying, peers that agree with the oracle, the JSON, and what is said of wrong input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from moec.bench import peers
from moec.bench.forms import Form, find_form
from moec.cli import main
from moec.source import read

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = ["--dims", "H=32,I=48,E=6,K=2", "--tokens", "1,9", "--seconds", "0"]
KEYS = [
    "spec",
    "dims",
    "tokens",
    "dtype",
    "storage",
    "threads",
    "impl",
    "ms_median",
    "ms_min",
    "ms_max",
    "gflops",
    "gbytes_s",
    "of_limit",
    "max_error",
]


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["bench", *arguments])


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("mixtral", Form("silu", True, True)),
        ("olmoe", Form("silu", True, False)),
        ("qwen3_moe", Form("silu", True, True)),
        ("seed", Form("relu", False, True)),
        ("deepseek_v3", None),
        ("gpt_oss", None),
    ],
)
def test_forms_are_found_by_trying(name: str, form: Form | None) -> None:
    assert find_form(read(EXAMPLES / f"{name}.moe")) == form


@pytest.mark.parametrize("name", ["olmoe", "seed"])
def test_every_peer_agrees_with_the_oracle(name: str) -> None:
    installed = [name for name, peer in peers.all_peers().items() if peer.python]
    against = ["--against", ",".join(installed)]
    done = bench(str(EXAMPLES / f"{name}.moe"), *SMALL, *against, "--dtype", "f32,bf16", "--json", "-")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [*found] == ["machine", "commit", "versions", "limits", "rows"]
    assert all([*row] == KEYS for row in found["rows"])
    points = {(row["dtype"], row["tokens"], row["impl"].partition("/")[0]) for row in found["rows"]}
    assert {"numpy", "numpy-naive", "torch", "onnxruntime"} <= {*installed}
    kinds = {impl: ("f32",) if impl == "onnxruntime" else ("f32", "bf16") for impl in ("moec", *installed)}
    assert points == {(kind, tokens, impl) for impl in kinds for kind in kinds[impl] for tokens in (1, 9)}
    for row in found["rows"]:
        assert row["max_error"] <= {"f32": 2e-5, "bf16": 2e-2}[row["dtype"]]
        assert 0 < row["ms_min"] <= row["ms_median"] <= row["ms_max"]


def test_a_layer_that_peers_do_not_know_is_timed_alone() -> None:
    done = bench(str(EXAMPLES / "gpt_oss.moe"), "--dims", "H=32,I=32,E=6,K=2", "--tokens", "2", "--seconds", "0")
    assert done.exit_code == 0, done.output
    assert "numpy is left out: knows only" in " ".join(done.stderr.split())


def test_a_peer_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = peers.Peer("absent", "", "absent.py", ("no_such_module",), ())
    monkeypatch.setattr(peers, "all_peers", lambda: {"absent": absent})
    done = bench(str(EXAMPLES / "seed.moe"), *SMALL, "--against", "absent")
    assert done.exit_code == 0, done.output
    assert "absent is not installed" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [(["--against", "nobody"], "no peer is called"), (["--tokens", "1,x"], "not a list of numbers")],
)
def test_wrong_arguments(arguments: list[str], text: str) -> None:
    done = bench(str(EXAMPLES / "seed.moe"), *arguments)
    assert done.exit_code == 2
    assert text in done.stderr


def test_peers_are_listed() -> None:
    done = CliRunner().invoke(main, ["peers"])
    assert done.exit_code == 0
    assert "numpy-naive" in done.output
