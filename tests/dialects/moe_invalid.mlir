// What the verifiers of the `moe` dialect refuse: after each line of dashes one operation, with what is said of it. All
// of them read the values that stand here.

!element = f32
!vector = tensor<3xf32>
!narrow = tensor<3xbf16>
!pair = tensor<2xf32>
!matrix = tensor<2x3xf32>
!integers = tensor<3xi64>
!truths = tensor<3xi1>
!chosen = !moe.selection<2 : i64, 3 : i64, "full">
!some = !moe.selection<3 : i64, 3 : i64, "partial">
!far = !moe.selection<2 : i64, 9 : i64, "full">
%x = "test.op"() : () -> f32
%k = "test.op"() : () -> bf16
%i = "test.op"() : () -> i64
%v = "test.op"() : () -> !vector
%h = "test.op"() : () -> !narrow
%u = "test.op"() : () -> !pair
%m = "test.op"() : () -> !matrix
%n = "test.op"() : () -> !integers
%b = "test.op"() : () -> !truths
%s = "test.op"() : () -> !chosen
%p = "test.op"() : () -> !some
%f = "test.op"() : () -> !far

// ----- types

// ----- expected-error {{a selection is full or partial, not "most"}}
%z = "test.op"() : () -> !moe.selection<2 : i64, 3 : i64, "most">
// ----- expected-error {{"K" is not a number}}
%z = "test.op"() : () -> !moe.selection<"K", 3 : i64, "full">
// ----- expected-error {{no axis has a length of -1}}
%z = "test.op"() : () -> !moe.selection<-1 : i64, 3 : i64, "full">
// ----- expected-error {{tensor<?xf32> has not a formula for each axis}}
%y = "test.op"() : () -> tensor<?xf32>
%z = "moe.reshape"(%y) <{shape = [3 : i64]}> : (tensor<?xf32>) -> !vector
// ----- expected-error {{has not a formula for each axis}}
%y = "test.op"() : () -> tensor<?xf32, #moe.shape<"E, H">>
%z = "moe.reshape"(%y) <{shape = [3 : i64]}> : (tensor<?xf32, #moe.shape<"E, H">>) -> !vector
// ----- expected-error {{but got f64}}
%y = "test.op"() : () -> tensor<3xf64>
%z = "moe.reshape"(%y) <{shape = [3 : i64]}> : (tensor<3xf64>) -> tensor<3xf64>
// ----- expected-error {{operand 'operand' at position 0 does not verify}}
%z = "moe.reshape"(%s) <{shape = [3 : i64]}> : (!chosen) -> !vector
// ----- expected-error {{tensor<3xf32> should be of base attribute moe.selection}}
%z = "moe.ids"(%v) : (!vector) -> !integers

// ----- structure

// ----- expected-error {{there are 1 arguments for 2 inputs and parameters}}
"moe.layer"() <{sym_name = "a", inputs = ["x"], params = ["w"], outputs = ["y"], aux = [], types = ["f32"]}> ({
^bb0(%q: f32):
  "moe.return"(%q) : (f32) -> ()
}) : () -> ()
// ----- expected-error {{there are 2 returned values for 1 outputs}}
"moe.layer"() <{sym_name = "a", inputs = ["x"], params = [], outputs = ["y"], aux = [], types = ["f32"]}> ({
^bb0(%q: f32):
  "moe.return"(%q, %q) : (f32, f32) -> ()
}) : () -> ()
// ----- expected-error {{there are 2 element types for 1 returned values}}
"moe.layer"() <{sym_name = "a", inputs = ["x"], params = [], outputs = ["y"], aux = [], types = ["f32", "f32"]}> ({
^bb0(%q: f32):
  "moe.return"(%q) : (f32) -> ()
}) : () -> ()
// ----- expected-error {{no element type is called "f8"}}
"moe.layer"() <{sym_name = "a", inputs = ["x"], params = [], outputs = ["y"], aux = [], types = ["f8"]}> ({
^bb0(%q: f32):
  "moe.return"(%q) : (f32) -> ()
}) : () -> ()
// ----- expected-error {{f32 cannot leave as "i64"}}
"moe.layer"() <{sym_name = "a", inputs = ["x"], params = [], outputs = ["y"], aux = [], types = ["i64"]}> ({
^bb0(%q: f32):
  "moe.return"(%q) : (f32) -> ()
}) : () -> ()
// ----- expected-error {{there are 2 storage formats for 0 parameters}}
"moe.layer"() <{sym_name = "a", inputs = ["x"], params = [], outputs = ["y"], aux = [], types = ["f32"], storage = ["", ""]}> ({
^bb0(%q: f32):
  "moe.return"(%q) : (f32) -> ()
}) : () -> ()
// ----- expected-error {{no storage format is called "q9"}}
"moe.layer"() <{sym_name = "a", inputs = ["x"], params = ["w"], outputs = ["y"], aux = [], types = ["f32"], storage = ["q9"]}> ({
^bb0(%q: f32, %w: !matrix):
  "moe.return"(%q) : (f32) -> ()
}) : () -> ()
// ----- expected-error {{tensor<?xf32> has not a formula for each axis}}
"moe.layer"() <{sym_name = "a", inputs = ["x"], params = ["w"], outputs = ["y"], aux = [], types = ["f32"]}> ({
^bb0(%q: f32, %w: tensor<?xf32>):
  "moe.return"(%q) : (f32) -> ()
}) : () -> ()
// ----- expected-error {{entry arguments do not verify}}
"moe.layer"() <{sym_name = "a", inputs = ["x", "s"], params = [], outputs = ["y"], aux = [], types = ["f32"]}> ({
^bb0(%q: f32, %t: !chosen):
  "moe.return"(%q) : (f32) -> ()
}) : () -> ()
// ----- expected-error {{terminates with operation test.termop instead of moe.return}}
"moe.layer"() <{sym_name = "a", inputs = ["x"], params = [], outputs = ["y"], aux = [], types = ["f32"]}> ({
^bb0(%q: f32):
  "test.termop"() : () -> ()
}) : () -> ()
// ----- expected-error {{using value defined out of its IsolatedFromAbove parent}}
"moe.layer"() <{sym_name = "a", inputs = [], params = [], outputs = ["y"], aux = [], types = ["f32"]}> ({
  "moe.return"(%x) : (f32) -> ()
}) : () -> ()
// ----- expected-error {{'moe.return' expects parent op 'moe.layer'}}
"moe.return"() : () -> ()
// ----- expected-error {{'moe.yield' expects parent op to be one of}}
"moe.yield"(%x) : (f32) -> ()

// ----- numbers and pointwise work

// ----- expected-error {{but got tensor<3xf32>}}
%z = "moe.number"() <{value = 1 : i64, element = !vector}> : () -> !vector
// ----- expected-error {{"q" is not a number}}
%z = "moe.number"() <{value = "q", element = f32}> : () -> f32
// ----- expected-error {{but got i64}}
%z = "moe.cast"(%i) <{to = f32}> : (i64) -> f32
// ----- expected-error {{bf16 does not become f16}}
%z = "moe.cast"(%k) <{to = f16}> : (bf16) -> f16
// ----- expected-error {{nothing is mapped}}
%z = "moe.map"() ({
  "moe.yield"(%x) : (f32) -> ()
}) : () -> f32
// ----- expected-error {{tensor<2xf32> beside tensor<3xf32>}}
%z = "moe.map"(%v, %u) ({
^bb0(%c: f32, %d: f32):
  "moe.yield"(%c) : (f32) -> ()
}) : (!vector, !pair) -> !vector
// ----- expected-error {{f32 has no axis}}
%z = "moe.map"(%x) ({
^bb0(%c: f32):
  "moe.yield"(%c) : (f32) -> ()
}) : (f32) -> f32
// ----- expected-error {{there are 2 arguments for 1 operands}}
%z = "moe.map"(%v) ({
^bb0(%c: f32, %d: f32):
  "moe.yield"(%c) : (f32) -> ()
}) : (!vector) -> !vector
// ----- expected-error {{bf16 for an element of tensor<3xf32>}}
%z = "moe.map"(%v) ({
^bb0(%c: bf16):
  "moe.yield"(%c) : (bf16) -> ()
}) : (!vector) -> !narrow
// ----- expected-error {{an element becomes tensor<3xf32>}}
%z = "moe.map"(%v) ({
^bb0(%c: f32):
  "moe.yield"(%v) : (!vector) -> ()
}) : (!vector) -> !vector
// ----- expected-error {{Expected 1 result, but got 2}}
%z:2 = "moe.map"(%v) ({
^bb0(%c: f32):
  "moe.yield"(%c) : (f32) -> ()
}) : (!vector) -> (!vector, !vector)
// ----- expected-error {{Expected 1 operand, but got 2}}
%z = "moe.map"(%v) ({
^bb0(%c: f32):
  "moe.yield"(%c, %c) : (f32, f32) -> ()
}) : (!vector) -> !vector
// ----- expected-error {{'moe.return' expects parent op 'moe.layer'}}
%z = "moe.map"(%v) ({
^bb0(%c: f32):
  "moe.return"(%c) : (f32) -> ()
}) : (!vector) -> !vector
// ----- expected-error {{terminates with operation test.termop instead of moe.yield}}
%z = "moe.map"(%v) ({
^bb0(%c: f32):
  "test.termop"(%c) : (f32) -> ()
}) : (!vector) -> !vector
// ----- expected-error {{expected a single block, but got 2 blocks}}
%z = "moe.map"(%v) ({
^bb0(%c: f32):
  "moe.yield"(%c) : (f32) -> ()
^bb1:
  "moe.yield"(%x) : (f32) -> ()
}) : (!vector) -> !vector
// ----- expected-error {{results are tensor<3xbf16>, inferred tensor<3xf32>}}
%z = "moe.map"(%v) ({
^bb0(%c: f32):
  "moe.yield"(%c) : (f32) -> ()
}) : (!vector) -> !narrow
// ----- expected-error {{nothing is repeated to a scalar}}
%z = "moe.broadcast"(%x) <{shape = []}> : (f32) -> f32
// ----- expected-error {{tensor<3xf32> does not lead}}
%z = "moe.broadcast"(%v) <{shape = [2 : i64, 3 : i64]}> : (!vector) -> !matrix
// ----- expected-error {{no axis has a length of -3}}
%z = "moe.broadcast"(%x) <{shape = [-3 : i64]}> : (f32) -> !vector
// ----- expected-error {{no axis has a length of 3 / 2}}
%z = "moe.broadcast"(%x) <{shape = [#moe.dim<"3 / 2">]}> : (f32) -> !vector
// ----- expected-error {{tensor<2x3xf32> @ tensor<2xf32>}}
%z = "moe.contract"(%m, %u) : (!matrix, !pair) -> !pair
// ----- expected-error {{tensor<2x3xf32> @ tensor<2x3xf32>}}
%z = "moe.contract"(%m, %m) : (!matrix, !matrix) -> !pair
// ----- expected-error {{f32 @ tensor<3xf32>}}
%z = "moe.contract"(%x, %v) : (f32, !vector) -> f32
// ----- expected-error {{tensor<3xi64> holds no numbers that are multiplied}}
%z = "moe.contract"(%n, %n) : (!integers, !integers) -> f32
// ----- expected-error {{tensor<3xbf16> has not entered the weight's precision, f32}}
%z = "moe.contract"(%v, %h) : (!vector, !narrow) -> f32
// ----- expected-error {{Expected attribute "int8" but got "int4"}}
%z = "moe.contract"(%m, %v) <{activations = "int4"}> : (!matrix, !vector) -> !pair
// ----- expected-error {{Expected `sum`, `max`, or `min`}}
%z = "moe.reduce"(%v) <{kind = #moe<reduction product>, axis = 0 : i64}> : (!vector) -> f32
// ----- expected-error {{"sum" should be of base attribute moe.reduction}}
%z = "moe.reduce"(%v) <{kind = "sum", axis = 0 : i64}> : (!vector) -> f32
// ----- expected-error {{no axis 1 in tensor<3xf32>}}
%z = "moe.reduce"(%v) <{kind = #moe<reduction sum>, axis = 1 : i64}> : (!vector) -> f32
// ----- expected-error {{tensor<3xi1> holds neither f32 nor i64}}
%z = "moe.reduce"(%b) <{kind = #moe<reduction max>, axis = 0 : i64}> : (!truths) -> i1
// ----- expected-error {{tensor<3xbf16> holds neither f32 nor i64}}
%z = "moe.reduce"(%h) <{kind = #moe<reduction sum>, axis = 0 : i64}> : (!narrow) -> bf16
// ----- expected-error {{2 slots along an axis of 3}}
%z = "moe.reduce"(%v, %s) <{kind = #moe<reduction sum>, axis = 0 : i64}> : (!vector, !chosen) -> f32
// ----- expected-error {{slots stand along the first axis, not along axis 1}}
%z = "moe.reduce"(%m, %p) <{kind = #moe<reduction sum>, axis = 1 : i64}> : (!matrix, !some) -> !pair

// ----- the axis of tokens, in a layer: not every token comes to a region

// ----- expected-error {{'moe.batch' expects parent op 'moe.layer'}}
%z = "moe.sum"(%s) ({
^bb0(%e: i64, %slot: i64):
  %c = "moe.batch"(%x) <{kind = #moe<along sum>}> : (f32) -> f32
  "moe.yield"(%c) : (f32) -> ()
}) : (!chosen) -> f32
// ----- expected-error {{Expected `sum`, `max`, `min`, `cumsum`, `previous`, or `rank`}}
"moe.layer"() <{sym_name = "a", inputs = ["x"], params = [], outputs = ["y"], aux = [], types = ["f32"]}> ({
^bb0(%q: f32):
  %z = "moe.batch"(%q) <{kind = #moe<along mean>}> : (f32) -> f32
  "moe.return"(%z) : (f32) -> ()
}) : () -> ()
// ----- expected-error {{tensor<3xi1> holds neither f32 nor i64}}
"moe.layer"() <{sym_name = "a", inputs = ["x"], params = [], outputs = ["y"], aux = [], types = ["bool"]}> ({
^bb0(%q: !truths):
  %z = "moe.batch"(%q) <{kind = #moe<along max>}> : (!truths) -> !truths
  "moe.return"(%z) : (!truths) -> ()
}) : () -> ()
// ----- expected-error {{results are f32, inferred i64}}
"moe.layer"() <{sym_name = "a", inputs = ["x"], params = [], outputs = ["y"], aux = [], types = ["f32"]}> ({
^bb0(%q: f32):
  %z = "moe.batch"(%q) <{kind = #moe<along rank>}> : (f32) -> f32
  "moe.return"(%z) : (f32) -> ()
}) : () -> ()
// ----- expected-error {{`max` has no factors}}
"moe.layer"() <{sym_name = "a", inputs = ["x"], params = [], outputs = ["y"], aux = [], types = ["f32"]}> ({
^bb0(%q: !vector):
  %z = "moe.batch"(%q, %q) <{kind = #moe<along max>}> : (!vector, !vector) -> tensor<3x3xf32>
  "moe.return"(%z) : (tensor<3x3xf32>) -> ()
}) : () -> ()
// ----- expected-error {{tensor<2x3xf32> is not a vector}}
"moe.layer"() <{sym_name = "a", inputs = ["x"], params = [], outputs = ["y"], aux = [], types = ["f32"]}> ({
^bb0(%q: !matrix):
  %z = "moe.batch"(%q, %q) <{kind = #moe<along sum>}> : (!matrix, !matrix) -> tensor<2x3x2x3xf32>
  "moe.return"(%z) : (tensor<2x3x2x3xf32>) -> ()
}) : () -> ()
// ----- expected-error {{tensor<3xi64> holds no numbers that are multiplied}}
"moe.layer"() <{sym_name = "a", inputs = ["x"], params = [], outputs = ["y"], aux = [], types = ["f32"]}> ({
^bb0(%q: !integers):
  %z = "moe.batch"(%q, %q) <{kind = #moe<along sum>}> : (!integers, !integers) -> tensor<3x3xf32>
  "moe.return"(%z) : (tensor<3x3xf32>) -> ()
}) : () -> ()

// ----- axes

// ----- expected-error {{f32 has no axis}}
%z = "moe.extract"(%x, %i) : (f32, i64) -> f32
// ----- expected-error {{Expected attribute i64 but got f32}}
%z = "moe.extract"(%v, %x) : (!vector, f32) -> f32
// ----- expected-error {{"run" should be of base attribute unit}}
%z = "moe.extract"(%v, %i) <{checked = "run"}> : (!vector, i64) -> f32
// ----- expected-error {{f32 has no axis}}
%z = "moe.gather"(%x, %s) : (f32, !chosen) -> !pair
// ----- expected-error {{indices below 3 of an axis of 2}}
%z = "moe.gather"(%u, %s) : (!pair, !chosen) -> !pair
// ----- expected-error {{no axis 1 in tensor<3xf32>}}
%z = "moe.slice"(%v) <{axis = 1 : i64, offset = 0 : i64, size = 3 : i64, step = 1 : i64}> : (!vector) -> !vector
// ----- expected-error {{element 92 of an axis of 3}}
%z = "moe.slice"(%v) <{axis = 0 : i64, offset = 90 : i64, size = 3 : i64, step = 1 : i64}> : (!vector) -> !vector
// ----- expected-error {{element 4 of an axis of 3}}
%z = "moe.slice"(%v) <{axis = 0 : i64, offset = 0 : i64, size = 2 : i64, step = 4 : i64}> : (!vector) -> !pair
// ----- expected-error {{an offset of -1}}
%z = "moe.slice"(%v) <{axis = 0 : i64, offset = -1 : i64, size = 2 : i64, step = 1 : i64}> : (!vector) -> !pair
// ----- expected-error {{a step of 0}}
%z = "moe.slice"(%v) <{axis = 0 : i64, offset = 0 : i64, size = 2 : i64, step = 0 : i64}> : (!vector) -> !pair
// ----- expected-error {{no axis has a length of -1}}
%z = "moe.slice"(%v) <{axis = 0 : i64, offset = 0 : i64, size = -1 : i64, step = 1 : i64}> : (!vector) -> !vector
// ----- expected-error {{tensor<3xf32> as [2 : i64, 2 : i64]}}
%z = "moe.reshape"(%v) <{shape = [2 : i64, 2 : i64]}> : (!vector) -> tensor<2x2xf32>
// ----- expected-error {{f32 has no axis}}
%z = "moe.reshape"(%x) <{shape = [1 : i64]}> : (f32) -> tensor<1xf32>
// ----- expected-error {{tensor<3xf32> has no two axes}}
%z = "moe.transpose"(%v) : (!vector) -> !vector
// ----- expected-error {{nothing is joined}}
%z = "moe.concat"() <{axis = 0 : i64}> : () -> !vector
// ----- expected-error {{no axis 7 in tensor<3xf32>}}
%z = "moe.concat"(%v, %v) <{axis = 7 : i64}> : (!vector, !vector) -> tensor<6xf32>
// ----- expected-error {{no axis -1 in tensor<3xf32>}}
%z = "moe.concat"(%v, %v) <{axis = -1 : i64}> : (!vector, !vector) -> tensor<6xf32>
// ----- expected-error {{tensor<3xf32> beside tensor<2x3xf32>}}
%z = "moe.concat"(%m, %v) <{axis = 0 : i64}> : (!matrix, !vector) -> tensor<3x3xf32>
// ----- expected-error {{tensor<3xf32> beside tensor<3xi64>}}
%z = "moe.concat"(%n, %v) <{axis = 0 : i64}> : (!integers, !vector) -> tensor<6xi64>
// ----- expected-error {{tensor<2x2xf32> beside tensor<2x3xf32>}}
%y = "test.op"() : () -> tensor<2x2xf32>
%z = "moe.concat"(%m, %y) <{axis = 0 : i64}> : (!matrix, tensor<2x2xf32>) -> tensor<4x3xf32>
// ----- expected-error {{f32 has no axis}}
%z = "moe.top"(%x) <{count = 1 : i64}> : (f32) -> f32
// ----- expected-error {{the 4 largest of 3}}
%z = "moe.top"(%v) <{count = 4 : i64}> : (!vector) -> tensor<4xf32>
// ----- expected-error {{tensor<3xi1> holds nothing that is compared}}
%z = "moe.top"(%b) <{count = 3 : i64}> : (!truths) -> !truths

// ----- selections

// ----- expected-error {{tensor<2x3xf32> is not a vector}}
%z = "moe.topk"(%m) <{count = 1 : i64}> : (!matrix) -> !chosen
// ----- expected-error {{the 4 largest of 3}}
%z = "moe.topk"(%v) <{count = 4 : i64}> : (!vector) -> !chosen
// ----- expected-error {{tensor<3xi1> holds nothing that is compared}}
%z = "moe.topk"(%b) <{count = 2 : i64}> : (!truths) -> !chosen
// ----- expected-error {{2 slots along an axis of 3}}
%z = "moe.topk"(%v, %s) <{count = 2 : i64}> : (!vector, !chosen) -> !chosen
// ----- expected-error {{f32 is not a vector}}
%z = "moe.where"(%x) : (f32) -> !some
// ----- expected-error {{tensor<3xf32> does not say what holds}}
%z = "moe.where"(%v) : (!vector) -> !some
// ----- expected-error {{2 slots along an axis of 3}}
%z = "moe.where"(%b, %s) : (!truths, !chosen) -> !some
// ----- expected-error {{i64 is not a vector}}
%z = "moe.given"(%i) <{domain = 3 : i64}> : (i64) -> !some
// ----- expected-error {{tensor<3xf32> holds no indices}}
%z = "moe.given"(%v) <{domain = 3 : i64}> : (!vector) -> !some
// ----- expected-error {{results are !moe.selection<2 : i64, 3 : i64, "full">, inferred !moe.selection<6 : i64, 9 : i64, "partial">}}
%z = "moe.cross"(%s, %p) : (!chosen, !some) -> !chosen
// ----- expected-error {{Expected attribute i64 but got f32}}
%z = "moe.listed"(%x) <{domain = 3 : i64}> : (f32) -> !chosen
// ----- expected-error {{3..2 runs backwards}}
%z = "moe.range"() <{low = 3 : i64, high = 2 : i64}> : () -> !chosen
// ----- expected-error {{indices from -1 on}}
%z = "moe.range"() <{low = -1 : i64, high = 3 : i64}> : () -> !some
// ----- expected-error {{indices below 9 of 2 slots}}
%z = "moe.compose"(%s, %f) : (!chosen, !far) -> !chosen
// ----- expected-error {{results are tensor<3xi64>, inferred tensor<2xi64>}}
%z = "moe.ids"(%s) : (!chosen) -> !integers
// ----- expected-error {{Expected attribute i64 but got f32}}
%z = "moe.at"(%s, %x) : (!chosen, f32) -> i64
// ----- expected-error {{Expected attribute i1 but got i64}}
%z = "moe.contains"(%s, %i) : (!chosen, i64) -> i64
// ----- expected-error {{results are tensor<3xf32>, inferred tensor<3xi1>}}
%z = "moe.members"(%s) : (!chosen) -> !vector
// ----- expected-error {{results are tensor<3xi1>, inferred tensor<2xi1>}}
%z = "moe.filled"(%s) : (!chosen) -> !truths

// ----- regions

// ----- expected-error {{tensor<3xf32> should be of base attribute moe.selection}}
%z = "moe.sum"(%v) ({
^bb0(%e: i64, %slot: i64):
  "moe.yield"(%x) : (f32) -> ()
}) : (!vector) -> f32
// ----- expected-error {{entry arguments do not verify}}
%z = "moe.sum"(%s) ({
^bb0(%e: f32):
  "moe.yield"(%e) : (f32) -> ()
}) : (!chosen) -> f32
// ----- expected-error {{entry arguments do not verify}}
%z = "moe.sum"(%s) ({
^bb0(%e: i64):
  "moe.yield"(%e) : (i64) -> ()
}) : (!chosen) -> i64
// ----- expected-error {{tensor<3xi1> holds neither f32 nor i64}}
%z = "moe.sum"(%s) ({
^bb0(%e: i64, %slot: i64):
  "moe.yield"(%b) : (!truths) -> ()
}) : (!chosen) -> !truths
// ----- expected-error {{'moe.return' expects parent op 'moe.layer'}}
%z = "moe.sum"(%s) ({
^bb0(%e: i64, %slot: i64):
  "moe.return"(%x) : (f32) -> ()
}) : (!chosen) -> f32
// ----- expected-error {{Operation test.op terminates block in single-block region but is not a terminator}}
%z = "moe.sum"(%s) ({
^bb0(%e: i64, %slot: i64):
  %c = "test.op"() : () -> f32
}) : (!chosen) -> f32
// ----- expected-error {{contains empty block in single-block region that expects at least a terminator}}
%z = "moe.each"(%s) ({
^bb0(%e: i64, %slot: i64):
}) : (!chosen) -> !pair
// ----- expected-error {{entry arguments do not verify}}
%z = "moe.each"(%s) ({
  "moe.yield"(%x) : (f32) -> ()
}) : (!chosen) -> !pair
// ----- expected-error {{results are tensor<3xf32>, inferred tensor<2xf32>}}
%z = "moe.each"(%s) ({
^bb0(%e: i64, %slot: i64):
  "moe.yield"(%x) : (f32) -> ()
}) : (!chosen) -> !vector
// ----- expected-error {{there are 2 arms for 1 bounds}}
%z = "moe.match"(%i) <{bounds = [1 : i64]}> ({
  "moe.yield"(%x) : (f32) -> ()
}, {
  "moe.yield"(%x) : (f32) -> ()
}) : (i64) -> f32
// ----- expected-error {{there is no arm}}
%z = "moe.match"(%i) <{bounds = []}> : (i64) -> f32
// ----- expected-error {{entry arguments do not verify}}
%z = "moe.match"(%i) <{bounds = [1 : i64]}> ({
^bb0(%e: i64):
  "moe.yield"(%x) : (f32) -> ()
}) : (i64) -> f32
// ----- expected-error {{a bound of 1 after one of 2}}
%z = "moe.match"(%i) <{bounds = [2 : i64, 1 : i64]}> ({
  "moe.yield"(%x) : (f32) -> ()
}, {
  "moe.yield"(%x) : (f32) -> ()
}) : (i64) -> f32
// ----- expected-error {{"q" is not a number}}
%z = "moe.match"(%i) <{bounds = ["q"]}> ({
  "moe.yield"(%x) : (f32) -> ()
}) : (i64) -> f32
// ----- expected-error {{"q" is not a number}}
%z = "moe.match"(%i) <{bounds = [1 : i64], low = "q"}> ({
  "moe.yield"(%x) : (f32) -> ()
}) : (i64) -> f32
// ----- expected-error {{f32 beside tensor<3xf32>}}
%z = "moe.match"(%i) <{bounds = [1 : i64, 2 : i64]}> ({
  "moe.yield"(%v) : (!vector) -> ()
}, {
  "moe.yield"(%x) : (f32) -> ()
}) : (i64) -> !vector
