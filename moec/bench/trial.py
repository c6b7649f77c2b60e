"""One layer, one precision, so many threads: moec and its peers on the same weights, checked, then timed in turns.

What is fair: all read the same weights and tokens; each is checked against the oracle before it is timed, and what
`moec.measure.compare` does not call right is left out; each call takes other tokens, and small layers several copies of
their weights, so that no cache holds what the call before has read; the turns are short and interleaved (A B A B), so
that a busy moment of the machine meets all of them.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from moec.bench.forms import find_form
from moec.bench.peers import Conversation, Peer, PeerFailed
from moec.dtypes import EXPERTS
from moec.formats import FORMATS
from moec.kernels import compile_layer
from moec.measure.compare import TOLERANCES, TOLERANCES_QUANTIZED, Comparison, judge
from moec.measure.cost import Analysis, analyse, param_bytes
from moec.measure.feed import random_inputs, random_weights
from moec.measure.limits import Limits
from moec.options import Options
from moec.oracle import Result, reference
from moec.pipeline import Compilation
from moec.runtime.stored import decoded
from moec.source import Source

_Array: TypeAlias = NDArray[Any]

#: What several copies of the weights take together at least, unless one fits into half of the last cache.
_SPREAD: Final = 128 << 20
#: A layer of at most so many bytes is measured where it would live: in the cache.
_CACHED: Final = 16 << 20
#: How many tokens the oracle checks, the same ones for all: in calls of as many tokens as are timed.
_CHECKED: Final = 32
#: Seconds of a turn, and the turns that there are at least and at most.
_TURN: Final = 0.03
_TURNS: Final = (3, 60)
#: A call of less than so many seconds has one before it in its turn that does not count: memory that nobody has asked
#: for in seconds answers more slowly on some virtual machines, and who waits for whom would decide.
_LONG: Final = 2.0
#: Before the turns of fewer tokens everybody is called until so many have chosen most of the experts: a call on one
#: token meets experts that were last read before the peers got ready, up to minutes ago. (Qwen3's layer took 19.5 ms so
#: where it takes 5, and since all of its seconds went by in few calls, this was its median.)
_AWAKE: Final = 64
#: Seconds that peers may take to come to rest, and of a processor that they may use in 0.2 s of it.
_REST, _IDLE = 20.0, 0.02
#: Seconds between the turns of several threads: those of some libraries look for work for 0.2 s after the last they had
#: (OpenMP of LLVM and Intel, KMP_BLOCKTIME), on processors that the next turn wants.
_PAUSE: Final = 0.25
#: One that has taken so many times its seconds has no further turn: what is much slower is known well enough.
_PATIENCE: Final = 8
#: The largest error that a peer's quantised experts may make, relative to a token's largest magnitude, by their bits.
#: Rounding to nearest stays below two thirds of it; a layer with two experts exchanged is far above.
_COARSE: Final = {8: 0.05, 4: 0.4}
#: Batches of different tokens, at most, and tokens in all of them, at least where there are several.
_BATCHES, _POOL = 64, 256


@dataclass(frozen=True, slots=True)
class Sample:
    """What came of an implementation at one number of tokens: seconds of each call, and the oracle's verdict."""

    impl: str
    times: Sequence[float]
    compared: Comparison
    storage: str

    @property
    def median(self) -> float:
        return statistics.median(self.times)


class _Runner(Protocol):
    """An implementation that is ready: `impl` names it, `storage` says how it keeps the experts."""

    impl: str
    storage: str

    def check(self, inputs: Sequence[_Array]) -> _Array: ...
    def time(self, rows: int, first: int, calls: int, warm: bool) -> Sequence[float]: ...


