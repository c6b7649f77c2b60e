// RUN: moec opt %s -p 'schedule{target="x86_64-unknown-linux-gnu:sapphirerapids:"},fold-gathers' | filecheck %s

// Where products go through tiles, rows are gathered. What one product makes for another one only, it leaves gathered
// by itself: 40 columns and 24 zeros. What somebody else reads too, here the caller, is copied.

// CHECK:       %[[X:.*]] = "plan.gather"(%[[T:.*]], %x)
// CHECK-NEXT:  %[[H:.*]] = "plan.matmul"(%[[T]], %[[X]], %up) {{.*}}n = 40 : i64, k = 64 : i64, {{.*}}gathered}>
// CHECK:       }) : ({{.*}}) -> !plan.rows<tensor<64xbf16>>
// CHECK-NEXT:  %[[M:.*]] = "plan.matmul"(%[[T]], %[[H]], %down)
// CHECK-NOT:   gathered
// CHECK:       %[[G:.*]] = "plan.gather"(%[[T]], %[[M]])
// CHECK-NEXT:  "plan.matmul"(%[[T]], %[[G]], %last)
"moe.layer"() <{sym_name = "layer", inputs = ["x"], params = ["up", "down", "last"], outputs = ["m", "y"], aux = [], types = ["bf16", "f32"]}> ({
^bb0(%x: tensor<64xbf16>, %up: tensor<40x64xbf16>, %down: tensor<64x40xbf16>, %last: tensor<16x64xbf16>):
  %s = "moe.contract"(%up, %x) : (tensor<40x64xbf16>, tensor<64xbf16>) -> tensor<40xf32>
  %h = "moe.map"(%s) ({
  ^bb0(%a: f32):
    %b = arith.truncf %a : f32 to bf16
    "moe.yield"(%b) : (bf16) -> ()
  }) : (tensor<40xf32>) -> tensor<40xbf16>
  %t = "moe.contract"(%down, %h) : (tensor<64x40xbf16>, tensor<40xbf16>) -> tensor<64xf32>
  %m = "moe.map"(%t) ({
  ^bb0(%c: f32):
    %d = arith.truncf %c : f32 to bf16
    "moe.yield"(%d) : (bf16) -> ()
  }) : (tensor<64xf32>) -> tensor<64xbf16>
  %y = "moe.contract"(%last, %m) : (tensor<16x64xbf16>, tensor<64xbf16>) -> tensor<16xf32>
  "moe.return"(%m, %y) : (tensor<64xbf16>, tensor<16xf32>) -> ()
}) : () -> ()
