"""An MoE layer as one would write it in Mojo: weights packed once, tokens grouped by expert, an expert a task, every product
either the library's (`linalg`, with matrices that it packed) or the kernel below.

The layer is known when this is compiled: `-D H=2048 -D I=1024 -D E=64 -D K=8`, `-D BF16=1`, `-D GATED=1`,
`-D NORMALISED=0`, `-D ACTIVATION=0` (silu, relu, gelu, gelu_tanh), `-D LIBRARY=1`.
"""

from std.sys.defines import get_defined_int
from std.math import ceildiv, erf, exp, tanh
from std.memory import Pointer
from std.os import abort
from std.sys import llvm_intrinsic
from std.sys.info import CompilationTarget

from layout import Coord, TileTensor
from layout.tile_layout import row_major
from linalg.matmul.cpu import matmul
from linalg.packing import pack_matmul_b_shape_func, pack_transposed_b_ndbuffer
from max.algorithm import sync_parallelize

comptime H = get_defined_int["H"]()
comptime I = get_defined_int["I"]()
comptime E = get_defined_int["E"]()
comptime K = get_defined_int["K"]()
comptime BF16 = get_defined_int["BF16"]() == 1
comptime GATED = get_defined_int["GATED"]() == 1
comptime NORMALISED = get_defined_int["NORMALISED"]() == 1
comptime ACTIVATION = get_defined_int["ACTIVATION"]()
comptime LIBRARY = get_defined_int["LIBRARY"]() == 1

comptime F32 = DType.float32
comptime REAL = DType.bfloat16 if BF16 else DType.float32
comptime Floats = Pointer[Scalar[F32], MutAnyOrigin]
comptime Reals = Pointer[Scalar[REAL], MutAnyOrigin]
comptime Ints = Pointer[Int64, MutAnyOrigin]

comptime LANES = 16
comptime VECTORS = 4
comptime COLUMNS = LANES * VECTORS
comptime ROWS = 6
comptime STEP = 2 if BF16 else 1  # values of k that lie side by side
comptime DEPTH = 2048  # of a panel that passes over all rows: what the second cache holds


# ── products by hand ──────────────────────────────────────────────────────────────────────────────────────────────────


def pack_by_hand(source: Reals, packed: Reals, n: Int, k: Int):
    """[n, k] to panels [n / COLUMNS][k / STEP][COLUMNS][STEP], filled up with zeros."""
    var steps = ceildiv(k, STEP)
    for panel in range(ceildiv(n, COLUMNS)):
        for step in range(steps):
            for column in range(COLUMNS):
                for part in range(STEP):
                    var row = panel * COLUMNS + column
                    var depth = step * STEP + part
                    var value = Scalar[REAL](0)
                    if row < n and depth < k:
                        value = source.unsafe_load(row * k + depth)
                    packed.unsafe_store(((panel * steps + step) * COLUMNS + column) * STEP + part, value)


