// RMS norm over whole rows, its result quantized to MXFP8.
#r = #breccia.recipe<f8E4M3FN, f8E8M0FNU per [1, 32]>
#p = #breccia.policy<scale = ceil, zero_scale = smallest>
func.func @tiled(%x: !breccia.tensor<[M, 208], bf16>, %g: !breccia.tensor<[1, 208], f32>) -> (!breccia.tensor<[M, 208], f8E4M3FN>, !breccia.tensor<[M, 7], f8E8M0FNU>) {
  %y, %sy = breccia.kernel "rowwise" grid(m = ceildiv(M, 8))
    in (%x window [8, 208] at (m, 0), %g window [1, 208] at (0, 0))
    out (!breccia.tensor<[M, 208], f8E4M3FN> window [8, 208] at (m, 0), !breccia.tensor<[M, 7], f8E8M0FNU> window [8, 7] at (m, 0))
    finish (%x, %g) {
      %f = convert %x : f32
      %s = unary square %f
      %t = reduce sum %s axis [1]
      %n = full 208.0 [1, 1] : f32
      %u = binary div %t, %n
      %eps = full 1.0e-06 [1, 1] : f32
      %v = binary add %u, %eps
      %r = unary rsqrt %v
      %h = binary mul %f, %r
      %w = binary mul %h, %g
      %e, %se = encode %w policy #p to #r
      yield %e, %se
    }
  func.return %y, %sy : !breccia.tensor<[M, 208], f8E4M3FN>, !breccia.tensor<[M, 7], f8E8M0FNU>
}
func.func @untiled(%x: !breccia.tensor<[M, 208], bf16>, %g: !breccia.tensor<[1, 208], f32>) -> (!breccia.tensor<[M, 208], f8E4M3FN>, !breccia.tensor<[M, 7], f8E8M0FNU>) {
  %f = breccia.convert %x : f32
  %s = breccia.unary square %f
  %t = breccia.reduce sum %s axis [1]
  %n = breccia.full 208.0 [1, 1] : f32
  %u = breccia.binary div %t, %n
  %eps = breccia.full 1.0e-06 [1, 1] : f32
  %v = breccia.binary add %u, %eps
  %r = breccia.unary rsqrt %v
  %h = breccia.binary mul %f, %r
  %w = breccia.binary mul %h, %g
  %q = breccia.quantize %w policy #p to #r
  %y, %sy = breccia.parts %q
  func.return %y, %sy : !breccia.tensor<[M, 208], f8E4M3FN>, !breccia.tensor<[M, 7], f8E8M0FNU>
}
