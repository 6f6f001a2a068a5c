// RUN: not breccia-opt %s 2>&1 | filecheck %s

// A dropped tail of k is found without data.
// CHECK: kernel gemm: %a: block 4 of axis 1 is never read by window [64, 128] at (m, k) (1 of 5 blocks are not)
func.func @dropped_tail(%a: !breccia.tensor<[M, 576], bf16>, %b: !breccia.tensor<[576, 64], bf16>) -> !breccia.tensor<[M, 64], f32> {
  %y = breccia.kernel "gemm" grid(m = ceildiv(M, 64), k = 4 reduction)
    in (%a window [64, 128] at (m, k), %b window [128, 64] at (k, 0))
    out (!breccia.tensor<[M, 64], f32> window [64, 64] at (m, 0))
    init { %acc = full 0.0 [64, 64] : f32  yield %acc }
    step (%acc, %a, %b) { %p = dot nn %a, %b  %r = binary add %acc, %p  yield %r }
    finish (%acc) { yield %acc }
  func.return %y : !breccia.tensor<[M, 64], f32>
}
