// Packed INT4 in groups of 64 along k, with packed zero points and f16 scales, decoded on load.
#w = #breccia.recipe<ui4, f16 per [64, 1], zero ui4>
#l = #breccia.layout<elements = packed4, scale0 = row_major, zero_point = packed4>
func.func @tiled(%x: !breccia.tensor<[M, 320], bf16>, %w: !breccia.tensor<[320, ceildiv(N, 2)], ui8>, %sw: !breccia.tensor<[5, N], f16>, %z: !breccia.tensor<[5, ceildiv(N, 2)], ui8>) -> !breccia.tensor<[M, N], f32> {
  %y = breccia.kernel "gemm" grid(m = ceildiv(M, 32), n = ceildiv(N, 64), k = 5 reduction)
    in (%x window [32, 64] at (m, k), %w window [64, 32] at (k, n), %sw window [1, 64] at (k, n), %z window [1, 32] at (k, n))
    out (!breccia.tensor<[M, N], f32> window [32, 64] at (m, n))
    init {
      %acc = full 0.0 [32, 64] : f32
      yield %acc
    }
    step (%acc, %x, %w, %sw, %z) {
      %a = convert %x : f32
      %e = unpack %w order packed4 size 64 : ui4
      %ef = convert %e : f32
      %ze = unpack %z order packed4 size 64 : ui4
      %zf = convert %ze : f32
      %d = binary sub %ef, %zf
      %s = convert %sw : f32
      %b = binary mul %d, %s
      %p = dot nn %a, %b
      %r = binary add %acc, %p
      yield %r
    }
    finish (%acc) {
      yield %acc
    }
  func.return %y : !breccia.tensor<[M, N], f32>
}
func.func @untiled(%x: !breccia.tensor<[M, 320], bf16>, %w: !breccia.tensor<[320, ceildiv(N, 2)], ui8>, %sw: !breccia.tensor<[5, N], f16>, %z: !breccia.tensor<[5, ceildiv(N, 2)], ui8>) -> !breccia.tensor<[M, N], f32> {
  %q = breccia.assemble %w, %sw, %z as !breccia.scaled<[320, N], f32, #w, #l>
  %y = breccia.matmul %x, %q
  func.return %y : !breccia.tensor<[M, N], f32>
}
