"""Everything: `python -m benchmarks.full [--quick] [--only PART,…]`.

Writes `benchmarks/results/<machine>.json` and the pictures beside it. Each part (a layer in one precision, on so many
threads, or in one storage format) is written as soon as it is measured, and is not measured again by a later run on the
same commit: a run that was cut off goes on where it was. A part that needs more memory than is free is left out and
named.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from moec import __version__
from moec.bench.layer_files import layer_path
from moec.bench.peers import Peer, all_peers
from moec.bench.plots import draw, picture_name
from moec.bench.results import Results
from moec.bench.trial import copies
from moec.host import free_memory
from moec.kernels import compile_layer
from moec.language.read import read
from moec.measure.cost import packed_bytes, param_bytes, param_count
from moec.options import Options
from moec.runtime.pool import default_threads

RESULTS = Path(__file__).parent / "results"
#: Layers of the comparison, with the dimensions that differ from their files', and whether 2048 tokens are measured.
LAYERS: tuple[tuple[str, str, dict[str, int], bool], ...] = (
    ("seed", "seed", {}, True),
    ("seed-small", "seed", {"H": 256, "I": 1024, "E": 4}, True),
    ("olmoe", "olmoe", {}, True),
    ("qwen3", "qwen3_moe", {}, True),
    ("mixtral", "mixtral", {}, False),
)
#: What experts are kept in and activations are rounded to; the quantised ones in bf16 only.
FORMS = (("", "real"), ("q8_0", "int8"), ("int8", "int8"), ("q4_0", "int8"), ("q4_0", "real"))


@dataclass(frozen=True)
class Part:
    """One trial: a name that is unique, the example, and how it is compiled."""

    name: str
    spec: str
    example: str
    options: Options
    tokens: tuple[int, ...]


def parts(quick: bool) -> Iterator[Part]:
    """What is measured: one thread before two, the layers' own precisions before the quantised ones."""
    for threads in sorted({1, default_threads()}):
        for storage, activations in FORMS[:2] if quick else FORMS:
            for spec, example, dims, long in LAYERS[:2] if quick else LAYERS:
                tokens = (1, 16) if quick else (1, 4, 16, 64, 512, *([2048] if long else []))
                for dtype in ("bf16",) if quick or storage else ("bf16", "f32"):
                    options = Options.of(dims, dtype, threads, storage=storage or None, activations=activations)
                    name = picture_name(spec, dtype, storage or dtype, activations, threads)
                    yield Part(name, spec, example, options, tokens)


def needed(part: Part, peers: Iterable[Peer]) -> float:
    """The bytes that a part takes: the weights, their panels and what the oracle makes of them; then the panels, the
    weights in a file for the peers, and what each of them holds."""
    interface = compile_layer(read(layer_path(part.example)), part.options).interface
    weights, panels = param_bytes(interface), packed_bytes(interface)
    spread = copies(weights)
    return max(
        weights + panels + 8 * param_count(interface),
        spread * panels + weights + spread * weights * sum(peer.holds for peer in peers),
    )


def grouped(part: Part, peers: Sequence[Peer], free: float) -> list[list[Peer]]:
    """Peers that there is ample memory for at once, those that hold least first: where pages have to be taken back from
    programs, all of them crawl."""
    groups: list[list[Peer]] = []
    for peer in sorted(peers, key=lambda peer: peer.holds):
        if groups and needed(part, [*groups[-1], peer]) <= 0.8 * free:
            groups[-1].append(peer)
        else:
            groups.append([peer])
    return [group for group in groups if needed(part, group) <= free]


@click.command()
@click.option("--quick", is_flag=True, help="Two layers, few tokens: whether it works.")
@click.option("--only", default="", help="Parts whose names contain one of these, separated by commas.")
@click.option("--seconds", default=1.0, show_default=True, help="For each implementation at each point.")
def main(quick: bool, only: str, seconds: float) -> None:
    """Measure everything, and draw it."""
    console = Console(stderr=True, highlight=False)
    peers = [each for each in all_peers().values() if each.python]
    for absent in (each.name for each in all_peers().values() if not each.python):
        console.print(f"{absent} is not installed and left out: moec peers --install {absent}")
    wanted = [word for word in only.split(",") if word]
    blank = Results(console, __version__).finish()
    machine = re.sub(r"\W+", "-", f"{blank['machine']['cpu']}-{blank['machine']['processors']}")
    path = RESULTS / f"{machine}{'-quick' if quick else ''}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    done: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    found = {**blank, "parts": {}, **(done if done.get("commit") == blank["commit"] else {})}
    for part in parts(quick):
        if part.name in found["parts"] or (wanted and not any(word in part.name for word in wanted)):
            continue
        _measure(part, peers, seconds, found, console)
        path.write_text(json.dumps(found, indent=1) + "\n")
    console.print(f"{len(draw(found, path.with_suffix('')))} pictures beside {path}")


def _measure(part: Part, peers: list[Peer], seconds: float, found: dict[str, Any], console: Console) -> None:
    """One part: as many peers at once as there is memory for, each group beside moec."""
    free = 0.88 * (free_memory() or 0)
    if needed(part, []) > free:
        console.print(
            f"{part.name} is left out: it takes {needed(part, []) / 1e9:.1f} GB, {free / 1e9:.1f} may be used"
        )
        return
    source = read(layer_path(part.example))
    groups = grouped(part, peers, free)
    for absent in {peer.name for peer in peers}.difference(peer.name for group in groups for peer in group):
        console.print(f"{part.name}: no memory for {absent}")
    rows: list[dict[str, Any]] = []
    for run, group in enumerate(groups or [[]]):
        results = Results(console, __version__)
        results.add(part.spec, source, replace(part.options), group, part.tokens, seconds)
        measured = results.finish()
        rows += [{**row, "run": run} for row in measured["rows"]]
        found["versions"] |= measured["versions"]
        known = [_kind(each) for each in found["limits"]]
        found["limits"] += [each for each in measured["limits"] if _kind(each) not in known]
    found["rows"] += rows
    found["parts"][part.name] = len(rows)


def _kind(limits: Mapping[str, Any]) -> tuple[Any, ...]:
    """What was measured: the limits of which arithmetic."""
    return limits["dtype"], limits["threads"], limits["activations"]


if __name__ == "__main__":
    main()
