// RUN: moec opt %s -p distribute-products | filecheck %s

// Outer products that are added up along the tokens are not made before.

// CHECK:       %[[Z:.*]] = "moe.batch"(%x, %d) <{kind = #moe<along sum>}> : (tensor<8xf32>, tensor<6xf32>) -> tensor<6x8xf32>
// CHECK-NEXT:  "moe.return"(%[[Z]])
"moe.layer"() <{sym_name = "layer", inputs = ["x", "d"], params = [], outputs = ["z"], aux = [], types = ["f32"]}> ({
^bb0(%x: tensor<8xf32>, %d: tensor<6xf32>):
  %r = "moe.range"() <{low = 0 : i64, high = 6 : i64}> : () -> !moe.selection<6 : i64, 6 : i64, "full">
  %m = "moe.each"(%r) ({
  ^bb1(%i: i64, %slot: i64):
    %f = "moe.extract"(%d, %i) : (tensor<6xf32>, i64) -> f32
    %v = "moe.map"(%x) ({
    ^bb2(%a: f32):
      %c = arith.mulf %f, %a : f32
      "moe.yield"(%c) : (f32) -> ()
    }) : (tensor<8xf32>) -> tensor<8xf32>
    "moe.yield"(%v) : (tensor<8xf32>) -> ()
  }) : (!moe.selection<6 : i64, 6 : i64, "full">) -> tensor<6x8xf32>
  %z = "moe.batch"(%m) <{kind = #moe<along sum>}> : (tensor<6x8xf32>) -> tensor<6x8xf32>
  "moe.return"(%z) : (tensor<6x8xf32>) -> ()
}) : () -> ()
