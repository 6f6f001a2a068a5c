// Rows in ragged groups, each times its own weight.
#x = #breccia.recipe<f8E4M3FN, f32 per [1, 128]>
#w = #breccia.recipe<f8E4M3FN, f32 per [1, 128, 128]>
func.func @tiled(%x: !breccia.tensor<[T, 256], f8E4M3FN>, %sx: !breccia.tensor<[T, 2], f32>, %w: !breccia.tensor<[E, 256, 192], f8E4M3FN>, %sw: !breccia.tensor<[E, 2, 2], f32>, %off: !breccia.tensor<[E + 1], i32>) -> !breccia.tensor<[T, 192], bf16> {
  %y = breccia.kernel "grouped" grid(e = E, m = ceildiv(T, 32), n = 2, k = 2 reduction)
    in (%off, %x window [32, 128] at (m, k) within axis 0 %off[e] to %off[e + 1], %sx window [32, 1] at (m, k) within axis 0 %off[e] to %off[e + 1], %w window [one, 128, 128] at (e, k, n), %sw window [one, 1, 1] at (e, k, n))
    out (!breccia.tensor<[T, 192], bf16> window [32, 128] at (m, n) within axis 0 %off[e] to %off[e + 1])
    init {
      %acc = full 0.0 [32, 128] : f32
      yield %acc
    }
    step (%acc, %x, %sx, %w, %sw) {
      %p = dot nn %x, %w
      %s = binary mul %sx, %sw
      %q = binary mul %p, %s
      %r = binary add %acc, %q
      yield %r
    }
    finish (%acc) {
      %y = convert %acc : bf16
      yield %y
    }
  func.return %y : !breccia.tensor<[T, 192], bf16>
}
func.func @untiled(%x: !breccia.tensor<[T, 256], f8E4M3FN>, %sx: !breccia.tensor<[T, 2], f32>, %w: !breccia.tensor<[E, 256, 192], f8E4M3FN>, %sw: !breccia.tensor<[E, 2, 2], f32>, %off: !breccia.tensor<[E + 1], i32>) -> !breccia.tensor<[T, 192], bf16> {
  %qx = breccia.assemble %x, %sx as !breccia.scaled<[T, 256], f32, #x>
  %qw = breccia.assemble %w, %sw as !breccia.scaled<[E, 256, 192], f32, #w>
  %p = breccia.grouped_matmul %qx, %qw, %off
  %y = breccia.convert %p : bf16
  func.return %y : !breccia.tensor<[T, 192], bf16>
}
