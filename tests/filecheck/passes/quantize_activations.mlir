// RUN: moec opt %s -p 'quantize-activations,schedule{target="x86_64-unknown-linux-gnu:znver4:"}' | filecheck %s
// RUN: moec opt %s -p 'quantize-activations,widen-activations{target="x86_64-unknown-linux-gnu:cooperlake:"}' | filecheck %s --check-prefix MARK

// A product with a stored weight takes a quantised vector, in panels of the integer kernels; one with a dense weight
// stays as it is. The vector itself is not touched: nothing is widened for a kernel that quantises.

// CHECK:      "plan.matmul"(%{{.*}}, %x, %v) {{.*}}tile = "int8 64x48 kstep 4 lanes 16", storage = "q8_0"
// CHECK:      "plan.matmul"(%{{.*}}, %x, %w) {{.*}}tile = "dot 8x48 kstep 2 lanes 16", operandSegmentSizes

// MARK:       "moe.contract"(%v, %x) <{activations = "int8"}>
// MARK:       "moe.contract"(%w, %{{.*}}) : (tensor<48x64xbf16>, tensor<64xf32>)
"moe.layer"() <{sym_name = "layer", inputs = ["x"], params = ["v", "w"], outputs = ["a", "b"], aux = [], types = ["f32", "f32"], storage = ["q8_0", ""]}> ({
^bb0(%x: tensor<64xbf16>, %v: tensor<48x64xbf16>, %w: tensor<48x64xbf16>):
  %a = "moe.contract"(%v, %x) : (tensor<48x64xbf16>, tensor<64xbf16>) -> tensor<48xf32>
  %b = "moe.contract"(%w, %x) : (tensor<48x64xbf16>, tensor<64xbf16>) -> tensor<48xf32>
  "moe.return"(%a, %b) : (tensor<48xf32>, tensor<48xf32>) -> ()
}) : () -> ()
