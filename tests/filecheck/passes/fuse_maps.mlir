// RUN: moec opt %s -p fuse-maps | filecheck %s

// A chain of maps is one map. One that two others read is computed once, so it stays.

// CHECK:       %[[TWICE:.*]] = "moe.map"(%x) ({
// CHECK-NEXT:  ^bb0(%[[A:.*]]: f32):
// CHECK-NEXT:    math.exp %[[A]] : f32
// CHECK-NEXT:    "moe.yield"
// CHECK-NEXT:  }) : (tensor<6xf32>) -> tensor<6xf32>
// CHECK-NEXT:  %[[Y:.*]] = "moe.map"(%[[TWICE]], %x) ({
// CHECK-NEXT:  ^bb0(%[[B:.*]]: f32, %[[C:.*]]: f32):
// CHECK-NEXT:    %[[N:.*]] = arith.negf %[[B]] : f32
// CHECK-NEXT:    %[[T:.*]] = math.tanh %[[N]] : f32
// CHECK-NEXT:    %[[P:.*]] = arith.mulf %[[T]], %[[C]] : f32
// CHECK-NEXT:    "moe.yield"(%[[P]])
// CHECK-NEXT:  }) : (tensor<6xf32>, tensor<6xf32>) -> tensor<6xf32>
// CHECK-NEXT:  "moe.return"(%[[TWICE]], %[[Y]])
"moe.layer"() <{sym_name = "layer", inputs = ["x"], params = [], outputs = ["u", "y"], aux = [], types = ["f32", "f32"]}> ({
^bb0(%x: tensor<6xf32>):
  %u = "moe.map"(%x) ({
  ^bb0(%a: f32):
    %b = math.exp %a : f32
    "moe.yield"(%b) : (f32) -> ()
  }) : (tensor<6xf32>) -> tensor<6xf32>
  %v = "moe.map"(%u) ({
  ^bb0(%a: f32):
    %b = arith.negf %a : f32
    "moe.yield"(%b) : (f32) -> ()
  }) : (tensor<6xf32>) -> tensor<6xf32>
  %w = "moe.map"(%v) ({
  ^bb0(%a: f32):
    %b = math.tanh %a : f32
    "moe.yield"(%b) : (f32) -> ()
  }) : (tensor<6xf32>) -> tensor<6xf32>
  %y = "moe.map"(%w, %x) ({
  ^bb0(%a: f32, %b: f32):
    %c = arith.mulf %a, %b : f32
    "moe.yield"(%c) : (f32) -> ()
  }) : (tensor<6xf32>, tensor<6xf32>) -> tensor<6xf32>
  "moe.return"(%u, %y) : (tensor<6xf32>, tensor<6xf32>) -> ()
}) : () -> ()
