// MXFP8 through a scaled matrix instruction; the scales of a lie swizzled.
#a = #breccia.recipe<f8E4M3FN, f8E8M0FNU per [1, 32]>
#w = #breccia.recipe<f8E4M3FN, f8E8M0FNU per [32, 1]>
#l = #breccia.layout<elements = row_major, scale0 = swizzle_128x4>
func.func @tiled(%a: !breccia.tensor<[M, 192], f8E4M3FN>, %sa: !breccia.tensor<[ceildiv(M, 128), 2, 32, 16], f8E8M0FNU>, %w: !breccia.tensor<[192, N], f8E4M3FN>, %sw: !breccia.tensor<[6, N], f8E8M0FNU>) -> !breccia.tensor<[M, N], f32> {
  %y = breccia.kernel "gemm" grid(m = ceildiv(M, 128), n = ceildiv(N, 64), k = 2 reduction)
    in (%a window [128, 128] at (m, k), %sa window [1, 1, 32, 16] at (m, k, 0, 0), %w window [128, 64] at (k, n), %sw window [4, 64] at (k, n))
    out (!breccia.tensor<[M, N], f32> window [128, 64] at (m, n))
    init {
      %acc = full 0.0 [128, 64] : f32
      yield %acc
    }
    step (%acc, %a, %sa, %w, %sw) {
      %s = unswizzle %sa order swizzle_128x4 to [128, 4]
      %p = dot_scaled nn %a, %s, %w, %sw block 32
      %r = binary add %acc, %p
      yield %r
    }
    finish (%acc) {
      yield %acc
    }
  func.return %y : !breccia.tensor<[M, N], f32>
}
func.func @untiled(%a: !breccia.tensor<[M, 192], f8E4M3FN>, %sa: !breccia.tensor<[ceildiv(M, 128), 2, 32, 16], f8E8M0FNU>, %w: !breccia.tensor<[192, N], f8E4M3FN>, %sw: !breccia.tensor<[6, N], f8E8M0FNU>) -> !breccia.tensor<[M, N], f32> {
  %qa = breccia.assemble %a, %sa as !breccia.scaled<[M, 192], f32, #a, #l>
  %qw = breccia.assemble %w, %sw as !breccia.scaled<[192, N], f32, #w>
  %y = breccia.matmul %qa, %qw
  func.return %y : !breccia.tensor<[M, N], f32>
}
