// RUN: moec opt %s -p schedule | filecheck %s

// What goes along the tokens is a stage between stages: what it reads is stored before, what it leaves is read after.

// CHECK:       %[[L:.*]] = "plan.matmul"(%[[T:.*]], %x, %router)
// CHECK:       %[[P:.*]] = "plan.rows"(%[[T]])
// CHECK:       %[[C:.*]] = "plan.batch"(%[[T]], %[[P]], %[[T]]) <{kind = #moe<along cumsum>}> : (!plan.domain, !plan.rows<tensor<8xf32>>, !plan.domain) -> !plan.rows<tensor<8xf32>>
// CHECK:       %[[R:.*]] = "plan.batch"(%[[T]], %[[C]], %[[T]]) <{kind = #moe<along rank>}> : (!plan.domain, !plan.rows<tensor<8xf32>>, !plan.domain) -> !plan.rows<tensor<8xi64>>
// CHECK:       "plan.return"(%[[R]])
"moe.layer"() <{sym_name = "layer", inputs = ["x"], params = ["router"], outputs = ["y"], aux = [], types = ["i64"]}> ({
^bb0(%x: tensor<64xf32>, %router: tensor<8x64xf32>):
  %l = "moe.contract"(%router, %x) : (tensor<8x64xf32>, tensor<64xf32>) -> tensor<8xf32>
  %top = "moe.top"(%l) <{count = 8 : i64}> : (tensor<8xf32>) -> tensor<8xf32>
  %c = "moe.batch"(%top) <{kind = #moe<along cumsum>}> : (tensor<8xf32>) -> tensor<8xf32>
  %r = "moe.batch"(%c) <{kind = #moe<along rank>}> : (tensor<8xf32>) -> tensor<8xi64>
  "moe.return"(%r) : (tensor<8xi64>) -> ()
}) : () -> ()
