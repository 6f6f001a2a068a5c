// RUN: breccia-opt %s -p split-decode | filecheck %s

// Both operands are decoded once; the transposed one is turned, so that its values lie as rows of n.
// CHECK-LABEL: func.func @mxfp8
// CHECK: %a_values = breccia.kernel "decode_{{[0-9]+}}" grid(m = ceildiv(M, 32), k = 2)
// CHECK-NEXT: in (%a_elements window [32, 64] at (m, k), %a_scale window [32, 2] at (m, k))
// CHECK-NEXT: out (!breccia.tensor<[M, 96], bf16> window [32, 64] at (m, k))
// CHECK: %[[A:.*]] = convert %{{.*}} : bf16
// CHECK-NEXT: yield %[[A]]
// CHECK: %w_values = breccia.kernel "decode_{{[0-9]+}}" grid(n = 3, k = 2)
// CHECK-NEXT: in (%w_elements window [32, 64] at (n, k), %w_scale window [32, 2] at (n, k))
// CHECK-NEXT: out (!breccia.tensor<[96, 70], bf16> window [64, 32] at (k, n))
// CHECK: %[[W:.*]] = convert %{{.*}} : bf16
// CHECK-NEXT: %[[T:.*]] = transpose %[[W]] [1, 0]
// CHECK-NEXT: yield %[[T]]
// CHECK: breccia.kernel "gemm_0" grid(m = ceildiv(M, 32), n = 3, k = 2 reduction)
// CHECK-NEXT: in (%a_values window [32, 64] at (m, k), %w_values window [64, 32] at (k, n))
// CHECK: step (%acc, %a_values, %w_values) {
// CHECK-NEXT: dot nn %a_values, %w_values
func.func @mxfp8(%a_elements: !breccia.tensor<[M, 96], f8E4M3FN>, %a_scale: !breccia.tensor<[M, 3], f8E8M0FNU>,
                 %w_elements: !breccia.tensor<[70, 96], f8E4M3FN>, %w_scale: !breccia.tensor<[70, 3], f8E8M0FNU>)
    -> !breccia.tensor<[M, 70], f32> {
  %y = breccia.kernel "gemm_0" grid(m = ceildiv(M, 32), n = 3, k = 2 reduction) schedule<decode = apart>
      in (%a_elements window [32, 64] at (m, k), %a_scale window [32, 2] at (m, k),
          %w_elements window [32, 64] at (n, k), %w_scale window [32, 2] at (n, k))
      out (!breccia.tensor<[M, 70], f32> window [32, 32] at (m, n))
      init { %acc = full 0.0 [32, 32] : f32  yield %acc }
      step (%acc, %a_elements, %a_scale, %w_elements, %w_scale) {
        %a_1 = convert %a_elements : f32  %a_2 = convert %a_scale : f32  %a_3 = expand %a_2 axis 1 by 32 to 64
        %a_4 = binary mul %a_1, %a_3  %a = convert %a_4 : bf16
        %w_1 = convert %w_elements : f32  %w_2 = convert %w_scale : f32  %w_3 = expand %w_2 axis 1 by 32 to 64
        %w_4 = binary mul %w_1, %w_3  %w = convert %w_4 : bf16
        %p = dot nt %a, %w  %r = binary add %acc, %p  yield %r
      }
      finish (%acc) { yield %acc }
  func.return %y : !breccia.tensor<[M, 70], f32>
}

// Elements of a byte are multiplied as rows of k: a weight [K, N] is turned, and its scales still wait.
// CHECK-LABEL: func.func @rows_of_k
// CHECK: %w_values = breccia.kernel "decode_{{[0-9]+}}" grid(n = 3, k = 2)
// CHECK-NEXT: in (%w_elements window [64, 32] at (k, n))
// CHECK-NEXT: out (!breccia.tensor<[70, 96], f8E4M3FN> window [32, 64] at (n, k))
// CHECK-NEXT: finish (%w_elements) {
// CHECK-NEXT: transpose %w_elements [1, 0]
// CHECK: in (%a window [32, 64] at (m, k), %scale window [1, 32] at (0, n), %w_values window [32, 64] at (n, k))
// CHECK: dot nt %a, %w_values
// CHECK: finish (%acc, %scale)
func.func @rows_of_k(%a: !breccia.tensor<[M, 96], f8E4M3FN>, %w_elements: !breccia.tensor<[96, 70], f8E4M3FN>, %scale: !breccia.tensor<[1, 70], f32>)
    -> !breccia.tensor<[M, 70], f32> {
  %y = breccia.kernel "gemm_0" grid(m = ceildiv(M, 32), n = 3, k = 2 reduction) schedule<decode = apart>
      in (%a window [32, 64] at (m, k), %w_elements window [64, 32] at (k, n), %scale window [1, 32] at (0, n))
      out (!breccia.tensor<[M, 70], f32> window [32, 32] at (m, n))
      init { %acc = full 0.0 [32, 32] : f32  yield %acc }
      step (%acc, %a, %w_elements) { %p = dot nn %a, %w_elements  %r = binary add %acc, %p  yield %r }
      finish (%acc, %scale) { %q = binary mul %acc, %scale  yield %q }
  func.return %y : !breccia.tensor<[M, 70], f32>
}