@always_inline
def tile[rows: Int](x: Reals, panel: Reals, y: Floats, k: Int, begin: Int, end: Int, n: Int, column: Int):
    """Adds to `rows` rows of y one panel's products, steps `begin` to `end`; the first steps start from zero."""
    var sums = Array[SIMD[F32, LANES], rows * VECTORS](fill=0)
    var whole = column + COLUMNS <= n
    if begin > 0:
        comptime for r in range(rows):
            comptime for v in range(VECTORS):
                if whole:
                    sums[r * VECTORS + v] = y.unsafe_load[width=LANES](r * n + column + v * LANES)
                else:
                    for lane in range(LANES):
                        if column + v * LANES + lane < n:
                            sums[r * VECTORS + v][lane] = y.unsafe_load(r * n + column + v * LANES + lane)
    for step in range(begin, end):
        comptime for r in range(rows):
            comptime if BF16:
                var pair = SIMD[REAL, 2](0)
                if 2 * step + 1 < k:
                    pair = x.unsafe_load[width=2](r * k + 2 * step)
                else:
                    pair[0] = x.unsafe_load(r * k + 2 * step)
                comptime for v in range(VECTORS):
                    var w = panel.unsafe_load[width = 2 * LANES]((step * COLUMNS + v * LANES) * 2)
                    sums[r * VECTORS + v] = dot(sums[r * VECTORS + v], pair, w)
            else:
                var a = SIMD[F32, LANES](x.unsafe_load(r * k + step).cast[F32]())
                comptime for v in range(VECTORS):
                    var w = panel.unsafe_load[width=LANES](step * COLUMNS + v * LANES).cast[F32]()
                    sums[r * VECTORS + v] = a.fma(w, sums[r * VECTORS + v])
    comptime for r in range(rows):
        comptime for v in range(VECTORS):
            if whole:
                y.unsafe_store(r * n + column + v * LANES, sums[r * VECTORS + v])
            else:
                for lane in range(LANES):
                    if column + v * LANES + lane < n:
                        y.unsafe_store(r * n + column + v * LANES + lane, sums[r * VECTORS + v][lane])


@always_inline
def dot(total: SIMD[F32, LANES], pair: SIMD[REAL, 2], w: SIMD[REAL, 2 * LANES]) -> SIMD[F32, LANES]:
    """Two multiply-adds a lane, in the instruction that the processor has for it where it has one."""
    var x = SIMD[REAL, 2 * LANES](0)
    comptime for i in range(LANES):
        x = x.insert[offset = 2 * i](pair)
    comptime if CompilationTarget._has_feature["avx512bf16"]():
        return llvm_intrinsic["llvm.x86.avx512bf16.dpbf16ps.512", SIMD[F32, LANES]](total, x, w)
    else:
        var xs = x.cast[F32]().deinterleave()
        var ws = w.cast[F32]().deinterleave()
        return xs[1].fma(ws[1], xs[0].fma(ws[0], total))


