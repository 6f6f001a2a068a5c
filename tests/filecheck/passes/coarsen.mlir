// RUN: breccia-opt %s -p coarsen | filecheck %s

// One program, one dot, no loop; the first accumulator is gone.
// CHECK-LABEL: func.func @gemm
func.func @gemm(%a: !breccia.tensor<[M, 576], f32>, %w: !breccia.tensor<[576, 300], f32>, %b: !breccia.tensor<[1, 300], f32>) -> !breccia.tensor<[M, 300], f32> {
  // CHECK-NEXT: "gemm_0" grid()
  // CHECK-NEXT: in (%a window [M, 576] at (0, 0), %w window [576, 300] at (0, 0), %b window [1, 300] at (0, 0))
  // CHECK-NEXT: out (!breccia.tensor<[M, 300], f32> window [M, 300] at (0, 0))
  // CHECK-NEXT: finish (%a, %w, %b) {
  // CHECK-NEXT: %p = dot nn %a, %w
  // CHECK-NEXT: %y = binary add %p, %b
  // CHECK-NEXT: yield %y
  %y = breccia.kernel "gemm_0" grid(m = ceildiv(M, 64), n = 3, k = 5 reduction)
      in (%a window [64, 128] at (m, k), %w window [128, 128] at (k, n), %b window [1, 128] at (0, n))
      out (!breccia.tensor<[M, 300], f32> window [64, 128] at (m, n))
      init { %acc = full 0.0 [64, 128] : f32  yield %acc }
      step (%acc, %a, %w) { %p = dot nn %a, %w  %r = binary add %acc, %p  yield %r }
      finish (%acc, %b) { %y = binary add %acc, %b  yield %y }
  func.return %y : !breccia.tensor<[M, 300], f32>
}

// Partial sums that are scaled stay partial; a scale that stood for a tile is repeated over the axis.
// CHECK-LABEL: func.func @mainloop
func.func @mainloop(%a: !breccia.tensor<[M, 576], f8E4M3FN>, %w: !breccia.tensor<[576, 300], f8E4M3FN>, %s: !breccia.tensor<[5, 3], f32>) -> !breccia.tensor<[M, 300], f32> {
  // CHECK-NEXT: "gemm_0" grid(k = 5 reduction)
  // CHECK-NEXT: in (%a window [M, 128] at (0, k), %w window [128, 300] at (k, 0), %s window [1, 3] at (k, 0))
  // CHECK: %acc = full 0.0 [M, 300] : f32
  // CHECK: %p = dot nn %a, %w
  // CHECK-NEXT: %[[S:.*]] = expand %s axis 1 by 128 to 300
  // CHECK-NEXT: %q = binary mul %p, %[[S]]
  %y = breccia.kernel "gemm_0" grid(m = ceildiv(M, 64), n = 3, k = 5 reduction)
      in (%a window [64, 128] at (m, k), %w window [128, 128] at (k, n), %s window [1, 1] at (k, n))
      out (!breccia.tensor<[M, 300], f32> window [64, 128] at (m, n))
      init { %acc = full 0.0 [64, 128] : f32  yield %acc }
      step (%acc, %a, %w, %s) { %p = dot nn %a, %w  %q = binary mul %p, %s  %r = binary add %acc, %q  yield %r }
      finish (%acc) { yield %acc }
  func.return %y : !breccia.tensor<[M, 300], f32>
}

// A maximum of tiles that is not joined with the others' is no maximum of the whole.
// CHECK-LABEL: func.func @tile_maxima
func.func @tile_maxima(%x: !breccia.tensor<[M, 8], f32>) -> !breccia.tensor<[ceildiv(M, 16), 1], f32> {
  // CHECK-NEXT: "maxima" grid(m = ceildiv(M, 16))
  // CHECK-NEXT: in (%x window [16, 8] at (m, 0))
  %y = breccia.kernel "maxima" grid(m = ceildiv(M, 16)) in (%x window [16, 8] at (m, 0))
      out (!breccia.tensor<[ceildiv(M, 16), 1], f32> window [1, 1] at (m, 0))
      finish (%x) { %y = reduce max %x axis [0, 1]  yield %y }
  func.return %y : !breccia.tensor<[ceildiv(M, 16), 1], f32>
}

// What is carried through a function that is not linear cannot be done in one step.
// CHECK-LABEL: func.func @nonlinear
func.func @nonlinear(%a: !breccia.tensor<[M, 64], f32>, %w: !breccia.tensor<[64, 8], f32>) -> !breccia.tensor<[M, 8], f32> {
  // CHECK-NEXT: "gemm_0" grid(k = 4 reduction)
  %y = breccia.kernel "gemm_0" grid(m = ceildiv(M, 16), k = 4 reduction)
      in (%a window [16, 16] at (m, k), %w window [16, 8] at (k, 0))
      out (!breccia.tensor<[M, 8], f32> window [16, 8] at (m, 0))
      init { %acc = full 0.0 [16, 8] : f32  yield %acc }
      step (%acc, %a, %w) { %p = dot nn %a, %w  %q = unary relu %p  %r = binary add %acc, %q  yield %r }
      finish (%acc) { yield %acc }
  func.return %y : !breccia.tensor<[M, 8], f32>
}

// Groups are as long as a table says.
// CHECK-LABEL: func.func @grouped
func.func @grouped(%o: !breccia.tensor<[5], i32>, %x: !breccia.tensor<[T, 64], f32>) -> !breccia.tensor<[T, 64], f32> {
  // CHECK-NEXT: "grouped_0" grid(e = 4)
  // CHECK-NEXT: in (%o, %x window [T, 64] at (0, 0) within axis 0 %o[e] to %o[e + 1])
  %y = breccia.kernel "grouped_0" grid(e = 4, m = ceildiv(T, 16))
      in (%o, %x window [16, 64] at (m, 0) within axis 0 %o[e] to %o[e + 1])
      out (!breccia.tensor<[T, 64], f32> window [16, 64] at (m, 0) within axis 0 %o[e] to %o[e + 1] combine add)
      finish (%x) { %y = unary neg %x  yield %y }
  func.return %y : !breccia.tensor<[T, 64], f32>
}
