// RUN: breccia-opt %s -p partition | filecheck %s

#p = #breccia.policy<scale = ceil, zero_scale = smallest>
#mx = #breccia.recipe<f8E4M3FN, f8E8M0FNU per [1, 32]>
#mxt = #breccia.recipe<f8E4M3FN, f8E8M0FNU per [32, 1]>
#row = #breccia.recipe<f8E4M3FN, f32 per [1, all]>

// Elementwise ops and a quantization in blocks follow the product into its kernel; the residual is read as bf16.
// CHECK-LABEL: func.func @epilogue
func.func @epilogue(%a: !breccia.scaled<[M, 64], bf16, #mx>, %w: !breccia.scaled<[64, 96], bf16, #mxt>, %r: !breccia.tensor<[M, 96], bf16>) -> !breccia.scaled<[M, 96], f32, #mx> {
  // CHECK-NEXT: %q = breccia.kernel "gemm_0"
  // CHECK-NEXT: in (%a, %w, %r)
  // CHECK-NEXT: out (!breccia.scaled<[M, 96], f32, #{{.*}}>)
  // CHECK-NEXT: body (%a, %w, %r) {
  // CHECK-NEXT: %h = matmul %a, %w
  // CHECK-NEXT: %f = convert %r : f32
  // CHECK-NEXT: %s = binary add %h, %f
  // CHECK-NEXT: %q = quantize %s
  // CHECK-NEXT: yield %q
  %f = breccia.convert %r : f32
  %h = breccia.matmul %a, %w
  %s = breccia.binary add %h, %f
  %q = breccia.quantize %s policy #p to #mx
  func.return %q : !breccia.scaled<[M, 96], f32, #mx>
}

// A scale for a whole row needs whole rows, which no tile of a product has.
// CHECK-LABEL: func.func @rows
func.func @rows(%a: !breccia.tensor<[M, 64], f32>, %w: !breccia.tensor<[64, 96], f32>) -> !breccia.scaled<[M, 96], f32, #row> {
  // CHECK-NEXT: [[H:%.*]] = breccia.kernel "gemm_1"
  // CHECK: %q = breccia.kernel "rowwise_0"
  // CHECK-NEXT: in ([[H]])
  %h = breccia.matmul %a, %w
  %q = breccia.quantize %h policy #breccia.policy<> to #row
  func.return %q : !breccia.scaled<[M, 96], f32, #row>
}

// Softmax after a product: the scaling goes to the product, the rest needs whole rows. One kernel for all of it.
// CHECK-LABEL: func.func @softmax
func.func @softmax(%a: !breccia.tensor<[M, 64], f32>, %w: !breccia.tensor<[64, N], f32>) -> !breccia.tensor<[M, N], bf16> {
  // CHECK-NEXT: %t = breccia.kernel "gemm_2"
  // CHECK: binary mul
  // CHECK-NEXT: yield
  // CHECK: %y = breccia.kernel "rowwise_1"
  // CHECK-NEXT: in (%t)
  // CHECK-NEXT: out (!breccia.tensor<[M, N], bf16>)
  // CHECK-NEXT: body
  // CHECK-NEXT: reduce max
  // CHECK-NEXT: binary sub
  // CHECK-NEXT: unary exp
  // CHECK-NEXT: reduce sum
  // CHECK-NEXT: binary div
  // CHECK-NEXT: convert
  // CHECK-NEXT: yield
  %h = breccia.matmul %a, %w
  %c = breccia.full 0.125 [] : f32
  %t = breccia.binary mul %h, %c
  %m = breccia.reduce max %t axis [1]
  %d = breccia.binary sub %t, %m
  %e = breccia.unary exp %d
  %s = breccia.reduce sum %e axis [1]
  %p = breccia.binary div %e, %s
  %y = breccia.convert %p : bf16
  func.return %y : !breccia.tensor<[M, N], bf16>
}

// The square is read by the sum alone, so it is made where the sum is, not written by the product.
// CHECK-LABEL: func.func @sum_of_squares
func.func @sum_of_squares(%a: !breccia.tensor<[M, 64], f32>, %w: !breccia.tensor<[64, N], f32>) -> !breccia.tensor<[M, 1], f32> {
  // CHECK-NEXT: [[H:%.*]] = breccia.kernel "gemm_3"
  // CHECK-NEXT: in (%a, %w)
  // CHECK-NEXT: out (!breccia.tensor<[M, N], f32>)
  // CHECK: breccia.kernel "rowwise_2"
  // CHECK: unary square
  // CHECK-NEXT: reduce sum
  %h = breccia.matmul %a, %w
  %q = breccia.unary square %h
  %s = breccia.reduce sum %q axis [1]
  func.return %s : !breccia.tensor<[M, 1], f32>
}

