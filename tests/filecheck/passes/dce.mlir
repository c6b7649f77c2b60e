// RUN: moec opt %s -p dce | filecheck %s

// What nobody reads goes, also where it has a region.

// CHECK:       ^bb0(%x: tensor<6xf32>):
// CHECK-NEXT:  "moe.return"(%x)
"moe.layer"() <{sym_name = "layer", inputs = ["x"], params = [], outputs = ["y"], aux = [], types = ["f32"]}> ({
^bb0(%x: tensor<6xf32>):
  %r = "moe.range"() <{low = 0 : i64, high = 6 : i64}> : () -> !moe.selection<6 : i64, 6 : i64, "full">
  %m = "moe.each"(%r) ({
  ^bb1(%i: i64, %slot: i64):
    %d = "moe.map"(%x) ({
    ^bb2(%a: f32):
      %c = arith.mulf %a, %a : f32
      "moe.yield"(%c) : (f32) -> ()
    }) : (tensor<6xf32>) -> tensor<6xf32>
    "moe.yield"(%d) : (tensor<6xf32>) -> ()
  }) : (!moe.selection<6 : i64, 6 : i64, "full">) -> tensor<6x6xf32>
  "moe.return"(%x) : (tensor<6xf32>) -> ()
}) : () -> ()
