// RUN: breccia-opt %s --target triton:sm_90 -p fold-exponents --split-input-file | filecheck %s
// RUN: breccia-opt %s --target triton:sm_100 -p fold-exponents --split-input-file | filecheck %s --check-prefix=SCALED

#mx4 = #breccia.recipe<f4E2M1FN, f8E8M0FNU per [1, 32]>

// Elements of 4 bits fit E4M3 with their exponents, as long as these are not far apart; a row where they are is exact.
// CHECK-LABEL: func.func @mxfp4
// CHECK: %[[X:[a-z0-9]+]] = breccia.dequantize %x
// CHECK: %x_folded = breccia.quantize %[[X]] policy {{.*}} to #[[BLOCK:[a-z0-9]+]]
// CHECK: breccia.scales %x
// CHECK: breccia.scales %x_folded
// CHECK: breccia.reduce max {{.*}} axis [1]
// CHECK: %x_lost = breccia.binary gt
// CHECK: %w_folded = breccia.quantize
// CHECK: %[[WL:[a-z0-9_]+]] = breccia.transpose %w_lost [1, 0]
// CHECK: %[[WF:[a-z0-9_]+]] = breccia.transpose %w_folded [1, 0]
// CHECK: %quick = breccia.matmul %x_folded, %[[WF]] {breccia.folded = "exponents of a
// CHECK: %exact = breccia.matmul %x, %
// CHECK: %[[S:.*]] = breccia.select %x_lost, %exact, %quick {breccia.guard}
// CHECK: breccia.select %[[WL]], %exact, %[[S]] {breccia.guard}
// SCALED-LABEL: func.func @mxfp4
// SCALED-NOT: breccia.quantize
func.func @mxfp4(%x: !breccia.scaled<[1024, 256], bf16, #mx4>, %w: !breccia.scaled<[768, 256], bf16, #mx4>) -> !breccia.tensor<[1024, 768], f32> {
  %t = breccia.transpose %w [1, 0]
  %y = breccia.matmul %x, %t
  func.return %y : !breccia.tensor<[1024, 768], f32>
}

// -----

#mx8 = #breccia.recipe<f8E4M3FN, f8E8M0FNU per [1, 32]>
#mx4 = #breccia.recipe<f4E2M1FN, f8E8M0FNU per [1, 32]>
#mx4t = #breccia.recipe<f4E2M1FN, f8E8M0FNU per [32, 1]>

// MXFP8 would lose bits; few rows are bound by memory; FP8 is multiplied as rows of k; a plain side stays.
// CHECK-LABEL: func.func @none
// SCALED-LABEL: func.func @none
// CHECK-NOT: breccia.quantize
func.func @none(%x: !breccia.scaled<[1024, 256], bf16, #mx8>, %w: !breccia.scaled<[768, 256], bf16, #mx8>,
                %v: !breccia.scaled<[16, 256], bf16, #mx4>, %u: !breccia.scaled<[768, 256], bf16, #mx4>,
                %z: !breccia.scaled<[1024, 256], bf16, #mx4>, %k: !breccia.scaled<[256, 768], bf16, #mx4t>,
                %p: !breccia.tensor<[1024, 256], bf16>)
    -> (!breccia.tensor<[1024, 768], f32>, !breccia.tensor<[16, 768], f32>, !breccia.tensor<[1024, 768], f32>, !breccia.tensor<[1024, 768], f32>) {
  %wt = breccia.transpose %w [1, 0]
  %a = breccia.matmul %x, %wt
  %ut = breccia.transpose %u [1, 0]
  %b = breccia.matmul %v, %ut
  %c = breccia.matmul %z, %k
  %d = breccia.matmul %p, %ut
  func.return %a, %b, %c, %d : !breccia.tensor<[1024, 768], f32>, !breccia.tensor<[16, 768], f32>, !breccia.tensor<[1024, 768], f32>, !breccia.tensor<[1024, 768], f32>
}

// -----

#mx4 = #breccia.recipe<f4E2M1FN, f8E8M0FNU per [1, 32]>
#mx4t = #breccia.recipe<f4E2M1FN, f8E8M0FNU per [32, 1]>
#k128 = #breccia.recipe<f8E4M3FN, f32 per [1, 128]>

// One side may be FP8 already; a constant weight is turned first, which happens once.
// CHECK-LABEL: func.func @mixed
// CHECK: %w_1 = breccia.transpose %w [1, 0]
// CHECK: %w_folded = breccia.quantize
// CHECK: breccia.matmul %x, %{{[0-9]+}} {breccia.folded = "exponents of b
func.func @mixed(%x: !breccia.scaled<[1024, 256], bf16, #k128>, %w: !breccia.scaled<[256, 768], bf16, #mx4t>) -> !breccia.tensor<[1024, 768], f32>
    attributes {breccia.constants = #breccia.ints[1]} {
  %y = breccia.matmul %x, %w
  func.return %y : !breccia.tensor<[1024, 768], f32>
}
