// Every operation of the `plan` dialect, and one product of each kind: what the verifiers accept.

!vector = tensor<40xbf16>
!sums = tensor<48xf32>
!some = !moe.selection<2 : i64, 4 : i64, "partial">

"plan.program"() <{sym_name = "p", inputs = ["x", "id"], params = ["up", "down"], outputs = ["y", "z"], aux = [], types = ["f32", "f32"]}> ({
^bb0(%tokens: !plan.domain, %x: !plan.rows<!vector>, %id: !plan.rows<i64>, %up: tensor<4x48x40xbf16>, %down: tensor<4x40x48xbf16>):
  %single = "plan.single"() : () -> !plan.domain

  // one matrix, for every token
  %shared = "plan.matmul"(%tokens, %x, %up) <{grouping = #plan<grouping none>, views = [["slice 0 1 2 1"]], keys = 1 : i64, n = 48 : i64, k = 40 : i64, dtype = "bf16", tile = "dot 8x48 kstep 2 lanes 16", operandSegmentSizes = array<i32: 1, 1, 0, 1>}> ({
  ^bb0(%row: index, %sum: !sums):
    "plan.yield"(%sum) : (!sums) -> ()
  }) : (!plan.domain, !plan.rows<!vector>, tensor<4x48x40xbf16>) -> !plan.rows<!sums>

  // the matrix of a key, in tiles
  %group = "plan.group"(%tokens, %id) <{keys = 4 : i64}> : (!plan.domain, !plan.rows<i64>) -> !plan.group
  %x_by_key = "plan.gather"(%tokens, %x, %group) <{grouping = #plan<grouping key>, keys = 4 : i64}> : (!plan.domain, !plan.rows<!vector>, !plan.group) -> !plan.rows<tensor<64xbf16>>
  %keyed = "plan.matmul"(%tokens, %x_by_key, %group, %up) <{grouping = #plan<grouping key>, views = [[]], keys = 4 : i64, n = 48 : i64, k = 40 : i64, dtype = "bf16", tile = "amx 32x32 kstep 2 lanes 16", operandSegmentSizes = array<i32: 1, 1, 1, 1>}> ({
  ^bb0(%row: index, %sum: !sums):
    "plan.yield"(%sum) : (!sums) -> ()
  }) : (!plan.domain, !plan.rows<tensor<64xbf16>>, !plan.group, tensor<4x48x40xbf16>) -> !plan.rows<!sums>

  // along the tokens
  %total = "plan.batch"(%tokens, %keyed, %single) <{kind = #moe<along sum>}> : (!plan.domain, !plan.rows<!sums>, !plan.domain) -> !plan.rows<!sums>
  %before = "plan.batch"(%tokens, %shared, %tokens) <{kind = #moe<along previous>}> : (!plan.domain, !plan.rows<!sums>, !plan.domain) -> !plan.rows<!sums>

  // the experts that a token chose, from tiles to tiles
  %chosen = "plan.rows"(%tokens) ({
  ^bb0(%row: index):
    %i = "plan.read"(%id, %row) : (!plan.rows<i64>, index) -> i64
    %ids = "moe.broadcast"(%i) <{shape = [2 : i64]}> : (i64) -> tensor<2xi64>
    %given = "moe.given"(%ids) <{domain = 4 : i64}> : (tensor<2xi64>) -> !some
    "plan.yield"(%given) : (!some) -> ()
  }) : (!plan.domain) -> !plan.rows<!some>
  %slots, %index, %slot = "plan.expand"(%tokens, %chosen) : (!plan.domain, !plan.rows<!some>) -> (!plan.domain, !plan.rows<i64>, !plan.rows<i64>)
  %x_by_index = "plan.gather"(%slots, %x) <{grouping = #plan<grouping index>, keys = 4 : i64}> : (!plan.domain, !plan.rows<!vector>) -> !plan.rows<tensor<64xbf16>>
  %hidden = "plan.matmul"(%slots, %x_by_index, %up) <{grouping = #plan<grouping index>, views = [[]], keys = 4 : i64, n = 48 : i64, k = 40 : i64, dtype = "bf16", tile = "amx 32x32 kstep 2 lanes 16", operandSegmentSizes = array<i32: 1, 1, 0, 1>, gathered}> ({
  ^bb0(%row: index, %sum: !sums):
    %rounded = "moe.map"(%sum) ({
    ^bb0(%element: f32):
      %narrow = arith.truncf %element : f32 to bf16
      "moe.yield"(%narrow) : (bf16) -> ()
    }) : (!sums) -> tensor<48xbf16>
    "plan.yield"(%rounded) : (tensor<48xbf16>) -> ()
  }) : (!plan.domain, !plan.rows<tensor<64xbf16>>, tensor<4x48x40xbf16>) -> !plan.rows<tensor<64xbf16>>
  %part = "plan.matmul"(%slots, %hidden, %down) <{grouping = #plan<grouping index>, views = [["cast bf16"]], keys = 4 : i64, n = 40 : i64, k = 48 : i64, dtype = "bf16", tile = "amx 32x32 kstep 2 lanes 16", operandSegmentSizes = array<i32: 1, 1, 0, 1>}> ({
  ^bb0(%row: index, %sum: tensor<40xf32>):
    "plan.yield"(%sum) : (tensor<40xf32>) -> ()
  }) : (!plan.domain, !plan.rows<tensor<64xbf16>>, tensor<4x40x48xbf16>) -> !plan.rows<tensor<40xf32>>

  // each token again
  %y, %z = "plan.rows"(%tokens) ({
  ^bb0(%row: index):
    %top = "plan.read"(%chosen, %row) : (!plan.rows<!some>, index) -> !some
    %mixed = "moe.sum"(%top) ({
    ^bb0(%e: i64, %number: i64):
      %at = "plan.descend"(%slots, %row, %number) : (!plan.domain, index, i64) -> index
      %one = "plan.read"(%part, %at) : (!plan.rows<tensor<40xf32>>, index) -> tensor<40xf32>
      "moe.yield"(%one) : (tensor<40xf32>) -> ()
    }) : (!some) -> tensor<40xf32>
    %all = "plan.read"(%total, %row) : (!plan.rows<!sums>, index) -> !sums
    "plan.yield"(%mixed, %all) : (tensor<40xf32>, !sums) -> ()
  }) : (!plan.domain) -> (!plan.rows<tensor<40xf32>>, !plan.rows<!sums>)
  "plan.return"(%y, %z) : (!plan.rows<tensor<40xf32>>, !plan.rows<!sums>) -> ()
}) : () -> ()
