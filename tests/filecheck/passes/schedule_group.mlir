// RUN: moec opt %s -p 'schedule{target="x86_64-unknown-linux-gnu:x86-64-v3:"}' | filecheck %s

// A matrix that an input of the token picks: the rows are grouped by that key. The slice and the transpose of the
// parameter become steps of its packing, not of the run.

// CHECK:       ^bb0(%[[T:.*]]: !plan.domain, %x: !plan.rows<tensor<64xf32>>, %id: !plan.rows<i64>, %w: tensor<8x64x32xf32>):
// CHECK-NEXT:  %[[BY:.*]] = "plan.group"(%[[T]], %id) <{keys = 8 : i64}>
// CHECK-NEXT:  "plan.matmul"(%[[T]], %x, %[[BY]], %w) <{grouping = #plan<grouping key>, views = {{\[\["slice 2 0 24 1", "transpose"\]\]}}, keys = 8 : i64, n = 24 : i64, k = 64 : i64, dtype = "f32", tile = "fma {{.*}}lanes 8"
// CHECK-NOT:   "moe.slice"
"moe.layer"() <{sym_name = "layer", inputs = ["x", "id"], params = ["w"], outputs = ["y"], aux = [], types = ["f32"]}> ({
^bb0(%x: tensor<64xf32>, %id: i64, %w: tensor<8x64x32xf32>):
  %m = "moe.extract"(%w, %id) : (tensor<8x64x32xf32>, i64) -> tensor<64x32xf32>
  %s = "moe.slice"(%m) <{axis = 1 : i64, offset = 0 : i64, size = 24 : i64, step = 1 : i64}> : (tensor<64x32xf32>) -> tensor<64x24xf32>
  %t = "moe.transpose"(%s) : (tensor<64x24xf32>) -> tensor<24x64xf32>
  %y = "moe.contract"(%t, %x) : (tensor<24x64xf32>, tensor<64xf32>) -> tensor<24xf32>
  "moe.return"(%y) : (tensor<24xf32>) -> ()
}) : () -> ()