// A schedule that does not ask for it.
// CHECK-LABEL: func.func @unasked
// CHECK-NOT: decode_
// CHECK: dot nn
func.func @unasked(%a: !breccia.tensor<[M, 96], bf16>, %w: !breccia.tensor<[96, 70], f8E4M3FN>) -> !breccia.tensor<[M, 70], f32> {
  %y = breccia.kernel "gemm_0" grid(m = ceildiv(M, 32), n = 3, k = 2 reduction) schedule<num_warps = 4>
      in (%a window [32, 64] at (m, k), %w window [64, 32] at (k, n))
      out (!breccia.tensor<[M, 70], f32> window [32, 32] at (m, n))
      init { %acc = full 0.0 [32, 32] : f32  yield %acc }
      step (%acc, %a, %w) { %v = convert %w : bf16  %p = dot nn %a, %v  %r = binary add %acc, %p  yield %r }
      finish (%acc) { yield %acc }
  func.return %y : !breccia.tensor<[M, 70], f32>
}

// An operand that is made of carried values is another one in every step, and one that lies right needs no kernel.
// CHECK-LABEL: func.func @carried
// CHECK-NOT: decode_
// CHECK: dot nn %v, %w
func.func @carried(%x: !breccia.tensor<[64, 64], f32>, %w: !breccia.tensor<[64, 64], f32>) -> !breccia.tensor<[64, 64], f32> {
  %y = breccia.kernel "power_0" grid(k = 3 reduction) schedule<decode = apart>
      in (%x window [64, 64] at (0, 0), %w window [64, 64] at (0, 0))
      out (!breccia.tensor<[64, 64], f32> window [64, 64] at (0, 0))
      init { %acc = full 1.0 [64, 64] : f32  yield %acc }
      step (%acc, %x, %w) { %v = binary mul %acc, %x  %p = dot nn %v, %w  yield %p }
      finish (%acc) { yield %acc }
  func.return %y : !breccia.tensor<[64, 64], f32>
}

// The rows of a group are a segment, which starts where a table says; its weights are decoded for all groups at once.
// CHECK-LABEL: func.func @groups
// CHECK-NOT: %x_values
// CHECK: %w_values = breccia.kernel "decode_{{[0-9]+}}" grid(e = 3, n = 3, k = 1)
// CHECK: breccia.kernel "grouped_0"
// CHECK: %x window [16, 32] at (m, k) within axis 0
// CHECK: %[[X:.*]] = convert %x : bf16
// CHECK-NEXT: dot nn %[[X]], %w_values
func.func @groups(%x: !breccia.tensor<[T, 32], f8E4M3FN>, %w: !breccia.tensor<[3, 32, 70], f8E4M3FN>, %o: !breccia.tensor<[4], i32>)
    -> !breccia.tensor<[T, 70], f32> {
  %y = breccia.kernel "grouped_0" grid(e = 3, m = ceildiv(T, 16), n = 3, k = 1 reduction) schedule<decode = apart>
      in (%o, %x window [16, 32] at (m, k) within axis 0 %o[e] to %o[e + 1], %w window [one, 32, 32] at (e, k, n))
      out (!breccia.tensor<[T, 70], f32> window [16, 32] at (m, n) within axis 0 %o[e] to %o[e + 1] combine add)
      init { %acc = full 0.0 [16, 32] : f32  yield %acc }
      step (%acc, %x, %w) {
        %a = convert %x : bf16  %b = convert %w : bf16  %p = dot nn %a, %b  %r = binary add %acc, %p  yield %r
      }
      finish (%acc) { yield %acc }
  func.return %y : !breccia.tensor<[T, 70], f32>
}
