// RUN: moec opt %s -p distribute-products | filecheck %s

// What scales the columns of a weight scales the vector; a sum of scaled rows is the product with the transpose.

// CHECK:       %[[V:.*]] = "moe.map"(%x, %g) ({
// CHECK:         arith.mulf
// CHECK:       "moe.contract"(%{{.*}}, %[[V]]) : (tensor<6x8xf32>, tensor<8xf32>) -> tensor<6xf32>
// CHECK:       %[[T:.*]] = "moe.transpose"(%{{.*}}) : (tensor<6x8xf32>) -> tensor<8x6xf32>
// CHECK-NEXT:  %[[Z:.*]] = "moe.contract"(%[[T]], %h) : (tensor<8x6xf32>, tensor<6xf32>) -> tensor<8xf32>
// CHECK-NEXT:  "moe.return"(%{{.*}}, %[[Z]])
"moe.layer"() <{sym_name = "layer", inputs = ["x", "h"], params = ["w", "g"], outputs = ["y", "z"], aux = [], types = ["f32", "f32"]}> ({
^bb0(%x: tensor<8xf32>, %h: tensor<6xf32>, %w: tensor<6x8xf32>, %g: tensor<8xf32>):
  %r = "moe.range"() <{low = 0 : i64, high = 6 : i64}> : () -> !moe.selection<6 : i64, 6 : i64, "full">
  %m = "moe.each"(%r) ({
  ^bb1(%i: i64, %slot: i64):
    %v = "moe.extract"(%w, %i) : (tensor<6x8xf32>, i64) -> tensor<8xf32>
    %d = "moe.map"(%v, %g) ({
    ^bb2(%a: f32, %b: f32):
      %c = arith.mulf %a, %b : f32
      "moe.yield"(%c) : (f32) -> ()
    }) : (tensor<8xf32>, tensor<8xf32>) -> tensor<8xf32>
    "moe.yield"(%d) : (tensor<8xf32>) -> ()
  }) : (!moe.selection<6 : i64, 6 : i64, "full">) -> tensor<6x8xf32>
  %y = "moe.contract"(%m, %x) : (tensor<6x8xf32>, tensor<8xf32>) -> tensor<6xf32>
  %z = "moe.sum"(%r) ({
  ^bb3(%i: i64, %slot: i64):
    %v = "moe.extract"(%w, %i) : (tensor<6x8xf32>, i64) -> tensor<8xf32>
    %f = "moe.extract"(%h, %i) : (tensor<6xf32>, i64) -> f32
    %d = "moe.map"(%v) ({
    ^bb4(%a: f32):
      %c = arith.mulf %a, %f : f32
      "moe.yield"(%c) : (f32) -> ()
    }) : (tensor<8xf32>) -> tensor<8xf32>
    "moe.yield"(%d) : (tensor<8xf32>) -> ()
  }) : (!moe.selection<6 : i64, 6 : i64, "full">) -> tensor<8xf32>
  "moe.return"(%y, %z) : (tensor<6xf32>, tensor<8xf32>) -> ()
}) : () -> ()
