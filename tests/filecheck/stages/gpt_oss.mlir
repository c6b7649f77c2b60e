// One example followed through its stages: what must be there, not how it is numbered.

// RUN: moec compile examples/gpt_oss.moe --dtype bf16 --emit moe | filecheck %s --check-prefix MOE
// RUN: moec compile examples/gpt_oss.moe --dtype bf16 --emit plan --target x86_64-linux-gnu --mcpu znver4 | filecheck %s --check-prefix PLAN
// RUN: moec compile examples/gpt_oss.moe --dtype bf16 --emit plan --target x86_64-linux-gnu --mcpu znver4 | filecheck %s --check-prefix LEFT
// RUN: moec compile examples/gpt_oss.moe --dtype bf16 --emit llvm --target x86_64-linux-gnu --mcpu znver4 | filecheck %s --check-prefix LLVM
// RUN: moec compile examples/gpt_oss.moe --dtype bf16 --emit llvm --target x86_64-linux-gnu --mcpu znver4 | filecheck %s --check-prefix CALLS

// Biases of each expert; the layer rounds its weights.
// MOE:         "moe.layer"() <{sym_name = "gpt_oss"
// MOE-COUNT-4: "moe.contract"
// MOE-NOT:     "moe.contract"
// MOE:         "moe.return"

// Three products. Gate and up are one; an expert's bias is a row of a parameter, added in the epilogue before the clamp.
// PLAN:        "plan.matmul"(%[[T:.*]], %x, %router) <{grouping = #plan<grouping none>
// PLAN:        "plan.expand"(%[[T]],
// PLAN:        "plan.matmul"(%[[S:.*]], %x, {{%up, %gate|%gate, %up}}) <{grouping = #plan<grouping index>,{{.*}} keys = 32 : i64, n = 2880 : i64,
// PLAN-DAG:    "moe.extract"(%up_bias, %[[E:.*]]) :
// PLAN-DAG:    "moe.extract"(%gate_bias, %{{.*}}) :
// PLAN:        "moe.map"
// PLAN-DAG:    arith.minimumf
// PLAN-DAG:    arith.maximumf
// PLAN-DAG:    math.exp
// PLAN:        "plan.matmul"(%[[S]], %{{.*}}, %down) <{grouping = #plan<grouping index>
// PLAN:        "moe.extract"(%down_bias,
// PLAN:        arith.addf
// PLAN:        arith.mulf
// PLAN-NOT:    "plan.matmul"
// PLAN:        "plan.return"

// LLVM:        define {{.*}}@"moec_dot_bf16_1x{{[0-9]+(_still)?}}"
// LLVM:        define i64 @"moec_run"

// No product is left row by row, no dimension is left without a value.
// LEFT-NOT:    "moe.contract"
// LEFT-NOT:    "moe.number"
// LEFT-NOT:    "moe.cast"
// LEFT-NOT:    #moe.

// Nothing outside is called: every declaration is one of LLVM's own, and none of those becomes a call of libm.
// CALLS-NOT:   declare {{[^@]*}}@"{{[^l]|l[^l]}}
// CALLS-NOT:   @"llvm.{{exp|log|tanh|pow|sqrt.f64|sin|cos|ldexp|frexp}}
