// RUN: breccia-opt %s --target pallas:v6e -p insert-masks | filecheck %s --check-prefixes=CHECK,GARBAGE
// RUN: breccia-opt %s --target triton:sm_90 -p insert-masks | filecheck %s --check-prefixes=CHECK,ZERO

// Garbage outside must not be summed; zeros add nothing.
// CHECK-LABEL: func.func @dot
func.func @dot(%a: !breccia.tensor<[M, 100], f32>, %w: !breccia.tensor<[100, 128], f32>) -> !breccia.tensor<[M, 128], f32> {
  // CHECK: step (%acc, %a, %w) {
  // GARBAGE-NEXT: %[[A:.*]] = mask %a axis 1 valid 100 - (k * 64) value 0.0
  // GARBAGE-NEXT: %[[W:.*]] = mask %w axis 0 valid 100 - (k * 64) value 0.0
  // GARBAGE-NEXT: dot nn %[[A]], %[[W]]
  // ZERO-NEXT: dot nn %a, %w
  %y = breccia.kernel "gemm_0" grid(m = ceildiv(M, 64), k = 2 reduction)
      in (%a window [64, 64] at (m, k), %w window [64, 128] at (k, 0))
      out (!breccia.tensor<[M, 128], f32> window [64, 128] at (m, 0))
      init { %acc = full 0.0 [64, 128] : f32  yield %acc }
      step (%acc, %a, %w) { %p = dot nn %a, %w  %r = binary add %acc, %p  yield %r }
      finish (%acc) { yield %acc }
  func.return %y : !breccia.tensor<[M, 128], f32>
}

// exp makes 1 of 0, so the mask stands after it, also where a fetch gives zeros.
// CHECK-LABEL: func.func @exp
func.func @exp(%x: !breccia.tensor<[M, 100], f32>) -> !breccia.tensor<[M, 1], f32> {
  // CHECK: %e = unary exp %x
  // CHECK-NEXT: %[[E:.*]] = mask %e axis 1 valid 100 value 0.0
  // CHECK-NEXT: reduce sum %[[E]] axis [1]
  %y = breccia.kernel "rowwise_0" grid(m = ceildiv(M, 8)) in (%x window [8, 128] at (m, 0))
      out (!breccia.tensor<[M, 1], f32> window [8, 1] at (m, 0))
      finish (%x) { %e = unary exp %x  %y = reduce sum %e axis [1]  yield %y }
  func.return %y : !breccia.tensor<[M, 1], f32>
}

// Tiles that end with the axis, and ops that look at one element at a time, need nothing.
// CHECK-LABEL: func.func @none
func.func @none(%x: !breccia.tensor<[M, 128], f32>) -> !breccia.tensor<[M, 1], f32> {
  // CHECK-NOT: mask
  // CHECK: func.return
  %y = breccia.kernel "rowwise_0" grid(m = ceildiv(M, 8)) in (%x window [8, 128] at (m, 0))
      out (!breccia.tensor<[M, 1], f32> window [8, 1] at (m, 0))
      finish (%x) { %e = unary exp %x  %y = reduce sum %e axis [1]  yield %y }
  func.return %y : !breccia.tensor<[M, 1], f32>
}
