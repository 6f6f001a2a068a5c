// FP8 with one scale a row and one a tensor, applied in the epilogue; the result is quantized 1x128 in the same kernel.
#a = #breccia.recipe<f8E4M3FN, f32 per [1, all]>
#w = #breccia.recipe<f8E4M3FN, f32 per [all, all]>
#out = #breccia.recipe<f8E4M3FN, f32 per [1, 128]>
#p = #breccia.policy<>
func.func @tiled(%a: !breccia.tensor<[M, 192], f8E4M3FN>, %sa: !breccia.tensor<[M, 1], f32>, %w: !breccia.tensor<[192, N], f8E4M3FN>, %sw: !breccia.tensor<[1, 1], f32>) -> (!breccia.tensor<[M, N], f8E4M3FN>, !breccia.tensor<[M, ceildiv(N, 128)], f32>) {
  %y, %sy = breccia.kernel "gemm" grid(m = ceildiv(M, 32), n = ceildiv(N, 128), k = 3 reduction)
    in (%a window [32, 64] at (m, k), %sa window [32, 1] at (m, 0), %w window [64, 128] at (k, n), %sw window [1, 1] at (0, 0))
    out (!breccia.tensor<[M, N], f8E4M3FN> window [32, 128] at (m, n), !breccia.tensor<[M, ceildiv(N, 128)], f32> window [32, 1] at (m, n))
    init {
      %acc = full 0.0 [32, 128] : f32
      yield %acc
    }
    step (%acc, %a, %w) {
      %p = dot nn %a, %w
      %r = binary add %acc, %p
      yield %r
    }
    finish (%acc, %sa, %sw) {
      %s = binary mul %sa, %sw
      %h = binary mul %acc, %s
      %g = unary exp %h
      %e, %se = encode %g policy #p to #out
      yield %e, %se
    }
  func.return %y, %sy : !breccia.tensor<[M, N], f8E4M3FN>, !breccia.tensor<[M, ceildiv(N, 128)], f32>
}
func.func @untiled(%a: !breccia.tensor<[M, 192], f8E4M3FN>, %sa: !breccia.tensor<[M, 1], f32>, %w: !breccia.tensor<[192, N], f8E4M3FN>, %sw: !breccia.tensor<[1, 1], f32>) -> (!breccia.tensor<[M, N], f8E4M3FN>, !breccia.tensor<[M, ceildiv(N, 128)], f32>) {
  %qa = breccia.assemble %a, %sa as !breccia.scaled<[M, 192], f32, #a>
  %qw = breccia.assemble %w, %sw as !breccia.scaled<[192, N], f32, #w>
  %p = breccia.matmul %qa, %qw
  %g = breccia.unary exp %p
  %q = breccia.quantize %g policy #p to #out
  %y, %sy = breccia.parts %q
  func.return %y, %sy : !breccia.tensor<[M, N], f8E4M3FN>, !breccia.tensor<[M, ceildiv(N, 128)], f32>
}
