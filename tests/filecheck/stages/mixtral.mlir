// One example followed through its stages: what must be there, not how it is numbered.

// RUN: moec compile examples/mixtral.moe --dtype bf16 --emit moe | filecheck %s --check-prefix MOE
// RUN: moec compile examples/mixtral.moe --dtype bf16 --emit plan --target x86_64-linux-gnu --mcpu znver4 | filecheck %s --check-prefix PLAN
// RUN: moec compile examples/mixtral.moe --dtype bf16 --emit plan --target x86_64-linux-gnu --mcpu znver4 | filecheck %s --check-prefix LEFT
// RUN: moec compile examples/mixtral.moe --dtype bf16 --emit llvm --target x86_64-linux-gnu --mcpu znver4 | filecheck %s --check-prefix LLVM
// RUN: moec compile examples/mixtral.moe --dtype bf16 --emit llvm --target x86_64-linux-gnu --mcpu znver4 | filecheck %s --check-prefix CALLS

// Shapes are names, the cast before the choice is the layer's own, the sum holds three products.
// MOE:         "moe.layer"() <{sym_name = "mixtral", inputs = ["x"], params = ["router", "gate", "up", "down"],
// MOE-SAME:    types = ["real"]
// MOE-NEXT:    %gate: tensor<?x?x?x!moe.real, #moe.shape<"E, I, H">>
// MOE-NEXT:    %[[L:.*]] = "moe.contract"(%router, %x)
// MOE-NEXT:    "moe.map"(%[[L]]) ({
// MOE:         "moe.cast"(%{{.*}}) <{to = !moe.real}>
// MOE:         math.exp
// MOE:         "moe.topk"(%{{.*}}) <{count = #moe.dim<"K">}>
// MOE:         "moe.sum"(%top)
// MOE-COUNT-3: "moe.contract"
// MOE-NOT:     "moe.contract"
// MOE:         "moe.return"

// The router, gate and up in one, down: three products. SwiGLU is the epilogue of the second, the weight of the third.
// PLAN-NOT:    plan.group
// PLAN:        "plan.matmul"(%[[T:.*]], %x, %router) <{grouping = #plan<grouping none>,{{.*}} keys = 1 : i64, n = 8 : i64, k = 4096 : i64,
// PLAN:        arith.truncf
// PLAN:        %[[TOP:.*]], %[[W:.*]] = "plan.rows"(%[[T]])
// PLAN:        "moe.topk"
// PLAN:        %[[S:.*]], %index, %slot = "plan.expand"(%[[T]], %[[TOP]])
// PLAN:        %[[H:.*]] = "plan.matmul"(%[[S]], %x, %gate, %up) <{grouping = #plan<grouping index>,{{.*}} keys = 8 : i64, n = 14336 : i64, k = 4096 : i64, dtype = "bf16", tile = "dot
// PLAN:        math.exp
// PLAN:        arith.truncf
// PLAN:        "plan.yield"(%{{.*}}) : (tensor<14336xbf16>)
// PLAN:        %[[D:.*]] = "plan.matmul"(%[[S]], %[[H]], %down) <{grouping = #plan<grouping index>,{{.*}} n = 4096 : i64, k = 14336 : i64,
// PLAN:        "plan.read"(%[[W]],
// PLAN:        arith.mulf
// PLAN-NOT:    "plan.matmul"
// PLAN:        "plan.rows"(%[[T]])
// PLAN:        "moe.sum"
// PLAN:        "plan.descend"(%[[S]],
// PLAN-NEXT:   "plan.read"(%[[D]],
// PLAN:        "plan.return"

// Kernels for one to six rows of one shape, a function a stage, and the call.
// LLVM-COUNT-6: define {{.*}}@"moec_dot_bf16_{{[1-6]x64(_still)?}}"
// LLVM-NOT:    @"moec_dot_bf16_7x64"
// LLVM-DAG:    define internal void @"stage_{{[0-9]+}}_matmul"
// LLVM-DAG:    define internal void @"stage_{{[0-9]+}}_rows"
// LLVM-DAG:    define internal void @"stage_{{[0-9]+}}_matmul"
// LLVM-DAG:    define internal void @"stage_{{[0-9]+}}_matmul"
// LLVM:        define i64 @"moec_run"(i64 %"tokens", ptr %"arguments", ptr %"pool")

// No product is left row by row, no dimension is left without a value.
// LEFT-NOT:    "moe.contract"
// LEFT-NOT:    "moe.number"
// LEFT-NOT:    "moe.cast"
// LEFT-NOT:    #moe.

// Nothing outside is called: every declaration is one of LLVM's own, and none of those becomes a call of libm.
// CALLS-NOT:   declare {{[^@]*}}@"{{[^l]|l[^l]}}
// CALLS-NOT:   @"llvm.{{exp|log|tanh|pow|sqrt.f64|sin|cos|ldexp|frexp}}
