// RUN: moec opt %s -p gather-constants | filecheck %s

// What a loop over a range makes of parameters alone is made for all of the range, outside of the loop around, too.

// CHECK:       %[[R:.*]] = "moe.range"
// CHECK-NEXT:  %[[N:.*]] = "moe.each"(%[[R]]) ({
// CHECK-NEXT:  ^bb0(%[[I:.*]]: i64, %{{.*}}: i64):
// CHECK-NEXT:    %[[W:.*]] = "moe.extract"(%w, %[[I]])
// CHECK-NEXT:    %[[S:.*]] = "moe.reduce"(%[[W]])
// CHECK-NEXT:    "moe.yield"(%[[S]])
// CHECK:       "moe.sum"(%top) ({
// CHECK-NEXT:  ^bb0(%[[E:.*]]: i64, %{{.*}}: i64):
// CHECK-NEXT:    "moe.each"(%[[R]]) ({
// CHECK-NEXT:    ^bb0(%[[J:.*]]: i64, %[[SLOT:.*]]: i64):
// CHECK-NEXT:      %[[A:.*]] = "moe.extract"(%[[N]], %[[SLOT]]) : (tensor<6xf32>, i64) -> f32
// CHECK-NEXT:      %[[B:.*]] = "moe.extract"(%x, %[[E]]) : (tensor<6xf32>, i64) -> f32
// CHECK-NEXT:      arith.mulf %[[A]], %[[B]]
"moe.layer"() <{sym_name = "layer", inputs = ["x"], params = ["w"], outputs = ["y"], aux = [], types = ["f32"]}> ({
^bb0(%x: tensor<6xf32>, %w: tensor<6x8xf32>):
  %top = "moe.topk"(%x) <{count = 2 : i64}> : (tensor<6xf32>) -> !moe.selection<2 : i64, 6 : i64, "full">
  %r = "moe.range"() <{low = 0 : i64, high = 6 : i64}> : () -> !moe.selection<6 : i64, 6 : i64, "full">
  %y = "moe.sum"(%top) ({
  ^bb1(%e: i64, %i: i64):
    %inner = "moe.each"(%r) ({
    ^bb2(%f: i64, %j: i64):
      %v = "moe.extract"(%w, %f) : (tensor<6x8xf32>, i64) -> tensor<8xf32>
      %s = "moe.reduce"(%v) <{kind = #moe<reduction sum>, axis = 0 : i64}> : (tensor<8xf32>) -> f32
      %p = "moe.extract"(%x, %e) : (tensor<6xf32>, i64) -> f32
      %q = arith.mulf %s, %p : f32
      "moe.yield"(%q) : (f32) -> ()
    }) : (!moe.selection<6 : i64, 6 : i64, "full">) -> tensor<6xf32>
    "moe.yield"(%inner) : (tensor<6xf32>) -> ()
  }) : (!moe.selection<2 : i64, 6 : i64, "full">) -> tensor<6xf32>
  "moe.return"(%y) : (tensor<6xf32>) -> ()
}) : () -> ()
