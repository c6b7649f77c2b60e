"""`moec bench`: forms found by trying, peers that agree with the oracle, the JSON, and what is said of wrong input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from moec.bench import peers
from moec.bench.forms import Form, find_form
from moec.bench.stages import read_clock
from moec.bench.trial import Trial
from moec.cli import main
from moec.kernels import compile_layer
from moec.language.read import read
from moec.measure.cost import analyse
from moec.measure.feed import random_inputs, random_weights
from moec.options import Options
from moec.pipeline import Compilation
from moec.runtime.kernel import Kernel

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = ["--dims", "H=32,I=48,E=6,K=2", "--tokens", "1,9", "--seconds", "0"]
KEYS = [
    "spec",
    "dims",
    "tokens",
    "dtype",
    "experts",
    "activations",
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
    "compared",
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
    able = [impl for impl in installed if (name, impl) != ("seed", "transformers")]  # no model has such experts
    kinds = {impl: ("f32",) if impl == "onnxruntime" else ("f32", "bf16") for impl in ("moec", *able)}
    assert points == {(kind, tokens, impl) for impl in kinds for kind in kinds[impl] for tokens in (1, 9)}
    for row in found["rows"]:
        assert row["max_error"] <= {"f32": 2e-5, "bf16": 2e-2}[row["dtype"]]
        assert row["compared"] >= 24
        assert 0 < row["ms_min"] <= row["ms_median"] <= row["ms_max"]


@pytest.mark.parametrize(("storage", "kind"), [("q8_0", "int8"), ("q4_0", "int4")])
def test_quantised_experts_beside_the_peers_own(storage: str, kind: str) -> None:
    small = ["--dims", "H=64,I=96,E=6,K=2", "--tokens", "5", "--seconds", "0", "--against", "torch,onnxruntime,numpy"]
    done = bench(str(EXAMPLES / "olmoe.moe"), *small, "--storage", storage, "--json", "-")
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["rows"]
    assert [row["impl"].partition("/")[0] for row in rows] == ["moec", "torch", "onnxruntime"]
    assert rows[0]["storage"] == storage and all(row["storage"].startswith(kind) for row in rows[1:])
    assert all(1e-3 < row["max_error"] < (0.05 if kind == "int8" else 0.4) for row in rows)
    assert all(row["compared"] >= 24 for row in rows)


#: A peer with the forms of NumPy's and others that are wrong: for every token, and for one in three.
SPOILT = """
import sys
sys.path.insert(0, {folder!r})
import numpy as np
from numpy_grouped import prepare, versions, wrap
from peer import Program, serve

def spoil(every):
    def spoilt(layer, weights):
        def run(x):
            y = right(x)
            y[::every] += 1e6
            return y
        right = prepare(layer, weights)
        return run
    return spoilt

