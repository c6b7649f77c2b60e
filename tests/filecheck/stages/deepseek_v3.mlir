// One example followed through its stages: what must be there, not how it is numbered.

// RUN: moec compile examples/deepseek_v3.moe --dtype bf16 --emit moe | filecheck %s --check-prefix MOE
// RUN: moec compile examples/deepseek_v3.moe --dtype bf16 --emit plan --target x86_64-linux-gnu --mcpu znver4 | filecheck %s --check-prefix PLAN
// RUN: moec compile examples/deepseek_v3.moe --dtype bf16 --emit plan --target x86_64-linux-gnu --mcpu znver4 | filecheck %s --check-prefix LEFT
// RUN: moec compile examples/deepseek_v3.moe --dtype bf16 --emit llvm --target x86_64-linux-gnu --mcpu znver4 | filecheck %s --check-prefix LLVM
// RUN: moec compile examples/deepseek_v3.moe --dtype bf16 --emit llvm --target x86_64-linux-gnu --mcpu znver4 | filecheck %s --check-prefix CALLS

// The router is f32, whatever `real` is; groups are limited by reshaping.
// MOE:         %router: tensor<?x?xf32, #moe.shape<"E, H">>, %bias: tensor<?xf32, #moe.shape<"E">>
// MOE:         "moe.reshape"
// MOE:         "moe.top"(%{{.*}}) <{count = 2 : i64}>
// MOE:         "moe.topk"(%{{.*}}) <{count = #moe.dim<"KG">}>
// MOE:         "moe.members"
// MOE:         "moe.topk"(%{{.*}}) <{count = #moe.dim<"K">}>
// MOE:         "moe.sum"(%top)
// MOE-COUNT-6: "moe.contract"
// MOE-NOT:     "moe.contract"
// MOE:         "moe.return"

// Five products: an f32 router with sigmoid as its epilogue, the experts grouped by index, the shared expert over tokens; its
// last one adds what the experts leave and rounds.
// PLAN-NOT:    plan.group
// PLAN:        "plan.matmul"(%[[T:.*]], %{{.*}}, %router) <{grouping = #plan<grouping none>,{{.*}} n = 256 : i64, k = 7168 : i64, dtype = "f32", tile = "fma
// PLAN:        math.exp
// PLAN:        "plan.matmul"(%[[T]], %x, %shared_gate, %shared_up) <{grouping = #plan<grouping none>
// PLAN:        %[[TOP:.*]], %{{.*}} = "plan.rows"(%[[T]])
// PLAN:        arith.constant 0xff800000 : f32
// PLAN:        "moe.topk"{{.*}} -> !moe.selection<8 : i64, 256 : i64, "full">
// PLAN:        %[[S:.*]], %index, %slot = "plan.expand"(%[[T]], %[[TOP]])
// PLAN:        "plan.matmul"(%[[S]], %x, %gate, %up) <{grouping = #plan<grouping index>,{{.*}} keys = 256 : i64,
// PLAN:        %[[D:.*]] = "plan.matmul"(%[[S]], %{{.*}}, %down) <{grouping = #plan<grouping index>
// PLAN:        "plan.matmul"(%[[T]], %{{.*}}, %shared_down) <{grouping = #plan<grouping none>
// PLAN:        "moe.sum"
// PLAN:        "plan.read"(%[[D]],
// PLAN:        arith.addf
// PLAN:        arith.truncf
// PLAN-NOT:    "plan.{{matmul|rows"}}
// PLAN:        "plan.return"

// Two families of kernels, since the router is f32.
// LLVM-DAG:    define {{.*}}@"moec_fma_f32_1x{{[0-9]+(_still)?}}"
// LLVM-DAG:    define {{.*}}@"moec_dot_bf16_1x{{[0-9]+(_still)?}}"
// LLVM:        define i64 @"moec_run"

// No product is left row by row, no dimension is left without a value.
// LEFT-NOT:    "moe.contract"
// LEFT-NOT:    "moe.number"
// LEFT-NOT:    "moe.cast"
// LEFT-NOT:    #moe.

// Nothing outside is called: every declaration is one of LLVM's own, and none of those becomes a call of libm.
// CALLS-NOT:   declare {{[^@]*}}@"{{[^l]|l[^l]}}
// CALLS-NOT:   @"llvm.{{exp|log|tanh|pow|sqrt.f64|sin|cos|ldexp|frexp}}
