// One example followed through its stages: what must be there, not how it is numbered.

// RUN: moec compile examples/longcat_flash.moe --dtype bf16 --emit moe | filecheck %s --check-prefix MOE
// RUN: moec compile examples/longcat_flash.moe --dtype bf16 --emit plan --target x86_64-linux-gnu --mcpu znver4 | filecheck %s --check-prefix PLAN
// RUN: moec compile examples/longcat_flash.moe --dtype bf16 --emit plan --target x86_64-linux-gnu --mcpu znver4 | filecheck %s --check-prefix LEFT
// RUN: moec compile examples/longcat_flash.moe --dtype bf16 --emit llvm --target x86_64-linux-gnu --mcpu znver4 | filecheck %s --check-prefix LLVM
// RUN: moec compile examples/longcat_flash.moe --dtype bf16 --emit llvm --target x86_64-linux-gnu --mcpu znver4 | filecheck %s --check-prefix CALLS

// Experts of two kinds: those with weights, and those that return their input.
// MOE:         "moe.match"(%{{.*}}) <{bounds = [#moe.dim<"E">, #moe.dim<"E + Z">]}>
// MOE-COUNT-3: "moe.contract"
// MOE:         "moe.return"

// Only the slots that chose an expert with weights go through its products: a domain inside the domain of slots.
// PLAN-NOT:    "moe.match"
// PLAN:        %[[S:.*]], %{{.*}}, %{{.*}} = "plan.expand"(%[[T:.*]], %top)
// PLAN:        %[[MINE:.*]] = "plan.rows"(%[[S]])
// PLAN:        "moe.given"(%{{.*}}) <{domain = 512 : i64}> : {{.*}} -> !moe.selection<1 : i64, 512 : i64, "partial">
// PLAN:        %[[INNER:.*]], %{{.*}}, %{{.*}} = "plan.expand"(%[[S]], %[[MINE]])
// PLAN:        %[[H:.*]] = "plan.matmul"(%[[INNER]], %x, %gate, %up) <{grouping = #plan<grouping index>,{{.*}} keys = 512 : i64,
// PLAN:        "plan.matmul"(%[[INNER]], %[[H]], %down) <{grouping = #plan<grouping index>
// PLAN-NOT:    "plan.matmul"
// PLAN:        "plan.rows"(%[[T]])
// PLAN:        "plan.descend"(%[[S]],
// PLAN:        "plan.descend"(%[[INNER]],
// PLAN:        "plan.return"

// LLVM:        define i64 @"moec_run"

// No product is left row by row, no dimension is left without a value.
// LEFT-NOT:    "moe.contract"
// LEFT-NOT:    "moe.number"
// LEFT-NOT:    "moe.cast"
// LEFT-NOT:    #moe.

// Nothing outside is called: every declaration is one of LLVM's own, and none of those becomes a call of libm.
// CALLS-NOT:   declare {{[^@]*}}@"{{[^l]|l[^l]}}
// CALLS-NOT:   @"llvm.{{exp|log|tanh|pow|sqrt.f64|sin|cos|ldexp|frexp}}
