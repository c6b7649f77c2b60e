"""The peers: which there are, which Python runs each, and a conversation with one that runs.

A peer is a program (`benchmarks/peers/peer.py` says what it is told and answers), so that its threads, its memory and
its versions are its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from moec.files import cache_directory

_ROOT: Final = Path(__file__).parents[1]


class PeerFailed(Exception):
    """A peer that cannot do what it was asked for; the message is its own."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One row of `peers.toml`."""

    name: str
    about: str
    program: str
    holds: float
    modules: tuple[str, ...]
    requirements: tuple[str, ...]

    @property
    def home(self) -> Path:
        """Where its own environment is, or would be."""
        return cache_directory() / "peers" / self.name

    @property
    def python(self) -> str | None:
        """The Python that runs it; None where it is not installed."""
        own = self.home / "bin" / "python"
        if own.exists():
            return str(own)
        return sys.executable if all(find_spec(module) for module in self.modules) else None

    def install(self) -> None:
        """Makes its environment. Raises `PeerFailed` where that cannot be done."""
        for command in (
            [sys.executable, "-m", "venv", str(self.home)],
            [str(self.home / "bin" / "python"), "-m", "pip", "install", "-q", *self.requirements],
        ):
            if subprocess.run(command, check=False, stdout=sys.stderr.fileno()).returncode:
                raise PeerFailed(f"`{' '.join(command)}` failed")


def directory() -> Path:
    """Where the peers are: in a checkout beside moec, in a wheel inside it."""
    checkout = _ROOT.parent / "benchmarks" / "peers"
    return checkout if checkout.is_dir() else _ROOT / "bench" / "programs"


@cache
def all_peers() -> dict[str, Peer]:
    """Every peer by its name, in the order of `peers.toml`."""
    table = tomllib.loads((directory() / "peers.toml").read_text())
    return {
        name: Peer(name, row["about"], row["program"], row["holds"], tuple(row["modules"]), tuple(row["requirements"]))
        for name, row in table.items()
    }


class Conversation:
    """A peer that runs, on so many threads."""

    def __init__(self, peer: Peer, threads: int) -> None:
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        environment = {**os.environ, **dict.fromkeys(names, str(threads)), "PYTHONDONTWRITEBYTECODE": "1"}
        assert peer.python is not None
        self.peer = peer
        self._process = subprocess.Popen(
            [peer.python, str(directory() / peer.program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        """The answer to a request. Raises `PeerFailed`."""
        process = self._process
        assert process.stdin and process.stdout
        try:
            process.stdin.write(json.dumps({"do": do, **fields}) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise PeerFailed(f"ended with exit code {process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerFailed(answer["error"])
        return answer

    def processor_time(self) -> float:
        """Seconds of a processor that it has used so far, the processes that it started with it; 0 where there is no
        `proc(5)`."""
        seconds, found = 0.0, [self._process.pid]
        while found:
            at = Path("/proc", str(found.pop()))
            with suppress(OSError):  # it may end meanwhile
                fields = (at / "stat").read_text().rpartition(")")[2].split()
                seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
                children = [(task / "children").read_text().split() for task in (at / "task").iterdir()]
                found += [int(pid) for pids in children for pid in pids]
        return seconds

    def close(self) -> None:
        """Ends it, and frees its memory."""
        assert self._process.stdin and self._process.stdout
        with suppress(BrokenPipeError):  # what one that died was still to be told
            self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
