// RUN: moec opt %s -p hoist-invariants | filecheck %s
// RUN: moec opt %s -p 'specialize{dims="E=3"},hoist-invariants' | filecheck %s --check-prefix RUNS
// RUN: moec opt %s -p 'specialize{dims="E=1"},hoist-invariants' | filecheck %s --check-prefix EMPTY

// An index that is checked while the layer runs leaves a loop only if that has a turn for sure: one over a range whose
// ends have no values yet may be empty. What cannot fail leaves either; what nobody knows stays.

// CHECK:       %[[A:.*]] = "moe.extract"(%t, %{{.*}}) : (tensor<4xf32>, i64) -> f32
// CHECK-NEXT:  "moe.sum"
// CHECK-NEXT:  ^bb0
// CHECK-NEXT:    %[[B:.*]] = "moe.extract"(%t, %id) <{checked}>
// CHECK-NEXT:    %{{.*}} = "test.op"() : () -> f32
// CHECK-NEXT:    arith.mulf %[[A]], %[[B]]

// RUNS:        "moe.extract"(%t, %{{.*}}) : (tensor<4xf32>, i64) -> f32
// RUNS-NEXT:   %[[B:.*]] = "moe.extract"(%t, %id) <{checked}>
// RUNS-NEXT:   %[[P:.*]] = arith.mulf %{{.*}}, %[[B]]
// RUNS-NEXT:   "moe.sum"
// RUNS-NEXT:   ^bb0
// RUNS-NEXT:     %{{.*}} = "test.op"() : () -> f32

// EMPTY:       "moe.sum"
// EMPTY-NEXT:  ^bb0
// EMPTY-NEXT:    arith.constant
// EMPTY-NEXT:    "moe.extract"(%t, %{{.*}}) : (tensor<4xf32>, i64) -> f32
// EMPTY-NEXT:    "moe.extract"(%t, %id) <{checked}>
"moe.layer"() <{sym_name = "layer", inputs = ["id"], params = ["t"], outputs = ["y"], aux = [], types = ["f32"]}> ({
^bb0(%id: i64, %t: tensor<4xf32>):
  %others = "moe.range"() <{low = 1 : i64, high = #moe.dim<"E">}> : () -> !moe.selection<#moe.dim<"E - 1">, #moe.dim<"E">, "full">
  %y = "moe.sum"(%others) ({
  ^bb0(%e: i64, %slot: i64):
    %two = arith.constant 2 : i64
    %a = "moe.extract"(%t, %two) : (tensor<4xf32>, i64) -> f32
    %b = "moe.extract"(%t, %id) <{checked}> : (tensor<4xf32>, i64) -> f32
    %u = "test.op"() : () -> f32
    %p = arith.mulf %a, %b : f32
    %v = "moe.extract"(%t, %e) : (tensor<4xf32>, i64) -> f32
    %q = arith.addf %p, %v : f32
    "moe.yield"(%q) : (f32) -> ()
  }) : (!moe.selection<#moe.dim<"E - 1">, #moe.dim<"E">, "full">) -> f32
  "moe.return"(%y) : (f32) -> ()
}) : () -> ()
