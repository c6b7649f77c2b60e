// RUN: moec opt %s -p 'schedule{target="x86_64-unknown-linux-gnu:znver4:"}' | filecheck %s

// Router and selection over tokens, then the slots as a domain of their own: gate and up share one matmul with the
// activation as its epilogue, down reads its result, and what is left of the sum is one stage over tokens.

// CHECK-NOT:   "moe.contract"
// CHECK:       "plan.program"() <{sym_name = "layer"
// CHECK-NEXT:  ^bb0(%[[T:.*]]: !plan.domain, %x: !plan.rows<tensor<64xf32>>, %router: tensor<8x64xf32>,
// CHECK-NEXT:  %[[LOGITS:.*]] = "plan.matmul"(%[[T]], %x, %router) <{grouping = #plan<grouping none>, views = {{\[\[\]\]}}, keys = 1 : i64, n = 8 : i64, k = 64 : i64, dtype = "f32", tile = "fma {{.*}}lanes 16"
// CHECK:       %[[TOP:.*]] = "plan.rows"(%[[T]])
// CHECK:       "plan.read"(%[[LOGITS]],
// CHECK-NEXT:  "moe.topk"
// CHECK:       %[[SLOTS:.*]], %index, %slot = "plan.expand"(%[[T]], %[[TOP]])
// CHECK:       %[[ACT:.*]] = "plan.matmul"(%[[SLOTS]], %x, %gate, %up) <{grouping = #plan<grouping index>, views = {{\[\[\], \[\]\]}}, keys = 8 : i64, n = 96 : i64, k = 64 : i64,
// CHECK-NEXT:  ^bb0(%{{.*}}: index, %[[G:.*]]: tensor<96xf32>, %[[U:.*]]: tensor<96xf32>):
// CHECK-NEXT:    "moe.map"(%[[G]], %[[U]])
// CHECK:       %[[DOWN:.*]] = "plan.matmul"(%[[SLOTS]], %[[ACT]], %down) <{grouping = #plan<grouping index>
// CHECK:       "plan.rows"(%[[T]])
// CHECK:       "moe.sum"
// CHECK:       %[[R:.*]] = "plan.descend"(%[[SLOTS]],
// CHECK-NEXT:  "plan.read"(%[[DOWN]], %[[R]])
// CHECK:       "plan.return"
"moe.layer"() <{sym_name = "layer", inputs = ["x"], params = ["router", "gate", "up", "down"], outputs = ["y"], aux = [], types = ["f32"]}> ({
^bb0(%x: tensor<64xf32>, %router: tensor<8x64xf32>, %gate: tensor<8x96x64xf32>, %up: tensor<8x96x64xf32>, %down: tensor<8x64x96xf32>):
  %logits = "moe.contract"(%router, %x) : (tensor<8x64xf32>, tensor<64xf32>) -> tensor<8xf32>
  %top = "moe.topk"(%logits) <{count = 2 : i64}> : (tensor<8xf32>) -> !moe.selection<2 : i64, 8 : i64, "full">
  %y = "moe.sum"(%top) ({
  ^bb0(%e: i64, %slot: i64):
    %g = "moe.extract"(%gate, %e) : (tensor<8x96x64xf32>, i64) -> tensor<96x64xf32>
    %u = "moe.extract"(%up, %e) : (tensor<8x96x64xf32>, i64) -> tensor<96x64xf32>
    %d = "moe.extract"(%down, %e) : (tensor<8x64x96xf32>, i64) -> tensor<64x96xf32>
    %gx = "moe.contract"(%g, %x) : (tensor<96x64xf32>, tensor<64xf32>) -> tensor<96xf32>
    %ux = "moe.contract"(%u, %x) : (tensor<96x64xf32>, tensor<64xf32>) -> tensor<96xf32>
    %h = "moe.map"(%gx, %ux) ({
    ^bb0(%a: f32, %b: f32):
      %t = math.tanh %a : f32
      %p = arith.mulf %t, %b : f32
      "moe.yield"(%p) : (f32) -> ()
    }) : (tensor<96xf32>, tensor<96xf32>) -> tensor<96xf32>
    %r = "moe.contract"(%d, %h) : (tensor<64x96xf32>, tensor<96xf32>) -> tensor<64xf32>
    "moe.yield"(%r) : (tensor<64xf32>) -> ()
  }) : (!moe.selection<2 : i64, 8 : i64, "full">) -> tensor<64xf32>
  "moe.return"(%y) : (tensor<64xf32>) -> ()
}) : () -> ()
