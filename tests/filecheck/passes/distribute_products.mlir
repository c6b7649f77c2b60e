// RUN: moec opt %s -p distribute-products | filecheck %s

// The product goes into the sparse sum, into the map inside it, and leaves no matrix that is computed.

// CHECK:       %[[SUM:.*]] = "moe.sum"(%s) ({
// CHECK:         %[[W:.*]] = "moe.extract"(%w, %{{.*}}) : (tensor<4x6x8xf32>, i64) -> tensor<6x8xf32>
// CHECK-NEXT:    %[[A:.*]] = "moe.contract"(%[[W]], %x) : (tensor<6x8xf32>, tensor<8xf32>) -> tensor<6xf32>
// CHECK-NEXT:    %[[B:.*]] = "moe.contract"(%base, %x) : (tensor<6x8xf32>, tensor<8xf32>) -> tensor<6xf32>
// CHECK-NEXT:    "moe.map"(%[[A]], %[[B]]) ({
// CHECK:           arith.subf
// CHECK:       "moe.return"(%[[SUM]])
"moe.layer"() <{sym_name = "layer", inputs = ["x", "p"], params = ["w", "base"], outputs = ["y"], aux = [], types = ["f32"]}> ({
^bb0(%x: tensor<8xf32>, %p: tensor<4xf32>, %w: tensor<4x6x8xf32>, %base: tensor<6x8xf32>):
  %s = "moe.topk"(%p) <{count = 2 : i64}> : (tensor<4xf32>) -> !moe.selection<2 : i64, 4 : i64, "full">
  %m = "moe.sum"(%s) ({
  ^bb1(%e: i64, %slot: i64):
    %v = "moe.extract"(%w, %e) : (tensor<4x6x8xf32>, i64) -> tensor<6x8xf32>
    %d = "moe.map"(%v, %base) ({
    ^bb2(%a: f32, %b: f32):
      %c = arith.subf %a, %b : f32
      "moe.yield"(%c) : (f32) -> ()
    }) : (tensor<6x8xf32>, tensor<6x8xf32>) -> tensor<6x8xf32>
    "moe.yield"(%d) : (tensor<6x8xf32>) -> ()
  }) : (!moe.selection<2 : i64, 4 : i64, "full">) -> tensor<6x8xf32>
  %y = "moe.contract"(%m, %x) : (tensor<6x8xf32>, tensor<8xf32>) -> tensor<6xf32>
  "moe.return"(%y) : (tensor<6xf32>) -> ()
}) : () -> ()