def copies(weights: int) -> int:
    """How many times a layer whose weights take so many bytes is there, so that no cache holds what is read next."""
    return 1 if weights <= _CACHED else max(1, -(-_SPREAD // weights))


class Trial:
    """A layer with random weights, its oracle's answers, and the peers that run. A context manager: it owns processes
    and files."""

    def __init__(self, source: Source, options: Options, peers: Sequence[Peer], tokens: Sequence[int]) -> None:
        self.source, self.options, self.threads = source, options, options.threads or 1
        self.kernel = compile_layer(source, options)
        self.form = find_form(source)
        self.peers = peers
        self.tokens = tokens
        #: Why a peer does not run here, by its name.
        self.failures: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Trial:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="moec-bench-")))
        compilation = Compilation(self.source, self.options)
        module, interface = compilation.simplify(), self.kernel.interface
        self._plan = compilation.schedule()
        weights = random_weights(interface, module, 0)
        self.inputs = random_inputs(interface, module, max(_POOL, 2 * max(self.tokens)), 0)
        self._truth = self._own_truth = self._ask(weights, {})
        if self._coarse:
            self._own_truth = self._ask(decoded(interface, weights), interface.quantized)
        self._spread = copies(param_bytes(interface))
        packed = [self.kernel.pack(weights) for _ in range(self._spread)]
        self._own = _Own(self.kernel, self.options, packed, self.inputs)
        self._others = list[_Other]()
        if self.peers and self.form is not None and self.options.dtype in ("f32", "bf16"):
            paths = {name: _save(folder / f"{name}.npy", array) for name, array in weights.items()}
            pool = _save(folder / "x.npy", self.inputs[0])
            del weights
            for peer in self.peers:
                self._start(peer, folder, paths, pool)
            os.sync()  # else files are on their way to the disk, through the memory, while the first are timed
        elif self.peers:
            reason = "knows only softmax routers over experts of two or three matrices, in f32 and bf16"
            self.failures.update({peer.name: reason for peer in self.peers})
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def _start(self, peer: Peer, folder: Path, weights: dict[str, str], pool: str) -> None:
        assert self.form is not None
        talk = Conversation(peer, self.threads)
        self._stack.callback(talk.close)
        dims = {name: self.kernel.dims[name] for name in ("H", "I", "E", "K")}
        layer = {**dims, **asdict(self.form), "dtype": self.options.dtype, "threads": self.threads, "bits": self.bits}
        try:
            answer = talk.ask("load", layer=layer, weights=weights, copies=self._spread)
        except PeerFailed as error:
            self.failures[peer.name] = str(error)
            return
        self.versions |= answer["versions"]
        dtype = "" if self.bits else self.options.dtype
        self._others.append(_Other(talk, answer["forms"], dtype, folder, pool))

    def _ask(self, weights: Mapping[str, _Array], quantized: Mapping[str, int]) -> Result:
        """What the oracle says of the tokens that it checks."""
        oracle = reference(self.source, dict(self.options.dims), self.options.dtype, quantized)
        return oracle.run(tuple(array[:_CHECKED] for array in self.inputs), weights=weights)

    @property
    def stored(self) -> str:
        """What moec keeps the layer's experts in."""
        return _stored(self.options)

    @property
    def bits(self) -> int:
        """What peers keep experts in to be compared with: 4 or 8 bits, or 0 for the layer's own precision."""
        formats = [FORMATS[name].bits for _, name in self.options.storage]
        return 0 if not formats else 8 if max(formats) > 6 else 4

    @property
    def _coarse(self) -> bool:
        """Whether moec's layer is another than the text's: quantised experts, or activations."""
        return bool(self.options.storage) or self.options.activations != "real"

    def cost(self, tokens: int) -> Analysis:
        return analyse(self._plan, tokens)

    def measure(self, tokens: int, seconds: float) -> list[Sample]:
        """Every implementation at a number of tokens, moec first; each gets about so many seconds. Raises `PeerFailed`
        where moec is wrong."""
        found = {self._own.impl: self._check_own(tokens)}
        runners: list[_Runner] = [self._own]
        for other in self._others:
            try:
                other.choose(tokens, self._check)
                found[other.impl] = self._check(other, tokens)
                runners.append(other)
            except PeerFailed as error:
                self.failures[f"{other.impl}, {tokens} tokens"] = str(error)
        self._settle()
        self._wake(runners, tokens)
        times = self._turns(runners, tokens, seconds)
        return [Sample(each.impl, times[each.impl], found[each.impl], each.storage) for each in runners]

    def _settle(self) -> None:
        """Waits until the peers rest, or long enough: some start workers of their own when they are first called."""
        used, end = -1.0, time.monotonic() + _REST
        while time.monotonic() < end:
            before, used = used, sum(other.talk.processor_time() for other in self._others)
            if used - before < _IDLE and before >= 0:
                return
            time.sleep(0.2)

    def _wake(self, runners: Sequence[_Runner], tokens: int) -> None:
        """Has everybody read most experts of every copy, where calls on so many tokens meet few of them."""
        if tokens < _AWAKE:
            for runner in runners:
                runner.time(tokens, 0, self._spread * _AWAKE // tokens, False)

    def _turns(self, runners: Sequence[_Runner], tokens: int, seconds: float) -> dict[str, list[float]]:
        times: dict[str, list[float]] = {runner.impl: [] for runner in runners}
        spent = dict.fromkeys(times, 0.0)
        least, most = _TURNS
        for turn in range(most):
            first = turn % len(runners)  # so that nobody always comes after the same one
            for runner in (*runners[first:], *runners[:first]):
                past = times[runner.impl]
                if spent[runner.impl] > (seconds if turn >= least else _PATIENCE * seconds):
                    continue
                guess = statistics.median(past) if past else _TURN
                calls, warm = max(1, min(200, int(_TURN / guess))), guess < _LONG
                if self.threads > 1:
                    time.sleep(_PAUSE)
                begin = time.perf_counter()
                past += runner.time(tokens, len(past), calls, warm)
                spent[runner.impl] += time.perf_counter() - begin
            if turn + 1 >= least and all(used > seconds for used in spent.values()):
                break
        return times

    def _check_own(self, tokens: int) -> Comparison:
        """moec beside what its weights decode to, with vectors quantised where it quantises them; what is right so, but
        coarse, beside the layer as it is, as everybody else."""
        tolerances = TOLERANCES_QUANTIZED if self.kernel.interface.quantized else TOLERANCES
        found = self._compare(self._own, self._own_truth, tokens, tolerances[self.options.dtype])
        _require_right(found)
        return self._compare(self._own, self._truth, tokens, float("inf")) if self._coarse else found

    def _check(self, other: _Runner, tokens: int) -> Comparison:
        """A peer beside the layer with its weights as they are. Raises `PeerFailed` where it is wrong."""
        tolerance = _COARSE[self.bits] if self.bits else TOLERANCES[self.options.dtype]
        return _require_right(self._compare(other, self._truth, tokens, tolerance))

    def _compare(self, runner: _Runner, truth: Result, tokens: int, tolerance: float) -> Comparison:
        """The tokens that the oracle was asked for, in calls of so many; where tokens depend on each other in one."""
        rows = _CHECKED if self.kernel.interface.batch else tokens
        calls = ([array[at : at + rows] for array in self.inputs] for at in range(0, _CHECKED, rows))
        y = np.concatenate([runner.check(inputs) for inputs in calls])[:_CHECKED]
        return judge([y], truth.outputs[:1], truth.stable, tolerance)


def _require_right(found: Comparison) -> Comparison:
    """Raises `PeerFailed` where something is wrong. Where there is nothing to compare, `counted` is 0."""
    if found.telling and found.fault:
        raise PeerFailed(f"wrong: {found.fault}")
    return found


def _stored(options: Options) -> str:
    formats = (name if param == EXPERTS else f"{param}={name}" for param, name in options.storage)
    return ",".join(formats) or options.dtype


class _Own:
    """moec, in this process."""

    def __init__(self, kernel: Any, options: Options, copies: Sequence[Any], inputs: Sequence[_Array]) -> None:
        self._kernel, self._copies, self._inputs = kernel, copies, inputs
        self.impl = "moec" if options.activations == "real" else f"moec/{options.activations}"
        self.storage = _stored(options)

    def check(self, inputs: Sequence[_Array]) -> _Array:
        result: Any = self._kernel(*inputs, self._copies[0])
        return result[0] if len(self._kernel.interface.outputs) > 1 else result

    def time(self, rows: int, first: int, calls: int, warm: bool) -> list[float]:
        batches, times = min(_BATCHES, len(self._inputs[0]) // rows), list[float]()
        for call in range(first - warm, first + calls):
            at = call % batches * rows
            batch = [array[at : at + rows] for array in self._inputs]
            weights = self._copies[call % len(self._copies)]
            start = time.perf_counter()
            self._kernel(*batch, weights)
            times.append(time.perf_counter() - start)
        return times[warm:]


class _Other:
    """A peer, in its own process; `impl` names its best form where it has several."""

    def __init__(self, talk: Conversation, forms: Sequence[str], dtype: str, folder: Path, pool: str) -> None:
        self.talk, self._forms, self._folder, self._pool = talk, list(forms), folder, pool
        self._ready, self._several = "", len(forms) > 1
        self._dtype = dtype
        self.impl, self.storage = talk.peer.name, dtype

    def choose(self, tokens: int, check: Callable[[_Runner, int], Comparison]) -> None:
        """Makes ready the form that is right and fastest for so many tokens. Raises `PeerFailed` where none is."""
        if len(self._forms) == 1:
            self._prepare(self._forms[0])
            return
        best, why = dict[str, float](), ""
        for form in sorted(self._forms, key=lambda form: form != self._ready):
            try:
                self._prepare(form)
                check(self, tokens)
                best[form] = min(self._time(tokens, 0, 2, True))
            except PeerFailed as failure:
                why = why or f"{form}: {failure}"
                self._forms.remove(form)
        if not best:
            raise PeerFailed(why or "no form is right")
        self._prepare(min(best, key=best.__getitem__))

    def _prepare(self, form: str) -> None:
        if form != self._ready:
            self._ready = ""
            self.talk.ask("prepare", form=form)
            self._ready = form
        self.storage = self._dtype or form  # a quantised form is called what it keeps
        self.impl = f"{self.talk.peer.name}/{form}" if self._several or not self._dtype else self.talk.peer.name

    def check(self, inputs: Sequence[_Array]) -> _Array:
        given, result = self._folder / "given.npy", self._folder / "result.npy"
        self.talk.ask("run", x=_save(given, inputs[0]), y=str(result))
        return np.load(result)

    def time(self, rows: int, first: int, calls: int, warm: bool) -> Sequence[float]:
        return self._time(rows, first, calls, warm)

    def _time(self, rows: int, first: int, calls: int, warm: bool) -> Sequence[float]:
        return self.talk.ask("time", x=self._pool, rows=rows, first=first, calls=calls, warm=warm)["times"]


def _save(path: Path, array: _Array) -> str:
    """Writes an array; bf16, which NumPy itself does not have, as its bits."""
    np.save(path, array.view(np.uint16) if array.dtype.kind == "V" or array.itemsize == 2 else array)
    return str(path)


def row(spec: str, trial: Trial, tokens: int, sample: Sample, limits: Limits) -> dict[str, Any]:
    """A sample as the JSON has it: times in ms, rates by the median. `experts` and `activations` are what moec's layer
    was asked for, the same for all rows of a trial; `storage` is what this implementation keeps."""
    cost = trial.cost(tokens)
    median = sample.median
    return {
        "spec": spec,
        "dims": dict(trial.kernel.dims),
        "tokens": tokens,
        "dtype": trial.options.dtype,
        "experts": trial.stored,
        "activations": trial.options.activations,
        "storage": sample.storage,
        "threads": trial.threads,
        "impl": sample.impl,
        "ms_median": median * 1e3,
        "ms_min": min(sample.times) * 1e3,
        "ms_max": max(sample.times) * 1e3,
        "gflops": cost.flops / median * 1e-9,
        "gbytes_s": cost.weights / median * 1e-9,
        "of_limit": limits.seconds(cost.flops, cost.weights) / median,
        "max_error": sample.compared.error,
        "compared": sample.compared.counted,
    }
