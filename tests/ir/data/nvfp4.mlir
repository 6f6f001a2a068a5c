// NVFP4 on both sides: blocks of 16 decoded on load, the scales of the tensors in the epilogue.
#a = #breccia.recipe<f4E2M1FN, f32 per [all, all], f8E4M3FN per [1, 16]>
#w = #breccia.recipe<f4E2M1FN, f32 per [all, all], f8E4M3FN per [16, 1]>
#l = #breccia.layout<elements = packed4, scale0 = row_major, scale1 = row_major>
func.func @tiled(%a: !breccia.tensor<[M, 128], ui8>, %ga: !breccia.tensor<[1, 1], f32>, %sa: !breccia.tensor<[M, 16], f8E4M3FN>, %w: !breccia.tensor<[256, 48], ui8>, %gw: !breccia.tensor<[1, 1], f32>, %sw: !breccia.tensor<[16, 96], f8E4M3FN>) -> !breccia.tensor<[M, 96], f32> {
  %y = breccia.kernel "gemm" grid(m = ceildiv(M, 32), n = 2, k = 2 reduction)
    in (%a window [32, 64] at (m, k), %ga window [1, 1] at (0, 0), %sa window [32, 8] at (m, k), %w window [128, 32] at (k, n), %gw window [1, 1] at (0, 0), %sw window [8, 64] at (k, n))
    out (!breccia.tensor<[M, 96], f32> window [32, 64] at (m, n))
    init {
      %acc = full 0.0 [32, 64] : f32
      yield %acc
    }
    step (%acc, %a, %sa, %w, %sw) {
      %e = unpack %a order packed4 size 128 : f4E2M1FN
      %ef = convert %e : f32
      %s = convert %sa : f32
      %sx = expand %s axis 1 by 16 to 128
      %x = binary mul %ef, %sx
      %f = unpack %w order packed4 size 64 : f4E2M1FN
      %ff = convert %f : f32
      %t = convert %sw : f32
      %tx = expand %t axis 0 by 16 to 128
      %b = binary mul %ff, %tx
      %p = dot nn %x, %b
      %r = binary add %acc, %p
      yield %r
    }
    finish (%acc, %ga, %gw) {
      %h = binary mul %acc, %ga
      %y = binary mul %h, %gw
      yield %y
    }
  func.return %y : !breccia.tensor<[M, 96], f32>
}
func.func @untiled(%a: !breccia.tensor<[M, 128], ui8>, %ga: !breccia.tensor<[1, 1], f32>, %sa: !breccia.tensor<[M, 16], f8E4M3FN>, %w: !breccia.tensor<[256, 48], ui8>, %gw: !breccia.tensor<[1, 1], f32>, %sw: !breccia.tensor<[16, 96], f8E4M3FN>) -> !breccia.tensor<[M, 96], f32> {
  %qa = breccia.assemble %a, %ga, %sa as !breccia.scaled<[M, 256], f32, #a, #l>
  %qw = breccia.assemble %w, %gw, %sw as !breccia.scaled<[256, 96], f32, #w, #l>
  %y = breccia.matmul %qa, %qw
  func.return %y : !breccia.tensor<[M, 96], f32>
}
