// RUN: breccia-opt %s -p sink-guards | filecheck %s

// What follows the choice is done in both kernels, and the choice comes last, in f32.
// CHECK-LABEL: func.func @bias
// CHECK: %[[Q:.*]] = breccia.kernel "gemm_0"
// CHECK-NEXT: in (%q, %r, %bias)
// CHECK-NEXT: out (!breccia.tensor<[M, 64], bf16>)
// CHECK: %p = matmul %q, %r
// CHECK-NEXT: binary add %p, %bias
// CHECK-NEXT: convert
// CHECK-NEXT: yield
// CHECK: breccia.kernel "gemm_1" schedule<decode = tile, keep = rows>
// CHECK-NEXT: in (%a, %w, %bias, %lost, %[[Q]])
// CHECK: %e = matmul %a, %w
// CHECK-NEXT: %[[E:.*]] = binary add %e, %bias
// CHECK-NEXT: convert
// CHECK-NEXT: %[[C:.*]] = convert %[[Q]] : f32
// CHECK-NEXT: %[[S:.*]] = select %lost, %[[E]], %[[C]] {breccia.guard}
// CHECK-NEXT: %[[Y:.*]] = convert %[[S]] : bf16
// CHECK-NEXT: yield %[[Y]]
func.func @bias(%q: !breccia.tensor<[M, 96], bf16>, %r: !breccia.tensor<[96, 64], bf16>, %a: !breccia.tensor<[M, 96], f32>,
                %w: !breccia.tensor<[96, 64], f32>, %bias: !breccia.tensor<[1, 64], f32>, %lost: !breccia.tensor<[M, 1], i1>)
    -> !breccia.tensor<[M, 64], bf16> {
  %f = breccia.kernel "gemm_0" in (%q, %r) out (!breccia.tensor<[M, 64], f32>) body (%q, %r) { %p = matmul %q, %r  yield %p }
  %y = breccia.kernel "gemm_1" in (%a, %w, %bias, %lost, %f) out (!breccia.tensor<[M, 64], bf16>) body (%a, %w, %bias, %lost, %f) {
    %e = matmul %a, %w
    %s = select %lost, %e, %f {breccia.guard}
    %b = binary add %s, %bias
    %c = convert %b : bf16
    yield %c
  }
  func.return %y : !breccia.tensor<[M, 64], bf16>
}
