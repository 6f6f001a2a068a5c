// RUN: breccia-opt %s --target triton:sm_90 -p fold-exponents-bounded | filecheck %s

#mx = #breccia.recipe<f8E4M3FN, f8E8M0FNU per [1, 32]>

// Only where the product says so: a value may lose what 256 times its old scale makes of E4M3's smallest number.
// CHECK-LABEL: func.func @mxfp8
// CHECK: breccia.quantize
// CHECK: breccia.full 256.0
// CHECK: %quick = breccia.matmul
// CHECK-SAME: 2**-9.8 of the largest value of their block of 32
// CHECK: %exact = breccia.matmul
// CHECK-NOT: accuracy
// CHECK: breccia.guard
func.func @mxfp8(%x: !breccia.scaled<[M, 256], bf16, #mx>, %w: !breccia.scaled<[768, 256], bf16, #mx>) -> !breccia.tensor<[M, 768], f32>
    attributes {breccia.typical = "M=1024"} {
  %t = breccia.transpose %w [1, 0]
  %y = breccia.matmul %x, %t accuracy bounded
  func.return %y : !breccia.tensor<[M, 768], f32>
}

// CHECK-LABEL: func.func @exact
// CHECK-NOT: breccia.quantize
func.func @exact(%x: !breccia.scaled<[1024, 256], bf16, #mx>, %w: !breccia.scaled<[768, 256], bf16, #mx>) -> !breccia.tensor<[1024, 768], f32> {
  %t = breccia.transpose %w [1, 0]
  %y = breccia.matmul %x, %t accuracy exact
  func.return %y : !breccia.tensor<[1024, 768], f32>
}
