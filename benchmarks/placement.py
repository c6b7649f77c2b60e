"""Plans where the experts of a large layer go: what a machine computes is measured, what goes over the wire is counted.

    python benchmarks/placement.py --machines 8,64 --tokens 8,64,512,4096 --wire 25,100

Each machine holds experts / machines of them. For every number of tokens in a step of all machines, ids are drawn (K of
the E experts for each token, all alike), the kernel of the busiest machine is timed on the slots that go there, and the
bytes that cross its wire are added up. `--wire` are rates in Gbit/s, each way; times on the wire are bytes over rate.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

import click
import ml_dtypes
import numpy as np

import moec

TEXT = """
moe experts[H, I, E, K](x: [H], ids: i64[K], w: f32[K]) -> f32[H] {
    param gate, up: [E, I, H]
    param down:     [E, H, I]
    top = given(ids, E)
    return sum e in top: w[slot(e)] * swiglu(gate[e], up[e], down[e], x)
}
"""
REAL = {"f32": np.float32, "bf16": ml_dtypes.bfloat16, "f16": np.float16}


@dataclass(frozen=True)
class Same:
    """A stack of experts that are all alike, so that no more than one is held beside the packed ones."""

    matrix: np.ndarray
    count: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.count, *self.matrix.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.matrix.dtype

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> np.ndarray:
        return self.matrix


@dataclass(frozen=True)
class Row:
    """A step: so many tokens in all, on so many machines. Times are the busiest machine's, bytes one way."""

    machines: int
    tokens: int
    slots: int
    slots_mean: float
    reached: float
    kernel_ms: float
    spread_ms: tuple[float, float]
    sent: int
    back_slots: int
    back_ranks: int


def draw(tokens: int, experts: int, chosen: int, seed: int = 0) -> np.ndarray:
    """[tokens, chosen]: different experts for each token, all alike."""
    return np.random.default_rng(seed).random((tokens, experts)).argsort(1)[:, :chosen]


def time_calls(call: Any, seconds: float) -> list[float]:
    """Milliseconds of calls, at least five, for about so long, after one that does not count."""
    call()
    samples, end = list[float](), time.perf_counter() + seconds
    while len(samples) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        samples.append((time.perf_counter() - start) * 1e3)
    return samples


def measure(
    kernel: moec.Kernel, weights: Any, ids: np.ndarray, experts: int, machines: int, real: Any, seconds: float
) -> Row:
    """The busiest machine's part of a step of the tokens that chose `ids`."""
    (tokens, chosen), local, h = ids.shape, experts // machines, kernel.dims["H"]
    owner = ids // local
    busiest = int(np.bincount(owner.ravel(), minlength=machines).argmax())
    mine = (ids[owner == busiest] % local)[:, None]
    reached = (owner[..., None] == np.arange(machines)).any(1)  # [tokens, machines]
    x = np.random.default_rng(2).standard_normal((len(mine), h), np.float32).astype(real)
    w = np.ones((len(mine), 1), np.float32)
    samples = time_calls(lambda: kernel(x, mine, w, weights), seconds)
    away = (machines - 1) / machines  # a token starts anywhere
    pairs = int(reached[:, busiest].sum())
    return Row(
        machines=machines,
        tokens=tokens,
        slots=len(mine),
        slots_mean=tokens * chosen / machines,
        reached=float(reached.sum(1).mean()),
        kernel_ms=statistics.median(samples),
        spread_ms=(min(samples), max(samples)),
        sent=int(pairs * (h * np.dtype(real).itemsize + 8 * chosen) * away),
        back_slots=int(len(mine) * h * 4 * away),
        back_ranks=int(pairs * h * 4 * away),
    )


@click.command()
@click.option("--dims", "sizes", default="7168,2048,256,8", show_default=True, help="H,I,E,K; these are DeepSeek-V3's.")
@click.option("--machines", default="8,64", show_default=True)
@click.option(
    "--tokens", default="8,64,512,4096", show_default=True, help="Tokens of a step, of all machines together."
)
@click.option("--dtype", default="bf16", show_default=True, type=click.Choice([*REAL]))
@click.option("--storage", help="The experts' format; none: as --dtype says.")
@click.option("--threads", default=None, type=int)
@click.option("--wire", default="25,100", show_default=True, help="Gbit/s, each way.")
@click.option("--seconds", default=2.0, show_default=True, help="For each row.")
@click.option("--json", "output", help="Also write the rows there.")
def main(
    sizes: str,
    machines: str,
    tokens: str,
    dtype: str,
    storage: str | None,
    threads: int | None,
    wire: str,
    seconds: float,
    output: str | None,
) -> None:
    """Prints a table in Markdown."""
    h, i, e, k = map(int, sizes.split(","))
    rng, real = np.random.default_rng(1), REAL[dtype]
    shapes = {"gate": (i, h), "up": (i, h), "down": (h, i)}
    matrices = {
        name: (rng.standard_normal(shape, np.float32) / shape[1] ** 0.5).astype(real) for name, shape in shapes.items()
    }
    rows, held = list[Row](), dict[int, int]()
    for count in map(int, machines.split(",")):
        dims = {"H": h, "I": i, "E": e // count, "K": 1}
        kernel = moec.compile(TEXT, dims, dtype, threads, storage=storage)
        weights = kernel.pack({name: Same(matrix, e // count) for name, matrix in matrices.items()})
        held[count] = weights.nbytes
        for total in map(int, tokens.split(",")):
            rows.append(measure(kernel, weights, draw(total, e, k), e, count, real, seconds))
        del weights, kernel
    rates = [int(rate) for rate in wire.split(",")]
    show(rows, held, rates)
    if output:
        with open(output, "w") as file:
            about = {"machine": platform.processor() or platform.machine(), "system": platform.platform()}
            about |= {"cpu": moec.Target.host().cpu, "dims": sizes, "dtype": dtype, "storage": storage}
            json.dump({**about, "held": held, "rows": [asdict(row) for row in rows]}, file, indent=1)
            file.write("\n")


def show(rows: list[Row], held: dict[int, int], rates: list[int]) -> None:
    """The table of docs/scale.md."""
    wires = " | ".join(f"{rate} Gbit/s" for rate in rates)
    print(f"| machines | tokens | slots, mean | busiest | machines a token | kernel | spread | in | back | {wires} |")
    print("|--:" * (9 + len(rates)) + "|")
    for row in rows:
        low, high = row.spread_ms
        there = [(row.sent + row.back_slots) * 8 / rate / 1e6 for rate in rates]
        cells = [row.machines, row.tokens, f"{row.slots_mean:g}", row.slots, f"{row.reached:.2f}"]
        cells += [f"{row.kernel_ms:.3g} ms", f"{low:.3g}–{high:.3g}"]
        cells += [f"{row.sent / 1e6:.3g} MB", f"{row.back_slots / 1e6:.3g} MB", *(f"{ms:.3g} ms" for ms in there)]
        print("| " + " | ".join(map(str, cells)) + " |")
    for count, nbytes in held.items():
        print(f"\n{count} machines: {nbytes / 1e9:.3g} GB of packed experts each")


if __name__ == "__main__":
    main()
