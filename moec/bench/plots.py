"""Pictures of results: a roofline for each layer, and speed over the number of tokens; each on light and on dark paper.

Rows are those of the JSON that `moec bench` writes; where peers were measured in several runs, moec's are of the first.
matplotlib is imported when something is drawn (extra `plot`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any, Final, TypeAlias

_Row: TypeAlias = Mapping[str, Any]

#: Paper, ink, and the colours of implementations: told apart by those who confuse red and green, and in print by their
#: markers and by how light they are.
_PAPERS: Final = {
    "light": {"paper": "#ffffff", "ink": "#1f2328", "faint": "#d0d7de", "soft": "#59636e"},
    "dark": {"paper": "#0d1117", "ink": "#e6edf3", "faint": "#30363d", "soft": "#9198a1"},
}
_COLOURS: Final = {
    "light": {
        "moec": "#d1242f",
        "numpy": "#8c959f",
        "numpy-naive": "#b6bdc5",
        "torch": "#bf8700",
        "zentorch": "#0a7ea4",
        "onnxruntime": "#6639ba",
        "mojo": "#1a7f37",
        "transformers": "#7d4e00",
    },
    "dark": {
        "moec": "#ff7b72",
        "numpy": "#8b949e",
        "numpy-naive": "#5b636d",
        "torch": "#e3b341",
        "zentorch": "#56d4dd",
        "onnxruntime": "#bc8cff",
        "mojo": "#56d364",
        "transformers": "#db9a5b",
    },
}
_MARKERS: Final = dict(zip(_COLOURS["light"], "oXPsD^vp", strict=True))
_OTHERS: Final = ("#57606a", "#9198a1")


def draw(found: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes every picture of some results into a folder, as SVG; the files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for (spec, _, dtype, threads, stored, activations), group in groupby(
        sorted(found["rows"], key=_picture), key=_picture
    ):
        rows = [row for row in group if not (row.get("run") and peer_of(row["impl"]) == "moec")]
        kind = dtype, threads, activations
        limits = next(each for each in found["limits"] if (each["dtype"], each["threads"], each["activations"]) == kind)
        name = picture_name(spec, dtype, stored, activations, threads)
        for paper in _PAPERS:
            for kind, picture in (("roofline", _roofline), ("speed", _speed)):
                path = folder / f"{name}-{kind}-{paper}.svg"
                picture(rows, limits, paper, path)
                paths.append(path)
    return paths


def picture_name(spec: str, dtype: str, stored: str, activations: str, threads: int) -> str:
    """`olmoe-bf16-q4_0-int8-1t`: what is left out is as the layer's own precision has it."""
    words = (spec, dtype, stored if stored != dtype else "", activations if activations != "real" else "")
    return "-".join(filter(None, (*(re.sub(r"[^\w.]+", "-", word) for word in words), f"{threads}t")))


def _picture(row: _Row) -> tuple[str, str, str, int, str, str]:
    """The rows that stand in one picture have this in common."""
    return (row["spec"], json.dumps(row["dims"]), row["dtype"], row["threads"], row["experts"], row["activations"])


def peer_of(impl: str) -> str:
    """`torch` of `torch/grouped`."""
    return impl.partition("/")[0]


def _series(rows: Iterable[_Row]) -> dict[str, list[_Row]]:
    """The rows of each implementation, by tokens, moec's last so that they are drawn above the others."""
    found: dict[str, list[_Row]] = {}
    for row in sorted(rows, key=lambda row: row["tokens"]):
        found.setdefault(peer_of(row["impl"]), []).append(row)
    return dict(sorted(found.items(), key=lambda item: (item[0] == "moec", item[0] not in _MARKERS)))


def _canvas(paper: str, height: float) -> tuple[Any, Any]:
    """A figure and its axes in the colours of a paper."""
    mpl: Any = import_module("matplotlib")
    mpl.use("svg")
    pyplot: Any = import_module("matplotlib.pyplot")

    colours = _PAPERS[paper]
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "moec", "font.size": 10})
    mpl.rcParams["font.sans-serif"] = ["Inter", "Helvetica Neue", "Arial", "DejaVu Sans"]
    figure, axes = pyplot.subplots(figsize=(7.6, height), layout="constrained")
    figure.patch.set_facecolor(colours["paper"])
    axes.set_facecolor(colours["paper"])
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(colours["faint"])
    axes.tick_params(which="both", colors=colours["soft"], length=0, labelsize=9)
    axes.grid(True, which="major", color=colours["faint"], linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _style(name: str, paper: str) -> dict[str, Any]:
    own = name == "moec"
    return {
        "color": _COLOURS[paper].get(name, _OTHERS[paper == "dark"]),
        "marker": _MARKERS.get(name, "h"),
        "markersize": 7 if own else 5.5,
        "markeredgecolor": _PAPERS[paper]["paper"],
        "markeredgewidth": 0.8,
        "linewidth": 2.4 if own else 1.3,
        "zorder": 5 if own else 3,
    }


def _title(axes: Any, rows: Sequence[_Row], paper: str, text: str) -> None:
    first, colours = rows[0], _PAPERS[paper]
    dims = "  ".join(f"{name} {value}" for name, value in first["dims"].items())
    threads = f"{first['threads']} thread" + ("s" if first["threads"] > 1 else "")
    stored = f", {first['experts']}" if first["experts"] != first["dtype"] else ""
    stored += f", {first['activations']} activations" if first["activations"] != "real" else ""
    axes.set_title(f"{first['spec']}   {first['dtype']}{stored}, {threads}", loc="left", color=colours["ink"],
                   fontsize=12.5, fontweight="bold", pad=22)  # fmt: skip
    axes.text(0, 1.025, f"{text}   ·   {dims}", transform=axes.transAxes, color=colours["soft"], fontsize=8.5)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, facecolor=figure.get_facecolor(), metadata={"Date": None})
    import_module("matplotlib.pyplot").close(figure)