def multiply_by_hand(x: Reals, packed: Reals, y: Floats, m: Int, n: Int, k: Int):
    """All rows with each panel in turn, so that a panel is read from memory once."""
    var steps = ceildiv(k, STEP)
    for begin in range(0, steps, DEPTH // STEP):
        var end = min(steps, begin + DEPTH // STEP)
        for panel in range(ceildiv(n, COLUMNS)):
            var weights = packed.unsafe_offset(panel * steps * COLUMNS * STEP)
            var column = panel * COLUMNS
            var row = 0
            while row + ROWS <= m:
                tile[ROWS](x.unsafe_offset(row * k), weights, y.unsafe_offset(row * n), k, begin, end, n, column)
                row += ROWS
            comptime for rest in range(1, ROWS):
                if m - row == rest:
                    tile[rest](x.unsafe_offset(row * k), weights, y.unsafe_offset(row * n), k, begin, end, n, column)


# ── products of either kind ───────────────────────────────────────────────────────────────────────────────────────────


@export("packed_count")
def packed_count(n: Int, k: Int) abi("C") -> Int:
    """How many numbers a packed matrix [n, k] is."""
    comptime if LIBRARY:
        var none = Pointer[Scalar[REAL], MutAnyOrigin].unsafe_dangling()
        var shape = pack_matmul_b_shape_func[REAL, F32, True](TileTensor(none, row_major(Coord(n, k))))
        return shape[0] * shape[1]
    else:
        return ceildiv(n, COLUMNS) * COLUMNS * ceildiv(k, STEP) * STEP


@export("pack")
def pack(source: Reals, packed: Reals, n: Int, k: Int) abi("C"):
    """Packs a matrix [n, k]; `packed` is aligned to a cache line."""
    comptime if LIBRARY:
        var matrix = TileTensor(source, row_major(Coord(n, k)))
        var shape = pack_matmul_b_shape_func[REAL, F32, True](matrix)
        try:
            pack_transposed_b_ndbuffer[REAL, F32](matrix, TileTensor(packed, row_major(Coord(shape[0], shape[1]))))
        except:
            abort("the library cannot pack")
    else:
        pack_by_hand(source, packed, n, k)


def product(x: Reals, packed: Reals, y: Floats, m: Int, n: Int, k: Int):
    """The product y [m, n] of x [m, k] and a packed [n, k], on the thread that asks for it."""
    comptime if LIBRARY:
        var result = TileTensor(y, row_major(Coord(m, n)))
        var rows = TileTensor(x, row_major(Coord(m, k)))
        try:
            matmul[b_packed=True](result, rows, TileTensor(packed, row_major(Coord(k, n))), 0, 1)
        except:
            abort("the library cannot multiply")
    else:
        multiply_by_hand(x, packed, y, m, n, k)


# ── the layer ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@always_inline
def activate(v: SIMD[F32, LANES]) -> SIMD[F32, LANES]:
    comptime if ACTIVATION == 0:
        return v / (1 + exp(-v))
    elif ACTIVATION == 1:
        return max(v, SIMD[F32, LANES](0))
    elif ACTIVATION == 2:
        return 0.5 * v * (1 + erf(v * 0.7071067811865476))
    else:
        return 0.5 * v * (1 + tanh(0.7978845608028654 * (v + 0.044715 * v * v * v)))


def choose(logits: Floats, chosen: Ints, shares: Floats):
    """The K largest of a token's softmax, ties to the lower index, and their weights."""
    comptime if BF16:
        for e in range(E):  # the layer rounds its logits
            logits.unsafe_store(e, logits.unsafe_load(e).cast[REAL]().cast[F32]())
    var largest = logits.unsafe_load(0)
    for e in range(1, E):
        largest = max(largest, logits.unsafe_load(e))
    var total = Float32(0)
    for e in range(E):
        var p = exp(logits.unsafe_load(e) - largest)
        logits.unsafe_store(e, p)
        total += p
    var kept = Float32(0)
    for slot in range(K):
        var best = 0
        for e in range(1, E):
            if logits.unsafe_load(e) > logits.unsafe_load(best):
                best = e
        chosen.unsafe_store(slot, Int64(best))
        shares.unsafe_store(slot, logits.unsafe_load(best))
        kept += logits.unsafe_load(best)
        logits.unsafe_store(best, Float32(-1))
    for slot in range(K):
        shares.unsafe_store(slot, shares.unsafe_load(slot) / (kept if NORMALISED else total))


@export("moe")
def moe(
    x: Reals, y: Reals, tokens: Int, router: Reals, gate: Reals, up: Reals, down: Reals,
    up_bias: Floats, down_bias: Floats, biased: Int, floats: Floats, reals: Reals, ints: Ints, threads: Int,
) abi("C"):
    """A call: y [T, H] of x [T, H]. `floats`, `reals` and `ints` are room for what lies between: see `room` in mojo_moe.py."""
    var slots = tokens * K
    var logits = floats
    var shares = logits.unsafe_offset(tokens * E)
    var total = shares.unsafe_offset(slots)
    var first = total.unsafe_offset(tokens * H)
    var second = first.unsafe_offset(slots * I)
    var outs = second.unsafe_offset(slots * I)
    var rows = reals
    var hidden = rows.unsafe_offset(slots * H)
    var chosen = ints
    var order = chosen.unsafe_offset(slots)
    var ends = order.unsafe_offset(slots)
    var actives = ends.unsafe_offset(E + 1)
    var starts = actives.unsafe_offset(E)

    product(x, router, logits, tokens, E, H)
    for t in range(tokens):
        choose(logits.unsafe_offset(t * E), chosen.unsafe_offset(t * K), shares.unsafe_offset(t * K))

    for e in range(E + 1):
        ends.unsafe_store(e, Int64(0))
    for slot in range(slots):
        var e = Int(chosen.unsafe_load(slot)) + 1
        ends.unsafe_store(e, ends.unsafe_load(e) + 1)
    for e in range(E):
        ends.unsafe_store(e + 1, ends.unsafe_load(e + 1) + ends.unsafe_load(e))
    for slot in range(slots):
        var e = Int(chosen.unsafe_load(slot))
        order.unsafe_store(Int(ends.unsafe_load(e)), Int64(slot))
        ends.unsafe_store(e, ends.unsafe_load(e) + 1)

    var active = 0  # experts that tokens chose, and where the slots of each begin
    var begin = 0
    for e in range(E):
        var end = Int(ends.unsafe_load(e))
        if end > begin:
            actives.unsafe_store(active, Int64(e))
            starts.unsafe_store(active, Int64(begin))
            active += 1
        begin = end

    def work(task: Int) raises {
        var x, var gate, var up, var down, var up_bias, var biased, var first, var second, var outs, var rows,
        var hidden, var order, var ends, var actives, var starts,
    }:
        var e = Int(actives.unsafe_load(task))
        var at = Int(starts.unsafe_load(task))
        var count = Int(ends.unsafe_load(e)) - at
        for r in range(count):
            var token = Int(order.unsafe_load(at + r)) // K
            for i in range(H):
                rows.unsafe_store((at + r) * H + i, x.unsafe_load(token * H + i))
        var wide = e * packed_count(I, H)
        var given = rows.unsafe_offset(at * H)
        product(given, up.unsafe_offset(wide), second.unsafe_offset(at * I), count, I, H)
        comptime if GATED:
            product(given, gate.unsafe_offset(wide), first.unsafe_offset(at * I), count, I, H)
        for r in range(at, at + count):
            finish(
                first.unsafe_offset(r * I), second.unsafe_offset(r * I), up_bias.unsafe_offset(e * I), biased,
                hidden.unsafe_offset(r * I),
            )
        var back = down.unsafe_offset(e * packed_count(H, I))
        product(hidden.unsafe_offset(at * I), back, outs.unsafe_offset(at * H), count, H, I)

    if threads == 1:
        for task in range(active):
            try:
                work(task)
            except:
                abort("an expert cannot be computed")
    else:
        sync_parallelize(work, active)

    for i in range(tokens * H):
        total.unsafe_store(i, Float32(0))
    for place in range(slots):
        var slot = Int(order.unsafe_load(place))
        var e = Int(chosen.unsafe_load(slot))
        var share = shares.unsafe_load(slot)
        var to = total.unsafe_offset(slot // K * H)
        for i in range(H):
            var value = outs.unsafe_load(place * H + i)
            if biased:
                value += down_bias.unsafe_load(e * H + i)
            to.unsafe_store(i, to.unsafe_load(i) + share * value)
    for i in range(tokens * H):
        y.unsafe_store(i, total.unsafe_load(i).cast[REAL]())


@always_inline
def finish(gate: Floats, up: Floats, bias: Floats, biased: Int, hidden: Reals):
    """What enters the second product."""
    for i in range(0, I - LANES + 1, LANES):
        var v = up.unsafe_load[width=LANES](i)
        if biased:
            v += bias.unsafe_load[width=LANES](i)
        comptime if GATED:
            v = activate(gate.unsafe_load[width=LANES](i)) * v
        else:
            v = activate(v)
        hidden.unsafe_store(i, v.cast[REAL]())
    for i in range(I // LANES * LANES, I):
        var v = SIMD[F32, LANES](up.unsafe_load(i))
        if biased:
            v += bias.unsafe_load(i)
        comptime if GATED:
            v = activate(SIMD[F32, LANES](gate.unsafe_load(i))) * v
        else:
            v = activate(v)
        hidden.unsafe_store(i, v[0].cast[REAL]())
