// RUN: breccia-opt %s -p swap-operands | filecheck %s

// The weight is the first operand, its scales are those of rows, and the other operand's are turned.
// CHECK-LABEL: func.func @int4
// CHECK: schedule<operands = swapped>
// CHECK-NEXT: in (%x window [16, 128] at (m, k), %s window [16, 1] at (m, k), %w window [64, 64] at (n, k), %t window [64, 1] at (n, k))
// CHECK-NEXT: out (!breccia.tensor<[M, 96], bf16> window [16, 64] at (m, n))
// CHECK: %acc = full 0.0 [64, 16] : f32
// CHECK: step (%acc, %x, %s, %w, %t) {
// CHECK-NEXT: %w_1 = unpack %w order packed4 size 128 of 256 : i4
// CHECK-NEXT: %w_2 = convert %w_1 : bf16
// CHECK-NEXT: %p = dot nt %w_2, %x
// CHECK-NEXT: %q = binary mul %p, %t
// CHECK-NEXT: %[[S:.*]] = transpose %s [1, 0]
// CHECK-NEXT: %h = binary mul %q, %[[S]]
// CHECK-NEXT: %r = binary add %acc, %h
// CHECK-NEXT: yield %r
// CHECK: finish (%acc) {
// CHECK-NEXT: %[[T:.*]] = transpose %acc [1, 0]
// CHECK-NEXT: %y = convert %[[T]] : bf16
// CHECK-NEXT: yield %y
func.func @int4(%x: !breccia.tensor<[M, 256], bf16>, %s: !breccia.tensor<[M, 2], f32>, %w: !breccia.tensor<[96, 128], ui8>, %t: !breccia.tensor<[96, 2], f32>)
    -> !breccia.tensor<[M, 96], bf16> {
  %y = breccia.kernel "gemm_0" grid(m = ceildiv(M, 16), n = 2, k = 2 reduction) schedule<operands = swapped>
      in (%x window [16, 128] at (m, k), %s window [16, 1] at (m, k), %w window [64, 64] at (n, k), %t window [64, 1] at (n, k))
      out (!breccia.tensor<[M, 96], bf16> window [16, 64] at (m, n))
      init { %acc = full 0.0 [16, 64] : f32  yield %acc }
      step (%acc, %x, %s, %w, %t) {
        %w_1 = unpack %w order packed4 size 128 of 256 : i4  %w_2 = convert %w_1 : bf16
        %p = dot nt %x, %w_2
        %t_1 = transpose %t [1, 0]  %q = binary mul %p, %t_1  %h = binary mul %q, %s
        %r = binary add %acc, %h  yield %r
      }
      finish (%acc) { %y = convert %acc : bf16  yield %y }
  func.return %y : !breccia.tensor<[M, 96], bf16>
}

// A weight [K, N] is the first operand as it lies; a schedule that does not ask changes nothing.
// CHECK-LABEL: func.func @columns
// CHECK: dot tt %w, %x
// CHECK: dot nn %x, %w
func.func @columns(%x: !breccia.tensor<[M, 256], bf16>, %w: !breccia.tensor<[256, 96], bf16>)
    -> (!breccia.tensor<[M, 96], f32>, !breccia.tensor<[M, 96], f32>) {
  %y = breccia.kernel "gemm_0" grid(m = ceildiv(M, 16), n = 2, k = 2 reduction) schedule<operands = swapped>
      in (%x window [16, 128] at (m, k), %w window [128, 64] at (k, n))
      out (!breccia.tensor<[M, 96], f32> window [16, 64] at (m, n))
      init { %acc = full 0.0 [16, 64] : f32  yield %acc }
      step (%acc, %x, %w) { %p = dot nn %x, %w  %r = binary add %acc, %p  yield %r }
      finish (%acc) { yield %acc }
  %z = breccia.kernel "gemm_1" grid(m = ceildiv(M, 16), n = 2, k = 2 reduction)
      in (%x window [16, 128] at (m, k), %w window [128, 64] at (k, n))
      out (!breccia.tensor<[M, 96], f32> window [16, 64] at (m, n))
      init { %acc = full 0.0 [16, 64] : f32  yield %acc }
      step (%acc, %x, %w) { %p = dot nn %x, %w  %r = binary add %acc, %p  yield %r }
      finish (%acc) { yield %acc }
  func.return %y, %z : !breccia.tensor<[M, 96], f32>, !breccia.tensor<[M, 96], f32>
}