forms = {{"grouped": prepare, "all": spoil(1), "third": spoil(3)}}
serve(Program(lambda layer: {{name: forms[name] for name in {names!r}}}, wrap, np.asarray, versions))
"""


@pytest.fixture
def unclear(monkeypatch: pytest.MonkeyPatch) -> None:
    """No token has clear choices."""
    monkeypatch.setattr("moec.oracle.MARGINS", {"f32": float("inf")})


def spoilt_peer(folder: Path, *names: str) -> peers.Peer:
    program = folder / f"{'-'.join(names)}.py"
    program.write_text(SPOILT.format(folder=str(peers.directory()), names=names))
    return peers.Peer("spoilt", "", str(program), 1.0, (), ())


@pytest.mark.usefixtures("unclear")
@pytest.mark.parametrize("tokens", [1, 9, 64])
def test_a_wrong_peer_is_left_out_also_where_no_choice_is_clear(tokens: int, tmp_path: Path) -> None:
    source, options = read(EXAMPLES / "olmoe.moe"), Options.of({"H": 32, "I": 48, "E": 6, "K": 2}, "f32", 1)
    wrong = [spoilt_peer(tmp_path, "all"), spoilt_peer(tmp_path, "all", "third"), spoilt_peer(tmp_path, "third")]
    for peer in wrong if tokens > 1 else wrong[:1]:  # of one token, every third is the only one
        with Trial(source, options, [peer], [tokens]) as trial:
            assert [sample.impl for sample in trial.measure(tokens, 0.0)] == ["moec"]
        (reason,) = trial.failures.values()
        assert "wrong: only " in reason and "tokens agree" in reason
    with Trial(source, options, [spoilt_peer(tmp_path, "all", "grouped")], [tokens]) as trial:
        moec, spoilt = trial.measure(tokens, 0.0)
    assert spoilt.impl == "spoilt/grouped" and not trial.failures
    assert moec.compared.counted == spoilt.compared.counted == 32


@pytest.mark.usefixtures("unclear")
@pytest.mark.parametrize("more", [{}, {"storage": "q8_0"}, {"storage": "q8_0", "activations": "int8"}])
def test_nothing_is_timed_where_moec_is_wrong(more: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    options = Options.of({"H": 64, "I": 96, "E": 6, "K": 2}, "f32", 1, **more)
    with Trial(read(EXAMPLES / "olmoe.moe"), options, [], [9]) as trial:
        trial.measure(9, 0.0)
        called = Kernel.__call__
        monkeypatch.setattr(Kernel, "__call__", lambda *given, **named: 1.02 * called(*given, **named))
        with pytest.raises(peers.PeerFailed, match="wrong: only 0 of 32 tokens agree"):
            trial.measure(9, 0.0)


def test_a_layer_that_gives_nothing_is_said_to_be_compared_with_nothing(tmp_path: Path) -> None:
    (tmp_path / "none.moe").write_text("moe none[H=8](x: [H], limit: i64) -> [H] { return f32(limit) * x }")
    done = bench(str(tmp_path / "none.moe"), "--tokens", "2", "--seconds", "0", "--json", "-")
    assert done.exit_code == 0, done.output
    assert "moec, 2 tokens: nothing is compared: every output is 0" in " ".join(done.stderr.split())
    assert [row["compared"] for row in json.loads(done.stdout)["rows"]] == [0]


def test_pictures_of_results(tmp_path: Path) -> None:
    done = bench(str(EXAMPLES / "seed.moe"), *SMALL, "--against", "numpy", "--plot", str(tmp_path))
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"seed-f32-1t-{kind}-{paper}.svg" for kind in ("roofline", "speed") for paper in ("dark", "light")
    ]
    text = (tmp_path / "seed-f32-1t-roofline-light.svg").read_text()
    assert "numpy" in text and "GFLOP/s" in text


@pytest.mark.parametrize("part", ["specialize", "pack", "simd", "timed"])
def test_a_layer_without_a_part_computes_the_same(part: str) -> None:
    source, whole = read(EXAMPLES / "mixtral.moe"), Options.of({"H": 40, "I": 56, "E": 4}, "f32", 1)
    target = replace(whole.target, features=(*whole.target.features, "-vectors"))
    options = {
        "simd": replace(whole, target=target),
        "timed": replace(whole, timed=True),
    }.get(part, replace(whole, without=(part,)))
    module = Compilation(source, whole).simplify()
    kernel, other = compile_layer(source, whole), compile_layer(source, options)
    arrays = random_weights(kernel.interface, module)
    x = random_inputs(kernel.interface, module, 11)
    y, z = kernel(*x, kernel.pack(arrays)), other(*x, other.pack(arrays))
    assert np.abs(y - z).max() < 1e-5 * np.abs(y).max()
    if part == "timed":
        stages = analyse(Compilation(source, whole).schedule(), 11).stages
        clock = read_clock(len(stages))
        assert clock == sorted(clock) and clock[0] > 0


def test_a_layer_that_peers_do_not_know_is_timed_alone() -> None:
    done = bench(str(EXAMPLES / "gpt_oss.moe"), "--dims", "H=32,I=32,E=6,K=2", "--tokens", "2", "--seconds", "0")
    assert done.exit_code == 0, done.output
    assert "numpy is left out: knows only" in " ".join(done.stderr.split())


def test_a_peer_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = peers.Peer("absent", "", "absent.py", 1.0, ("no_such_module",), ())
    monkeypatch.setattr(peers, "all_peers", lambda: {"absent": absent})
    done = bench(str(EXAMPLES / "seed.moe"), *SMALL, "--against", "absent")
    assert done.exit_code == 0, done.output
    assert "absent is not installed" in done.stderr


def test_a_peer_s_environment_is_in_the_cache_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MOEC_CACHE_DIR", str(tmp_path))
    assert peers.Peer("absent", "", "absent.py", 1.0, ("no_such_module",), ()).home == tmp_path / "peers" / "absent"


def test_a_peer_that_died_is_closed_without_a_word(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "dies.py").write_text("raise SystemExit(3)")
    monkeypatch.setattr(peers, "directory", lambda: tmp_path)
    talk = peers.Conversation(peers.Peer("dies", "", "dies.py", 1.0, (), ()), 1)
    for _ in range(2):  # the second finds nobody who reads
        with pytest.raises(peers.PeerFailed, match="exit code 3"):
            talk.ask("load")
    talk.close()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--against", "nobody"], "no peer is called"),
        (["--ablate", "rust"], "cannot be switched off"),
        (["--tokens", "1,x"], "not a list of numbers"),
    ],
)
def test_wrong_arguments(arguments: list[str], text: str) -> None:
    done = bench(str(EXAMPLES / "seed.moe"), *arguments)
    assert done.exit_code == 2
    assert text in done.stderr


def test_peers_are_listed() -> None:
    done = CliRunner().invoke(main, ["peers"])
    assert done.exit_code == 0
    assert "numpy-naive" in done.output
