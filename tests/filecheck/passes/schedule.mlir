// RUN: breccia-opt %s -p schedule | filecheck %s

#l = #breccia.layout<elements = row_major, scale0 = row_major>

builtin.module attributes {breccia.target = #breccia.target<"test:rows", tiles = [gemm 128 128 128, rowwise 8 512 1]>} {
// CHECK-LABEL: func.func @gemm
func.func @gemm(%a: !breccia.tensor<[M, 576], bf16>, %w: !breccia.tensor<[576, 300], bf16>) -> !breccia.tensor<[M, 300], f32> {
  // CHECK: "gemm_0" schedule<block_m = 128, block_n = 128, block_k = 128>
  %y = breccia.kernel "gemm_0" in (%a, %w) out (!breccia.tensor<[M, 300], f32>) body (%a, %w) {
    %y = matmul %a, %w
    yield %y
  }
  func.return %y : !breccia.tensor<[M, 300], f32>
}

// Sizes that are known clip the tile; one row is no axis to walk.
// CHECK-LABEL: func.func @small
func.func @small(%a: !breccia.tensor<[1, 96], bf16>, %w: !breccia.tensor<[96, 300], bf16>) -> !breccia.tensor<[1, 300], f32> {
  // CHECK: "gemm_0" schedule<block_n = 128, block_k = 96>
  %y = breccia.kernel "gemm_0" in (%a, %w) out (!breccia.tensor<[1, 300], f32>) body (%a, %w) {
    %y = matmul %a, %w
    yield %y
  }
  func.return %y : !breccia.tensor<[1, 300], f32>
}

// Partial sums are scaled once for each block, so a tile ends where a block does.
// CHECK-LABEL: func.func @mainloop
func.func @mainloop(%e: !breccia.tensor<[M, 576], f8E4M3FN>, %s: !breccia.tensor<[M, 9], f32>, %w: !breccia.tensor<[576, 300], f8E4M3FN>)
    -> !breccia.tensor<[M, 300], f32> {
  // CHECK: block_k = 64
  %y = breccia.kernel "gemm_0" in (%e, %s, %w) out (!breccia.tensor<[M, 300], f32>) body (%e, %s, %w) {
    %a = assemble %e, %s as !breccia.scaled<[M, 576], f32, #breccia.recipe<f8E4M3FN, f32 per [1, 64]>, #l>
    %b = convert %w : f32
    %y = matmul %a, %b place_a #breccia.place<mainloop>
    yield %y
  }
  func.return %y : !breccia.tensor<[M, 300], f32>
}

// A schedule that is there is kept.
// CHECK-LABEL: func.func @said
func.func @said(%x: !breccia.tensor<[M, 64], f32>) -> !breccia.tensor<[M, 64], f32> {
  // CHECK: "rowwise_0" schedule<block_m = 2>
  %y = breccia.kernel "rowwise_0" schedule<block_m = 2> in (%x) out (!breccia.tensor<[M, 64], f32>) body (%x) {
    %y = unary neg %x
    yield %y
  }
  func.return %y : !breccia.tensor<[M, 64], f32>
}
}
