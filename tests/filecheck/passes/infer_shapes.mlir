// RUN: moec opt %s -p infer-shapes --disable-verify | filecheck %s

// What only the arguments' types say is carried down: through maps, into the region of a sum and out of it.

// CHECK:       "moe.contract"{{.*}} -> tensor<4xf32>
// CHECK:       "moe.map"
// CHECK:       }) : (tensor<4xf32>) -> tensor<4xbf16>
// CHECK:       "moe.topk"{{.*}} -> !moe.selection<2 : i64, 4 : i64, "full">
// CHECK:       "moe.each"
// CHECK:       "moe.extract"{{.*}} -> tensor<6xf32>
// CHECK:       -> tensor<2x6xf32>
// CHECK-NEXT:  "moe.return"(%{{.*}}) : (tensor<2x6xf32>) -> ()
"moe.layer"() <{sym_name = "layer", inputs = ["x"], params = ["w"], outputs = ["y"], aux = [], types = ["f32"]}> ({
^bb0(%x: tensor<6xf32>, %w: tensor<4x6xf32>):
  %s = "moe.contract"(%w, %x) : (tensor<4x6xf32>, tensor<6xf32>) -> tensor<?xf32, #moe.shape<"E">>
  %r = "moe.map"(%s) ({
  ^bb0(%a: f32):
    %c = arith.truncf %a : f32 to bf16
    "moe.yield"(%c) : (bf16) -> ()
  }) : (tensor<?xf32, #moe.shape<"E">>) -> tensor<?xbf16, #moe.shape<"E">>
  %top = "moe.topk"(%r) <{count = 2 : i64}> : (tensor<?xbf16, #moe.shape<"E">>) -> !moe.selection<2 : i64, #moe.dim<"E">, "full">
  %y = "moe.each"(%top) ({
  ^bb0(%e: i64, %slot: i64):
    %row = "moe.extract"(%w, %e) : (tensor<4x6xf32>, i64) -> tensor<?xf32, #moe.shape<"H">>
    "moe.yield"(%row) : (tensor<?xf32, #moe.shape<"H">>) -> ()
  }) : (!moe.selection<2 : i64, #moe.dim<"E">, "full">) -> tensor<?x?xf32, #moe.shape<"2, H">>
  "moe.return"(%y) : (tensor<?x?xf32, #moe.shape<"2, H">>) -> ()
}) : () -> ()
