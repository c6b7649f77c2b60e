// RUN: moec opt %s -p gather-constants,schedule | filecheck %s

// Products that read what the tokens add up to leave the sum of the tokens: the domain of one row is expanded by the
// range, and one row has the stack of its results.

// CHECK:       ^bb0(%[[T:.*]]: !plan.domain, %x
// CHECK:       %[[D:.*]] = "plan.single"() : () -> !plan.domain
// CHECK-NEXT:  %[[R:.*]] = "plan.rows"(%[[D]])
// CHECK:       %[[Z:.*]] = "plan.batch"(%[[T]], %x, %[[D]]) <{kind = #moe<along sum>}>
// CHECK-NEXT:  %[[S:.*]], %[[I:.*]], %{{.*}} = "plan.expand"(%[[D]], %[[R]])
// CHECK:       %[[M:.*]] = "plan.matmul"(%[[S]], %[[Z]], %up) <{grouping = #plan<grouping index>
// CHECK:       %[[A:.*]] = "plan.rows"(%[[D]])
// CHECK:         "plan.descend"(%[[S]],
// CHECK:         "plan.read"(%[[M]],
// CHECK:       }) : (!plan.domain) -> !plan.rows<tensor<4x8xf32>>
// CHECK-NEXT:  "plan.rows"(%[[T]])
// CHECK:         "plan.read"(%[[A]], %{{.*}}) : (!plan.rows<tensor<4x8xf32>>, index)
// CHECK:         "moe.sum"
"moe.layer"() <{sym_name = "layer", inputs = ["x"], params = ["up"], outputs = ["y"], aux = [], types = ["f32"]}> ({
^bb0(%x: tensor<16xf32>, %up: tensor<4x8x16xf32>):
  %z = "moe.batch"(%x) <{kind = #moe<along sum>}> : (tensor<16xf32>) -> tensor<16xf32>
  %r = "moe.range"() <{low = 0 : i64, high = 4 : i64}> : () -> !moe.selection<4 : i64, 4 : i64, "full">
  %y = "moe.sum"(%r) ({
  ^bb1(%e: i64, %slot: i64):
    %u = "moe.extract"(%up, %e) : (tensor<4x8x16xf32>, i64) -> tensor<8x16xf32>
    %h = "moe.contract"(%u, %z) : (tensor<8x16xf32>, tensor<16xf32>) -> tensor<8xf32>
    %w = "moe.extract"(%x, %e) : (tensor<16xf32>, i64) -> f32
    %s = "moe.map"(%h) ({
    ^bb2(%a: f32):
      %b = arith.mulf %a, %w : f32
      "moe.yield"(%b) : (f32) -> ()
    }) : (tensor<8xf32>) -> tensor<8xf32>
    "moe.yield"(%s) : (tensor<8xf32>) -> ()
  }) : (!moe.selection<4 : i64, 4 : i64, "full">) -> tensor<8xf32>
  "moe.return"(%y) : (tensor<8xf32>) -> ()
}) : () -> ()
