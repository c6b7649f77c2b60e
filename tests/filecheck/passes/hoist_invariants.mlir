// RUN: moec opt %s -p hoist-invariants | filecheck %s

// What depends on no slot leaves the sum, out of both loops where it can; what depends on the outer one stays in between.

// CHECK:       %[[S:.*]] = "moe.reduce"(%x)
// CHECK-NEXT:  "moe.sum"(%top) ({
// CHECK-NEXT:  ^bb0(%[[E:.*]]: i64, %{{.*}}: i64):
// CHECK-NEXT:    %[[W:.*]] = "moe.extract"(%x, %[[E]])
// CHECK-NEXT:    "moe.sum"(%top) ({
// CHECK-NEXT:    ^bb0(%[[F:.*]]: i64, %{{.*}}: i64):
// CHECK-NEXT:      %[[V:.*]] = "moe.extract"(%x, %[[F]])
// CHECK-NEXT:      %[[P:.*]] = arith.mulf %[[V]], %[[W]]
// CHECK-NEXT:      arith.mulf %[[P]], %[[S]]
"moe.layer"() <{sym_name = "layer", inputs = ["x"], params = [], outputs = ["y"], aux = [], types = ["f32"]}> ({
^bb0(%x: tensor<6xf32>):
  %top = "moe.topk"(%x) <{count = 2 : i64}> : (tensor<6xf32>) -> !moe.selection<2 : i64, 6 : i64, "full">
  %y = "moe.sum"(%top) ({
  ^bb0(%e: i64, %i: i64):
    %inner = "moe.sum"(%top) ({
    ^bb0(%f: i64, %j: i64):
      %s = "moe.reduce"(%x) <{kind = #moe<reduction sum>, axis = 0 : i64}> : (tensor<6xf32>) -> f32
      %w = "moe.extract"(%x, %e) : (tensor<6xf32>, i64) -> f32
      %v = "moe.extract"(%x, %f) : (tensor<6xf32>, i64) -> f32
      %p = arith.mulf %v, %w : f32
      %q = arith.mulf %p, %s : f32
      "moe.yield"(%q) : (f32) -> ()
    }) : (!moe.selection<2 : i64, 6 : i64, "full">) -> f32
    "moe.yield"(%inner) : (f32) -> ()
  }) : (!moe.selection<2 : i64, 6 : i64, "full">) -> f32
  "moe.return"(%y) : (f32) -> ()
}) : () -> ()
