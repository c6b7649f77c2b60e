// RUN: moec opt %s -p 'widen-activations{target="x86_64-unknown-linux-gnu:cooperlake:"}' | filecheck %s
// RUN: moec opt %s -p 'widen-activations{target="x86_64-unknown-linux-gnu:znver4:"}' | filecheck %s --check-prefix DOT

// Where bf16 weights are widened in the inner loop, the vector is stored wide, once for all that read it. Where pairs of
// bf16 are multiplied, and beside a weight that is computed for each token, nothing changes.

// CHECK:       %[[WIDE:.*]] = "moe.map"(%x) ({
// CHECK:       arith.extf
// CHECK:       }) : (tensor<6xbf16>) -> tensor<6xf32>
// CHECK-NOT:   "moe.map"
// CHECK:       "moe.contract"(%v, %[[WIDE]])
// CHECK:       "moe.contract"(%w, %[[WIDE]])
// CHECK:       "moe.contract"(%{{.*}}, %x) : (tensor<4x6xbf16>, tensor<6xbf16>)

// DOT-COUNT-2: "moe.contract"(%{{[vw]}}, %x) : (tensor<4x6xbf16>, tensor<6xbf16>) -> tensor<4xf32>
"moe.layer"() <{sym_name = "layer", inputs = ["x"], params = ["v", "w"], outputs = ["a", "b", "c"], aux = [], types = ["f32", "f32", "f32"]}> ({
^bb0(%x: tensor<6xbf16>, %v: tensor<4x6xbf16>, %w: tensor<4x6xbf16>):
  %a = "moe.contract"(%v, %x) : (tensor<4x6xbf16>, tensor<6xbf16>) -> tensor<4xf32>
  %b = "moe.contract"(%w, %x) : (tensor<4x6xbf16>, tensor<6xbf16>) -> tensor<4xf32>
  %m = "moe.broadcast"(%x) <{shape = [6 : i64, 6 : i64]}> : (tensor<6xbf16>) -> tensor<6x6xbf16>
  %n = "moe.slice"(%m) <{axis = 0 : i64, offset = 0 : i64, size = 4 : i64, step = 1 : i64}> : (tensor<6x6xbf16>) -> tensor<4x6xbf16>
  %c = "moe.contract"(%n, %x) : (tensor<4x6xbf16>, tensor<6xbf16>) -> tensor<4xf32>
  "moe.return"(%a, %b, %c) : (tensor<4xf32>, tensor<4xf32>, tensor<4xf32>) -> ()
}) : () -> ()