def _roofline(rows: Sequence[_Row], limits: Mapping[str, Any], paper: str, path: Path) -> None:
    """GFLOP/s over FLOPs for each byte of weights that moec reads; a peer that reads more stands at the same place."""
    figure, axes = _canvas(paper, 4.6)
    colours = _PAPERS[paper]
    places = {row["tokens"]: row["gflops"] / row["gbytes_s"] for row in rows if row["gbytes_s"]}
    low, high = min(places.values()) / 1.8, max(places.values()) * 2.6
    peak, memory = limits["gflops"], limits["gbytes_s"]
    ridge = peak / memory
    points = sorted({low, min(max(ridge, low), high), high})
    axes.plot(points, [min(peak, memory * x) for x in points], color=colours["ink"], linewidth=1.4, zorder=2)
    axes.fill_between(points, [min(peak, memory * x) for x in points], peak * 2.2, color=colours["faint"], alpha=0.35,
                      linewidth=0, zorder=1)  # fmt: skip
    for name, series in _series(rows).items():
        line = [row for row in series if row["tokens"] in places]
        at = [places[row["tokens"]] for row in line]
        axes.plot(at, [row["gflops"] for row in line], label=name, **_style(name, paper))
    axes.set_xscale("log", base=2)
    _scale(axes)
    axes.set_xlim(low, high)
    floor = min(row["gflops"] for row in rows)
    axes.set_ylim(floor / 1.6, peak * 2.2)
    axes.annotate(f"{peak:.0f} GFLOP/s", (high, peak), xytext=(-4, 5), textcoords="offset points", ha="right",
                  color=colours["ink"], fontsize=8.5)  # fmt: skip
    if ridge > low * 1.3:
        axes.annotate(f"{memory:.1f} GB/s", (low, memory * low), xytext=(2, 22), textcoords="offset points",
                      color=colours["ink"], fontsize=8.5)  # fmt: skip
    _label_tokens(axes, places, floor, colours)
    axes.xaxis.set_major_formatter(_plain)
    axes.set_xlabel("FLOPs for each byte of weights", color=colours["soft"], fontsize=9)
    _legend(axes, colours)
    _title(axes, rows, paper, "GFLOP/s, and what this machine allows, measured in the same run")
    _save(figure, path)


def _label_tokens(axes: Any, places: Mapping[int, float], floor: float, colours: Mapping[str, str]) -> None:
    """The number of tokens above each place, where there is room."""
    before = 0.0
    for tokens, place in sorted(places.items(), key=lambda item: item[1]):
        axes.axvline(place, color=colours["faint"], linewidth=0.6, zorder=0)
        if place > 1.25 * before:
            axes.text(place, floor / 1.5, f"T {tokens}", color=colours["soft"], fontsize=8, ha="center", va="bottom")
            before = place


def _speed(rows: Sequence[_Row], limits: Mapping[str, Any], paper: str, path: Path) -> None:
    """Tokens a second over the number of tokens, and the machine's limit."""
    figure, axes = _canvas(paper, 4.2)
    colours = _PAPERS[paper]
    own = [row for row in rows if peer_of(row["impl"]) == "moec"]
    tokens = sorted({row["tokens"] for row in rows})
    if own:
        bound = {row["tokens"]: row["tokens"] / (row["of_limit"] * row["ms_median"]) * 1e3 for row in own}
        axes.plot([*bound], [*bound.values()], color=colours["ink"], linewidth=1.2, linestyle=(0, (4, 3)), zorder=2,
                  label="the machine's limit")  # fmt: skip
    for name, series in _series(rows).items():
        at = [row["tokens"] for row in series]
        style = _style(name, paper)
        axes.plot(at, [row["tokens"] / row["ms_median"] * 1e3 for row in series], label=name, **style)
    axes.set_xscale("log", base=2)
    _scale(axes)
    axes.set_xticks(tokens, [str(each) for each in tokens])
    axes.minorticks_off()
    axes.set_xlabel("tokens of a call", color=colours["soft"], fontsize=9)
    _legend(axes, colours)
    _title(axes, rows, paper, "tokens a second, the median of interleaved calls")
    _save(figure, path)


def _legend(axes: Any, colours: Mapping[str, str]) -> None:
    """The names beside the picture, where no line can pass below them."""
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, labelcolor=colours["ink"], fontsize=9,
                reverse=True)  # fmt: skip


def _scale(axes: Any) -> None:
    """A logarithmic axis of speed, with 1, 2 and 5 of each power of ten."""
    ticker: Any = import_module("matplotlib.ticker")
    axes.set_yscale("log", base=10)
    axes.yaxis.set_major_locator(ticker.LogLocator(10, (1, 2, 5)))
    axes.yaxis.set_major_formatter(_plain)
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())


def _plain(value: float, position: object) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"
