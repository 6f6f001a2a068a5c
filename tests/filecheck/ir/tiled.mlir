// RUN: breccia-opt %s | filecheck %s
// RUN: breccia-opt %s | breccia-opt - | filecheck %s

// A tiled kernel prints as it reads: windows by name, regions without types.
// CHECK-LABEL: func.func @gemm
func.func @gemm(%off: !breccia.tensor<[E + 1], i32>, %x: !breccia.tensor<[T, 64], bf16>, %w: !breccia.tensor<[E, 64, 32], bf16>) -> !breccia.tensor<[T, 32], f32> {
  // CHECK: %y = breccia.kernel "grouped" grid(e = E, m = ceildiv(T, 16), k = 2 reduction) schedule<num_warps = 4>
  // CHECK-NEXT: in (%off, %x window [16, 32] at (m, k) within axis 0 %off[e] to %off[e + 1], %w window [one, 32, 32] at (e, k, 0))
  // CHECK-NEXT: out (!breccia.tensor<[T, 32], f32> window [16, 32] at (m, 0) within axis 0 %off[e] to %off[e + 1])
  // CHECK-NEXT: init {
  // CHECK-NEXT: %acc = full 0.0 [16, 32] : f32
  // CHECK-NEXT: yield %acc
  // CHECK: step (%acc, %x, %w) {
  // CHECK-NEXT: %p = dot nn %x, %w
  // CHECK-NEXT: %r = binary add %acc, %p
  // CHECK-NEXT: yield %r
  // CHECK: finish (%acc) {
  // CHECK-NEXT: yield %acc
  %y = breccia.kernel "grouped" grid(e = E, m = ceildiv(T, 16), k = 2 reduction) schedule<num_warps = 4>
    in (%off, %x window [16, 32] at (m, k) within axis 0 %off[e] to %off[e + 1], %w window [one, 32, 32] at (e, k, 0))
    out (!breccia.tensor<[T, 32], f32> window [16, 32] at (m, 0) within axis 0 %off[e] to %off[e + 1])
    init { %acc = full 0.0 [16, 32] : f32  yield %acc }
    step (%acc, %x, %w) { %p = dot nn %x, %w  %r = binary add %acc, %p  yield %r }
    finish (%acc) { yield %acc }
  func.return %y : !breccia.tensor<[T, 32], f32>
}
