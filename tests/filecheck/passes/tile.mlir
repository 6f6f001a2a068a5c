// RUN: breccia-opt %s -p tile | filecheck %s

#l = #breccia.layout<elements = row_major, scale0 = row_major>
#a = #breccia.recipe<f8E4M3FN, f32 per [1, 128]>
#w = #breccia.recipe<f8E4M3FN, f32 per [128, 128]>
#row = #breccia.recipe<f8E4M3FN, f32 per [1, all]>
#column = #breccia.recipe<f8E4M3FN, f32 per [all, 1]>

// Scales of blocks along k multiply partial sums, in front of the addition.
// CHECK-LABEL: func.func @mainloop
func.func @mainloop(%e: !breccia.tensor<[M, 576], f8E4M3FN>, %s: !breccia.tensor<[M, 5], f32>,
                    %f: !breccia.tensor<[576, 300], f8E4M3FN>, %t: !breccia.tensor<[5, 3], f32>) -> !breccia.tensor<[M, 300], f32> {
  // CHECK-NEXT: grid(m = ceildiv(M, 64), n = 3, k = 5 reduction)
  // CHECK-NEXT: in (%e window [64, 128] at (m, k), %f window [128, 128] at (k, n), %s window [64, 1] at (m, k), %t window [1, 1] at (k, n))
  // CHECK-NEXT: out (!breccia.tensor<[M, 300], f32> window [64, 128] at (m, n))
  // CHECK-NEXT: init {
  // CHECK-NEXT: %acc = full 0.0 [64, 128] : f32
  // CHECK: step (%acc, %e, %f, %s, %t) {
  // CHECK-NEXT: %p = dot nn %e, %f
  // CHECK-NEXT: %[[S:.*]] = binary mul %t, %s
  // CHECK-NEXT: %[[Q:.*]] = binary mul %p, %[[S]]
  // CHECK-NEXT: %r = binary add %acc, %[[Q]]
  // CHECK-NEXT: yield %r
  // CHECK: finish (%acc) {
  // CHECK-NEXT: yield %acc
  %y = breccia.kernel "gemm_0" schedule<block_m = 64> in (%e, %s, %f, %t) out (!breccia.tensor<[M, 300], f32>) body (%e, %s, %f, %t) {
    %a = assemble %e, %s as !breccia.scaled<[M, 576], f32, #a, #l>
    %b = assemble %f, %t as !breccia.scaled<[576, 300], f32, #w, #l>
    %y = matmul %a, %b place_a #breccia.place<mainloop> place_b #breccia.place<mainloop>
    yield %y
  }
  func.return %y : !breccia.tensor<[M, 300], f32>
}

// Scales that span k wait until after it; nothing but the codes is read in the loop.
// CHECK-LABEL: func.func @epilogue
func.func @epilogue(%e: !breccia.tensor<[M, 96], f8E4M3FN>, %s: !breccia.tensor<[M, 1], f32>,
                    %f: !breccia.tensor<[96, 300], f8E4M3FN>, %t: !breccia.tensor<[1, 300], f32>) -> !breccia.tensor<[M, 300], bf16> {
  // CHECK: step (%acc, %e, %f) {
  // CHECK-NEXT: %p = dot nn %e, %f
  // CHECK-NEXT: %r = binary add %acc, %p
  // CHECK: finish (%acc, %s, %t) {
  // CHECK-NEXT: %[[A:.*]] = binary mul %acc, %s
  // CHECK-NEXT: %[[B:.*]] = binary mul %[[A]], %t
  // CHECK-NEXT: %g = unary silu %[[B]]
  // CHECK-NEXT: %y = convert %g : bf16
  %y = breccia.kernel "gemm_0" in (%e, %s, %f, %t) out (!breccia.tensor<[M, 300], bf16>) body (%e, %s, %f, %t) {
    %a = assemble %e, %s as !breccia.scaled<[M, 96], f32, #row, #l>
    %b = assemble %f, %t as !breccia.scaled<[96, 300], f32, #column, #l>
    %h = matmul %a, %b place_a #breccia.place<epilogue> place_b #breccia.place<epilogue>
    %g = unary silu %h
    %y = convert %g : bf16
    yield %y
  }
  func.return %y : !breccia.tensor<[M, 300], bf16>
}

// Rows in tiles, the reduced axis whole.
// CHECK-LABEL: func.func @rowwise
func.func @rowwise(%x: !breccia.tensor<[M, 300], f32>) -> (!breccia.tensor<[M, 300], f8E4M3FN>, !breccia.tensor<[M, 3], f32>) {
  // CHECK-NEXT: grid(m = ceildiv(M, 8))
  // CHECK-NEXT: in (%x window [8, 300] at (m, 0))
  // CHECK-NEXT: out (!breccia.tensor<[M, 300], f8E4M3FN> window [8, 300] at (m, 0), !breccia.tensor<[M, 3], f32> window [8, 3] at (m, 0))
  // CHECK-NEXT: finish (%x) {
  // CHECK: %[[M:.*]] = reduce amax %x axis [1]
  // CHECK: encode %{{.*}} policy #breccia.policy<> to #breccia.recipe<f8E4M3FN, f32 per [1, 128]>
  // CHECK-NOT: step
  %d, %s = breccia.kernel "rowwise_0" schedule<block_m = 8> in (%x)
      out (!breccia.tensor<[M, 300], f8E4M3FN>, !breccia.tensor<[M, 3], f32>) body (%x) {
    %m = reduce amax %x axis [1]
    %n = binary div %x, %m
    %q = quantize %n policy #breccia.policy<> to #a
    %d, %s = parts %q
    yield %d, %s
  }
  func.return %d, %s : !breccia.tensor<[M, 300], f8E4M3FN>, !breccia.tensor<[M, 3], f32>
}

// Programs of a whole reduction meet in one result.
// CHECK-LABEL: func.func @amax
func.func @amax(%x: !breccia.tensor<[M, N], f32>) -> !breccia.tensor<[1, 1], f32> {
  // CHECK-NEXT: grid(m = ceildiv(M, 128), n = ceildiv(N, 128))
  // CHECK: out (!breccia.tensor<[1, 1], f32> window [1, 1] at (0, 0) combine max)
  %y = breccia.kernel "reduce_0" in (%x) out (!breccia.tensor<[1, 1], f32>) body (%x) {
    %y = reduce amax %x axis [0, 1]
    yield %y
  }
  func.return %y : !breccia.tensor<[1, 1], f32>
}

// A kernel that is tiled is left alone.
// CHECK-LABEL: func.func @tiled
func.func @tiled(%x: !breccia.tensor<[M, 8], f32>) -> !breccia.tensor<[M, 8], f32> {
  // CHECK-NEXT: grid(i = ceildiv(M, 3))
  // CHECK-NEXT: in (%x window [3, 8] at (i, 0))
  %y = breccia.kernel "rowwise_0" grid(i = ceildiv(M, 3)) in (%x window [3, 8] at (i, 0))
      out (!breccia.tensor<[M, 8], f32> window [3, 8] at (i, 0)) finish (%x) {
    %y = unary neg %x
    yield %y
  }
  func.return %y : !breccia.tensor<[M, 8], f32>
}
