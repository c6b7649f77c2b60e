"""The code of the thread pool, which is compiled once for a machine."""

from __future__ import annotations

from moec.keys import pool_key
from moec.runtime.cache import Cache, Program
from moec.target import Target


def pool_image(cache: Cache | None = None) -> bytes:
    """The object file of the thread pool, from the cache or compiled and left there.

    Raises `CompileError` (E0901) where moec cannot have threads.
    """
    from moec.runtime.interface import Interface

    cache, target = cache or Cache.default(), Target.host()
    key = pool_key(target)
    program = cache.load(key)
    if program is None:
        program = Program(Interface("pool", (), (), (), (), (), (), 0, 0, 0), _compile_pool(target))
        cache.store(key, program)
    return program.image


def _compile_pool(target: Target) -> bytes:
    from moec.codegen import native
    from moec.codegen.pool import emit_pool, supported
    from moec.diagnostics import fail

    if not supported(target):
        raise fail("E0901", f"threads are not supported on `{target.triple}` yet", help="compile with `threads=1`")
    return native.object_code(native.parse(str(emit_pool(target))), target)
