// RUN: moec opt %s -p 'specialize{dims="H=6","E=4" real=bf16}' | filecheck %s
// RUN: moec opt %s -p 'specialize{dims="H=6","E=4" real=f32}' | filecheck %s --check-prefix WIDE

// Dimensions and `real` get values in types, properties and constants; casts become upstream's, or nothing.

// CHECK:       "moe.layer"() <{{.*}}types = ["bf16", "i64"]
// CHECK-NEXT:  ^bb0(%x: tensor<6xbf16>, %w: tensor<4x6xbf16>, %e: i64):
// CHECK-NOT:   #moe
// CHECK-NOT:   !moe.real
// CHECK-DAG:   arith.constant 1.500000e+00 : f32
// CHECK-DAG:   arith.constant 24 : i64
// CHECK:       "moe.contract"(%w, %x) : (tensor<4x6xbf16>, tensor<6xbf16>) -> tensor<4xf32>
// CHECK:       arith.truncf %{{.*}} : f32 to bf16
// CHECK:       "moe.slice"(%{{.*}}) <{axis = 0 : i64, offset = 0 : i64, size = 2 : i64, step = 1 : i64}>
// CHECK-SAME:  -> tensor<2xbf16>
// CHECK:       "moe.topk"(%{{.*}}) <{count = 1 : i64}> : (tensor<4xf32>) -> !moe.selection<1 : i64, 4 : i64, "full">

// WIDE:        "moe.layer"() <{{.*}}types = ["f32", "i64"]
// WIDE-NOT:    arith.truncf
// WIDE-NOT:    arith.extf
// WIDE:        -> tensor<2xf32>
"moe.layer"() <{sym_name = "layer", inputs = ["x"], params = ["w", "e"], outputs = ["y"], aux = ["top"], types = ["real", "i64"]}> ({
^bb0(%x: tensor<?x!moe.real, #moe.shape<"H">>, %w: tensor<?x?x!moe.real, #moe.shape<"E, H">>, %e: i64):
  %half = "moe.number"() <{value = #moe.dim<"H / 4">, element = f32}> : () -> f32
  %n = "moe.number"() <{value = #moe.dim<"E*H">, element = i64}> : () -> i64
  %s = "moe.contract"(%w, %x) : (tensor<?x?x!moe.real, #moe.shape<"E, H">>, tensor<?x!moe.real, #moe.shape<"H">>) -> tensor<?xf32, #moe.shape<"E">>
  %r = "moe.map"(%s) ({
  ^bb0(%a: f32):
    %b = arith.mulf %a, %half : f32
    %c = "moe.cast"(%b) <{to = !moe.real}> : (f32) -> !moe.real
    "moe.yield"(%c) : (!moe.real) -> ()
  }) : (tensor<?xf32, #moe.shape<"E">>) -> tensor<?x!moe.real, #moe.shape<"E">>
  %y = "moe.slice"(%r) <{axis = 0 : i64, offset = 0 : i64, size = #moe.dim<"E / 2">, step = 1 : i64}> : (tensor<?x!moe.real, #moe.shape<"E">>) -> tensor<?x!moe.real, #moe.shape<"E / 2">>
  %top = "moe.topk"(%s) <{count = 1 : i64}> : (tensor<?xf32, #moe.shape<"E">>) -> !moe.selection<1 : i64, #moe.dim<"E">, "full">
  %ids = "moe.ids"(%top) : (!moe.selection<1 : i64, #moe.dim<"E">, "full">) -> tensor<1xi64>
  "moe.return"(%y, %ids) : (tensor<?x!moe.real, #moe.shape<"E / 2">>, tensor<1xi64>) -> ()
}) : () -> ()
