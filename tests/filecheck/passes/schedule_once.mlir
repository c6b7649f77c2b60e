// RUN: moec opt %s -p schedule | filecheck %s

// What is made of parameters alone is computed for the domain of one row, and read for every token.

// CHECK:       %[[D:.*]] = "plan.single"() : () -> !plan.domain
// CHECK-NEXT:  %[[S:.*]] = "plan.rows"(%[[D]]) ({
// CHECK:         "moe.reduce"(%b)
// CHECK:       }) : (!plan.domain) -> !plan.rows<f32>
// CHECK:       "plan.rows"(%{{.*}}) ({
// CHECK:         "plan.read"(%[[S]], %{{.*}}) : (!plan.rows<f32>, index) -> f32
// CHECK-NOT:     moe.reduce
"moe.layer"() <{sym_name = "layer", inputs = ["x"], params = ["b"], outputs = ["y"], aux = [], types = ["f32"]}> ({
^bb0(%x: tensor<64xf32>, %b: tensor<8xf32>):
  %s = "moe.reduce"(%b) <{kind = #moe<reduction sum>, axis = 0 : i64}> : (tensor<8xf32>) -> f32
  %y = "moe.map"(%x) ({
  ^bb1(%a: f32):
    %c = arith.mulf %a, %s : f32
    "moe.yield"(%c) : (f32) -> ()
  }) : (tensor<64xf32>) -> tensor<64xf32>
  "moe.return"(%y) : (tensor<64xf32>) -> ()
}) : () -> ()
