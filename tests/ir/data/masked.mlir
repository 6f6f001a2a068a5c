// What a target that leaves garbage outside of tensors runs: masks where elements are summed.
func.func @tiled(%a: !breccia.tensor<[M, 100], bf16>, %b: !breccia.tensor<[100, N], bf16>) -> (!breccia.tensor<[M, N], f32>, !breccia.tensor<[M, ceildiv(N, 32)], f32>) {
  %y, %z = breccia.kernel "gemm" grid(m = ceildiv(M, 16), n = ceildiv(N, 32), k = 4 reduction)
    in (%a window [16, 32] at (m, k), %b window [32, 32] at (k, n))
    out (!breccia.tensor<[M, N], f32> window [16, 32] at (m, n), !breccia.tensor<[M, ceildiv(N, 32)], f32> window [16, 1] at (m, n))
    init {
      %acc = full 0.0 [16, 32] : f32
      yield %acc
    }
    step (%acc, %a, %b) {
      %am = mask %a axis 1 valid 100 - k * 32 value 0.0
      %bm = mask %b axis 0 valid 100 - k * 32 value 0.0
      %d = dot nn %am, %bm
      %r = binary add %acc, %d
      yield %r
    }
    finish (%acc) {
      %e = unary sigmoid %acc
      %m = mask %e axis 1 valid N - n * 32 value 0.0
      %s = reduce sum %m axis [1]
      yield %acc, %s
    }
  func.return %y, %z : !breccia.tensor<[M, N], f32>, !breccia.tensor<[M, ceildiv(N, 32)], f32>
}
