// RUN: breccia-opt %s --target triton:sm_90 -p legalize-windows | filecheck %s

// A whole axis grows to a power of two, and with it the scales along it.
// CHECK-LABEL: func.func @rows
func.func @rows(%x: !breccia.tensor<[M, 576], f32>, %s: !breccia.tensor<[M, 5], f32>) -> !breccia.tensor<[M, 576], f32> {
  // CHECK: in (%x window [8, 1024] at (m, 0), %s window [8, 8] at (m, 0))
  // CHECK: out (!breccia.tensor<[M, 576], f32> window [8, 1024] at (m, 0))
  // CHECK: expand %s axis 1 by 128 to 1024
  %y = breccia.kernel "rowwise_0" grid(m = ceildiv(M, 8)) in (%x window [8, 576] at (m, 0), %s window [8, 5] at (m, 0))
      out (!breccia.tensor<[M, 576], f32> window [8, 576] at (m, 0))
      finish (%x, %s) { %e = expand %s axis 1 by 128 to 576  %y = binary mul %x, %e  yield %y }
  func.return %y : !breccia.tensor<[M, 576], f32>
}

// Batch axes of which a program sees one element are dropped, and axes are counted anew.
// CHECK-LABEL: func.func @batched
func.func @batched(%x: !breccia.tensor<[B, M, 64], f32>) -> !breccia.tensor<[B, M, 1], f32> {
  // CHECK: in (%x window [one, 8, 64] at (b, m, 0))
  // CHECK: out (!breccia.tensor<[B, M, 1], f32> window [one, 8, 1] at (b, m, 0))
  // CHECK: reduce sum %x axis [1]
  %y = breccia.kernel "rowwise_0" grid(b = B, m = ceildiv(M, 8)) in (%x window [1, 8, 64] at (b, m, 0))
      out (!breccia.tensor<[B, M, 1], f32> window [1, 8, 1] at (b, m, 0))
      finish (%x) { %y = reduce sum %x axis [2]  yield %y }
  func.return %y : !breccia.tensor<[B, M, 1], f32>
}

// Legal tiles stay as they are.
// CHECK-LABEL: func.func @legal
func.func @legal(%x: !breccia.tensor<[M, 64], f32>) -> !breccia.tensor<[M, 64], f32> {
  // CHECK: in (%x window [8, 64] at (m, 0))
  %y = breccia.kernel "rowwise_0" grid(m = ceildiv(M, 8)) in (%x window [8, 64] at (m, 0))
      out (!breccia.tensor<[M, 64], f32> window [8, 64] at (m, 0))
      finish (%x) { %y = unary neg %x  yield %y }
  func.return %y : !breccia.tensor<[M, 64], f32>
}
