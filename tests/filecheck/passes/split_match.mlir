// RUN: moec opt %s -p split-match | filecheck %s

// The arm with a product becomes a sparse sum over at most one slot, `given` the index; the other arm, from 4 on, too.
// What the two leave is added. A match without a product stays.

// CHECK-NOT:   "moe.match"
// CHECK:       %[[IDS:.*]] = "moe.broadcast"(%i) <{shape = [1 : i64]}> : (i64) -> tensor<1xi64>
// CHECK-NEXT:  %[[FIRST:.*]] = "moe.given"(%[[IDS]]) <{domain = 4 : i64}> : {{.*}} -> !moe.selection<1 : i64, 4 : i64, "partial">
// CHECK-NEXT:  %[[A:.*]] = "moe.sum"(%[[FIRST]]) ({
// CHECK-NEXT:  ^bb0(%[[E:.*]]: i64, %{{.*}}: i64):
// CHECK-NEXT:    %[[W:.*]] = "moe.extract"(%w, %[[E]])
// CHECK-NEXT:    "moe.contract"(%[[W]], %x)
// CHECK:       arith.constant 4 : i64
// CHECK:       %[[MOVED:.*]] = arith.subi %i, %[[FOUR:.*]] : i64
// CHECK:       "moe.given"(%{{.*}}) <{domain = 2 : i64}>
// CHECK:       %[[B:.*]] = "moe.sum"
// CHECK:       arith.addi %{{.*}}, %[[FOUR]] : i64
// CHECK:       "moe.yield"(%x)
// CHECK:       "moe.map"(%[[A]], %[[B]]) ({
// CHECK:       arith.addf
// CHECK:       "moe.match"(%i) <{bounds = [3 : i64, 6 : i64]}>
"moe.layer"() <{sym_name = "layer", inputs = ["x", "i"], params = ["w"], outputs = ["y", "z"], aux = [], types = ["f32", "f32"]}> ({
^bb0(%x: tensor<6xf32>, %i: i64, %w: tensor<4x6x6xf32>):
  %y = "moe.match"(%i) <{bounds = [4 : i64, 6 : i64]}> ({
    %m = "moe.extract"(%w, %i) : (tensor<4x6x6xf32>, i64) -> tensor<6x6xf32>
    %p = "moe.contract"(%m, %x) : (tensor<6x6xf32>, tensor<6xf32>) -> tensor<6xf32>
    "moe.yield"(%p) : (tensor<6xf32>) -> ()
  }, {
    "moe.yield"(%x) : (tensor<6xf32>) -> ()
  }) : (i64) -> tensor<6xf32>
  %z = "moe.match"(%i) <{bounds = [3 : i64, 6 : i64]}> ({
    "moe.yield"(%x) : (tensor<6xf32>) -> ()
  }, {
    "moe.yield"(%y) : (tensor<6xf32>) -> ()
  }) : (i64) -> tensor<6xf32>
  "moe.return"(%y, %z) : (tensor<6xf32>, tensor<6xf32>) -> ()
}) : () -> ()
