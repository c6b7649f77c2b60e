// RUN: moec opt %s -p round-outputs | filecheck %s

// An array is rounded by a map, a scalar at once; what has its type already, and an i64, stay as they are.

// CHECK:       %[[Y:.*]] = "moe.map"(%x) ({
// CHECK:       arith.truncf %{{.*}} : f32 to bf16
// CHECK:       }) : (tensor<6xf32>) -> tensor<6xbf16>
// CHECK-NEXT:  %[[S:.*]] = arith.extf %s : f16 to f32
// CHECK-NEXT:  "moe.return"(%[[Y]], %[[S]], %x, %n) : (tensor<6xbf16>, f32, tensor<6xf32>, i64) -> ()
"moe.layer"() <{sym_name = "layer", inputs = ["x", "s", "n"], params = [], outputs = ["y", "s", "x"], aux = ["n"], types = ["bf16", "f32", "f32", "i64"]}> ({
^bb0(%x: tensor<6xf32>, %s: f16, %n: i64):
  "moe.return"(%x, %s, %x, %n) : (tensor<6xf32>, f16, tensor<6xf32>, i64) -> ()
}) : () -> ()
