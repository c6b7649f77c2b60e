// RUN: moec opt %s -p 'keep-aux{names="b"},dce' | filecheck %s
// RUN: moec opt %s -p 'keep-aux,dce' | filecheck %s --check-prefix NONE

// Who asks for `b` gets it as the only one; what only `a` needed is dead.

// CHECK:       outputs = ["y"], aux = ["b"], types = ["f32", "f32"]
// CHECK-NOT:   reduction max
// CHECK:       %b = "moe.reduce"(%x) <{kind = #moe<reduction min>, axis = 0 : i64}>
// CHECK-NEXT:  "moe.return"(%x, %b) : (tensor<6xf32>, f32) -> ()

// NONE:        aux = [], types = ["f32"]
// NONE-NOT:    "moe.reduce"
// NONE:        "moe.return"(%x) : (tensor<6xf32>) -> ()
"moe.layer"() <{sym_name = "layer", inputs = ["x"], params = [], outputs = ["y"], aux = ["a", "b"], types = ["f32", "bf16", "f32"]}> ({
^bb0(%x: tensor<6xf32>):
  %a = "moe.reduce"(%x) <{kind = #moe<reduction max>, axis = 0 : i64}> : (tensor<6xf32>) -> f32
  %b = "moe.reduce"(%x) <{kind = #moe<reduction min>, axis = 0 : i64}> : (tensor<6xf32>) -> f32
  "moe.return"(%x, %a, %b) : (tensor<6xf32>, f32, f32) -> ()
}) : () -> ()
