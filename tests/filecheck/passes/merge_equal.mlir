// RUN: moec opt %s -p merge-equal | filecheck %s

// Two casts that are the same are one, with their regions; another element type is another cast. Of two indices that are
// checked one fails where both would; what may have effects is left alone.

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
  %i = "test.op"() : () -> i64
  %j = "test.op"() : () -> i64
  %p = "moe.extract"(%x, %i) <{checked}> : (tensor<8xf32>, i64) -> f32
  %q = "moe.extract"(%x, %i) <{checked}> : (tensor<8xf32>, i64) -> f32
  %r = "moe.extract"(%x, %j) <{checked}> : (tensor<8xf32>, i64) -> f32
  "test.op"(%p, %q, %r) : (f32, f32, f32) -> ()
  %y = "moe.concat"(%a, %b, %c) <{axis = 0 : i64}> : (tensor<8xf32>, tensor<8xf32>, tensor<8xf32>) -> tensor<24xf32>
  "moe.return"(%y) : (tensor<24xf32>) -> ()
}) : () -> ()

// CHECK:      %[[A:.*]] = "moe.map"(%x)
// CHECK:      arith.truncf %{{.*}} : f32 to bf16
// CHECK:      %[[B:.*]] = "moe.map"(%x)
// CHECK:      arith.truncf %{{.*}} : f32 to f16
// CHECK-NOT:  "moe.map"
// CHECK:      %[[I:.*]] = "test.op"() : () -> i64
// CHECK-NEXT: %[[J:.*]] = "test.op"() : () -> i64
// CHECK-NEXT: %[[P:.*]] = "moe.extract"(%x, %[[I]])
// CHECK-NEXT: %[[R:.*]] = "moe.extract"(%x, %[[J]])
// CHECK-NEXT: "test.op"(%[[P]], %[[P]], %[[R]])
// CHECK:      "moe.concat"(%[[A]], %[[B]], %[[A]])
