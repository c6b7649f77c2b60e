// RUN: moec opt %s -p merge-equal | filecheck %s

// Two casts that are the same are one, with their regions; another element type is another cast.

"moe.layer"() <{sym_name = "m", inputs = ["x"], params = [], outputs = ["y"], aux = [], types = ["f32"]}> ({
^bb0(%x: tensor<8xf32>):
  %a = "moe.map"(%x) ({
  ^bb0(%e: f32):
    %n = arith.truncf %e : f32 to bf16
    %w = arith.extf %n : bf16 to f32
    "moe.yield"(%w) : (f32) -> ()
  }) : (tensor<8xf32>) -> tensor<8xf32>
  %b = "moe.map"(%x) ({
  ^bb0(%e: f32):
    %n = arith.truncf %e : f32 to f16
    %w = arith.extf %n : f16 to f32
    "moe.yield"(%w) : (f32) -> ()
  }) : (tensor<8xf32>) -> tensor<8xf32>
  %c = "moe.map"(%x) ({
  ^bb0(%e: f32):
    %n = arith.truncf %e : f32 to bf16
    %w = arith.extf %n : bf16 to f32
    "moe.yield"(%w) : (f32) -> ()
  }) : (tensor<8xf32>) -> tensor<8xf32>
  %y = "moe.concat"(%a, %b, %c) <{axis = 0 : i64}> : (tensor<8xf32>, tensor<8xf32>, tensor<8xf32>) -> tensor<24xf32>
  "moe.return"(%y) : (tensor<24xf32>) -> ()
}) : () -> ()

// CHECK:      %[[A:.*]] = "moe.map"(%x)
// CHECK:      arith.truncf %{{.*}} : f32 to bf16
// CHECK:      %[[B:.*]] = "moe.map"(%x)
// CHECK:      arith.truncf %{{.*}} : f32 to f16
// CHECK-NOT:  "moe.map"
// CHECK:      "moe.concat"(%[[A]], %[[B]], %[[A]])
