"""Tables of sixteen bytes, looked up by every byte of a vector at once."""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from moec.codegen.llvm import Emitter, Value, constant

#: The instruction that does so, by the bytes of a vector, of x86-64; it looks into each 16 bytes of the table.
_SHUFFLE = {64: "x86.avx512.pshuf.b.512", 32: "x86.avx2.pshuf.b", 16: "x86.ssse3.pshuf.b.128"}


def look_up_bytes(e: Emitter, codes: Value, table: Sequence[int]) -> Value:
    """For each byte of `codes`, 0 to 15, the byte of the table; by a tree of selections where a target has no
    instruction for it."""
    count = codes.type.count
    bytes = [value & 0xFF for value in table]
    if not e.target.looks_up_bytes or count not in _SHUFFLE:
        return _chosen(e, codes, bytes)
    repeated = ir.Constant(codes.type, bytes * (count // 16))
    if e.target.architecture == "aarch64":
        return e.call("llvm.aarch64.neon.tbl1.v16i8", codes.type, repeated, codes)
    return e.call(f"llvm.{_SHUFFLE[count]}", codes.type, repeated, codes)


def _chosen(e: Emitter, codes: Value, bytes: Sequence[int]) -> Value:
    """Neighbours of the table by the lowest bit of a code, neighbours among those by the next, and so on."""
    b, bit = e.b, 1
    left: list[Value] = [constant(codes.type, value) for value in bytes]
    while len(left) > 1:
        upper = b.icmp_unsigned("!=", b.and_(codes, constant(codes.type, bit)), constant(codes.type, 0))
        left = [b.select(upper, high, low) for low, high in zip(left[::2], left[1::2], strict=True)]
        bit *= 2
    return left[0]
