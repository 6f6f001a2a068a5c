// Programs share output windows: sums over four parts of k, and the largest absolute value of all.
func.func @tiled(%a: !breccia.tensor<[M, 100], f32>, %b: !breccia.tensor<[100, N], f32>) -> (!breccia.tensor<[M, N], f32>, !breccia.tensor<[1, 1], f32>) {
  %y, %z = breccia.kernel "gemm" grid(p = 4 sequential, m = ceildiv(M, 16), n = ceildiv(N, 32))
    in (%a window [16, 32] at (m, p), %b window [32, 32] at (p, n))
    out (!breccia.tensor<[M, N], f32> window [16, 32] at (m, n) combine add, !breccia.tensor<[1, 1], f32> window [1, 1] at (0, 0) combine max)
    finish (%a, %b) {
      %d = dot nn %a, %b
      %x = reduce amax %a axis [0, 1]
      yield %d, %x
    }
  func.return %y, %z : !breccia.tensor<[M, N], f32>, !breccia.tensor<[1, 1], f32>
}
func.func @untiled(%a: !breccia.tensor<[M, 100], f32>, %b: !breccia.tensor<[100, N], f32>) -> (!breccia.tensor<[M, N], f32>, !breccia.tensor<[1, 1], f32>) {
  %y = breccia.matmul %a, %b
  %z = breccia.reduce amax %a axis [0, 1]
  func.return %y, %z : !breccia.tensor<[M, N], f32>, !breccia.tensor<[1, 1], f32>
}