// Convexity: the last op reads the product and what was computed from it elsewhere, so it cannot join the product.
// CHECK-LABEL: func.func @convex
func.func @convex(%a: !breccia.tensor<[M, 64], f32>, %w: !breccia.tensor<[64, N], f32>) -> !breccia.tensor<[M, N], f32> {
  // CHECK: breccia.kernel "gemm_4"
  // CHECK-NEXT: in (%a, %w)
  // CHECK: body
  // CHECK-NEXT: matmul
  // CHECK-NEXT: yield
  // CHECK: breccia.kernel "rowwise_3"
  // CHECK: reduce sum
  // CHECK-NEXT: binary sub
  %h = breccia.matmul %a, %w
  %s = breccia.reduce sum %h axis [1]
  %y = breccia.binary sub %h, %s
  func.return %y : !breccia.tensor<[M, N], f32>
}

// A reduction of all axes is a kernel of its own with what only it reads; its result is used by another one.
// CHECK-LABEL: func.func @whole
func.func @whole(%x: !breccia.tensor<[M, 64], bf16>) -> !breccia.tensor<[M, 64], f32> {
  // CHECK-NEXT: [[A:%.*]] = breccia.kernel "reduce_0"
  // CHECK-NEXT: in (%x)
  // CHECK-NEXT: out (!breccia.tensor<[1, 1], f32>)
  // CHECK: unary abs
  // CHECK-NEXT: reduce max
  // CHECK-NEXT: yield
  // CHECK: breccia.kernel "rowwise_4"
  // CHECK-NEXT: in (%x, [[A]])
  %f = breccia.convert %x : f32
  %b = breccia.unary abs %f
  %m = breccia.reduce max %b axis [0, 1]
  %y = breccia.binary div %f, %m
  func.return %y : !breccia.tensor<[M, 64], f32>
}

// Rows of one tensor and rows of another one are different work.
// CHECK-LABEL: func.func @other_rows
func.func @other_rows(%x: !breccia.tensor<[M, 64], f32>, %z: !breccia.tensor<[N, 64], f32>) -> (!breccia.tensor<[M, 64], f32>, !breccia.tensor<[N, 64], f32>) {
  // CHECK: breccia.kernel "rowwise_5"
  // CHECK: breccia.kernel "rowwise_6"
  %a = breccia.unary neg %x
  %b = breccia.unary neg %z
  func.return %a, %b : !breccia.tensor<[M, 64], f32>, !breccia.tensor<[N, 64], f32>
}

// Siblings share a kernel with two results.
// CHECK-LABEL: func.func @siblings
func.func @siblings(%x: !breccia.tensor<[M, 64], f32>) -> (!breccia.scaled<[M, 64], f32, #mx>, !breccia.scaled<[M, 64], f32, #mxt>) {
  // CHECK-NEXT: %q, %r = breccia.kernel "rowwise_7"
  // CHECK: quantize %x
  // CHECK-NEXT: quantize %x
  // CHECK-NEXT: yield %q, %r
  %q = breccia.quantize %x policy #p to #mx {breccia.group = "quantize0"}
  %r = breccia.quantize %x policy #p to #mxt {breccia.group = "quantize0"}
  func.return %q, %r : !breccia.scaled<[M, 64], f32, #mx>, !breccia.scaled<[M, 64], f32, #mxt>
}

// The transpose of an operand goes into the product's kernel; other views stay between kernels. A dead op makes nothing.
// CHECK-LABEL: func.func @views
func.func @views(%a: !breccia.tensor<[2, M, 64], f32>, %w: !breccia.scaled<[2, N, 64], f32, #breccia.recipe<f8E4M3FN, f32 per [1, 1, 32]>>) -> !breccia.tensor<[M, 2, N], f32> {
  // CHECK-NEXT: [[S:%.*]] = breccia.kernel "gemm_5"
  // CHECK-NEXT: in (%a, %w)
  // CHECK-NEXT: out (!breccia.tensor<[2, M, N], f32>)
  // CHECK: transpose %w [0, 2, 1]
  // CHECK-NEXT: matmul
  // CHECK-NEXT: unary relu
  // CHECK-NEXT: yield
  // CHECK: breccia.transpose [[S]] [1, 0, 2]
  // CHECK-NEXT: func.return
  %t = breccia.transpose %w [0, 2, 1]
  %h = breccia.matmul %a, %t
  %s = breccia.unary relu %h
  %dead = breccia.unary exp %s
  %y = breccia.transpose %s [1, 0, 2]
  func.return %y : !breccia.tensor<[M, 2, N], f32>
}

// Groups of rows begin anywhere: a block of rows could belong to two.
// CHECK-LABEL: func.func @grouped
func.func @grouped(%x: !breccia.tensor<[T, 64], f32>, %w: !breccia.tensor<[4, 64, 32], f32>, %o: !breccia.tensor<[5], i32>) -> (!breccia.scaled<[T, 32], f32, #mx>, !breccia.scaled<[T, 32], f32, #mxt>) {
  // CHECK: breccia.kernel "grouped_0"
  // CHECK: grouped_matmul
  // CHECK-NEXT: quantize
  // CHECK-NEXT: yield
  // CHECK: breccia.kernel "rowwise_8"
  // CHECK: quantize
  %h = breccia.grouped_matmul %x, %w, %o
  %q = breccia.quantize %h policy #p to #mx
  %r = breccia.quantize %h policy #p to #mxt
  func.return %q, %r : !breccia.scaled<[T, 32], f32, #mx>, !breccia.scaled<[T, 32], f32, #mxt>
}
