// FP8 with scales of 1x128 and 128x128, applied in the main loop; bias and silu.
#a = #breccia.recipe<f8E4M3FN, f32 per [1, 128]>
#w = #breccia.recipe<f8E4M3FN, f32 per [128, 128]>
func.func @tiled(%a: !breccia.tensor<[M, 576], f8E4M3FN>, %sa: !breccia.tensor<[M, 5], f32>, %w: !breccia.tensor<[576, N], f8E4M3FN>, %sw: !breccia.tensor<[5, ceildiv(N, 128)], f32>, %bias: !breccia.tensor<[1, N], f32>) -> !breccia.tensor<[M, N], bf16> {
  %y = breccia.kernel "gemm" grid(m = ceildiv(M, 64), n = ceildiv(N, 128), k = 5 reduction) schedule<num_warps = 8, num_stages = 3>
    in (%a window [64, 128] at (m, k), %sa window [64, 1] at (m, k), %w window [128, 128] at (k, n), %sw window [1, 1] at (k, n), %bias window [1, 128] at (0, n))
    out (!breccia.tensor<[M, N], bf16> window [64, 128] at (m, n))
    init {
      %acc = full 0.0 [64, 128] : f32
      yield %acc
    }
    step (%acc, %a, %sa, %w, %sw) {
      %p = dot nn %a, %w
      %s = binary mul %sa, %sw
      %q = binary mul %p, %s
      %r = binary add %acc, %q
      yield %r
    }
    finish (%acc, %bias) {
      %h = binary add %acc, %bias
      %g = unary silu %h
      %y = convert %g : bf16
      yield %y
    }
  func.return %y : !breccia.tensor<[M, N], bf16>
}
func.func @untiled(%a: !breccia.tensor<[M, 576], f8E4M3FN>, %sa: !breccia.tensor<[M, 5], f32>, %w: !breccia.tensor<[576, N], f8E4M3FN>, %sw: !breccia.tensor<[5, ceildiv(N, 128)], f32>, %bias: !breccia.tensor<[1, N], f32>) -> !breccia.tensor<[M, N], bf16> {
  %qa = breccia.assemble %a, %sa as !breccia.scaled<[M, 576], f32, #a>
  %qw = breccia.assemble %w, %sw as !breccia.scaled<[576, N], f32, #w>
  %p = breccia.matmul %qa, %qw
  %h = breccia.binary add %p, %bias
  %g = breccia.unary silu %h
  %y = breccia.convert %g : bf16
  func.return %y : !breccia.tensor<[M, N], bf16>
}
