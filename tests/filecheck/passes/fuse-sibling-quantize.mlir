// RUN: breccia-opt %s -p fuse-sibling-quantize | filecheck %s

#p = #breccia.policy<scale = ceil, zero_scale = smallest>
#row = #breccia.recipe<f8E4M3FN, f8E8M0FNU per [1, 32]>
#col = #breccia.recipe<f8E4M3FN, f8E8M0FNU per [32, 1]>

// CHECK-LABEL: func.func @siblings
func.func @siblings(%x: !breccia.tensor<[M, 64], f32>) -> (!breccia.scaled<[M, 64], f32, #row>, !breccia.tensor<[M, 64], f32>, !breccia.scaled<[M, 64], f32, #col>) {
  // CHECK-NEXT: %q = breccia.quantize %x policy #{{.*}} to #{{.*}} {breccia.group = "quantize0"}
  // CHECK-NEXT: %r = breccia.quantize %x policy #{{.*}} to #{{.*}} {breccia.group = "quantize0"}
  // CHECK-NEXT: %d = breccia.dequantize %q
  %q = breccia.quantize %x policy #p to #row
  %d = breccia.dequantize %q
  %r = breccia.quantize %x policy #p to #col
  func.return %q, %d, %r : !breccia.scaled<[M, 64], f32, #row>, !breccia.tensor<[M, 64], f32>, !breccia.scaled<[M, 64], f32, #col>
}

// Rows of the transposed value are columns of the value.
// CHECK-LABEL: func.func @transposed
func.func @transposed(%x: !breccia.tensor<[M, 64], f32>) -> (!breccia.scaled<[M, 64], f32, #row>, !breccia.scaled<[64, M], f32, #row>) {
  // CHECK-NEXT: breccia.quantize %x {{.*}} {breccia.group = "quantize1"}
  // CHECK-NEXT: [[C:%.*]] = breccia.quantize %x {{.*}} {breccia.group = "quantize1"}
  // CHECK-NEXT: %r = breccia.transpose [[C]] [1, 0]
  // CHECK-NEXT: func.return %q, %r
  %q = breccia.quantize %x policy #p to #row
  %t = breccia.transpose %x [1, 0]
  %r = breccia.quantize %t policy #p to #row
  func.return %q, %r : !breccia.scaled<[M, 64], f32, #row>, !breccia.scaled<[64, M], f32, #row>
}

// Values that are not the same do not share a kernel, even if one is computed from the other.
// CHECK-LABEL: func.func @strangers
func.func @strangers(%x: !breccia.tensor<[M, 64], f32>, %y: !breccia.tensor<[M, 64], f32>) -> (!breccia.scaled<[M, 64], f32, #row>, !breccia.scaled<[M, 64], f32, #col>) {
  // CHECK-NOT: breccia.group
  %q = breccia.quantize %x policy #p to #row
  %r = breccia.quantize %y policy #p to #col
  func.return %q, %r : !breccia.scaled<[M, 64], f32, #row>, !breccia.scaled<[M, 64], f32, #col>
}

// Stochastic rounding depends on where an element lies, so the transpose stays before it.
// CHECK-LABEL: func.func @stochastic
func.func @stochastic(%x: !breccia.tensor<[M, 64], f32>, %s: !breccia.tensor<[], i64>) -> (!breccia.scaled<[M, 64], f32, #row>, !breccia.scaled<[64, M], f32, #row>) {
  // CHECK-NEXT: breccia.quantize %x, %s
  // CHECK-NEXT: %t = breccia.transpose %x [1, 0]
  // CHECK-NEXT: breccia.quantize %t, %s
  %q = breccia.quantize %x, %s policy #breccia.policy<scale = ceil, rounding = stochastic> to #row
  %t = breccia.transpose %x [1, 0]
  %r = breccia.quantize %t, %s policy #breccia.policy<scale = ceil, rounding = stochastic> to #row
  func.return %q, %r : !breccia.scaled<[M, 64], f32, #row>, !breccia.scaled<[64, M], f32, #row>
}

// A given scale that is computed from the first quantization cannot come before it.
// CHECK-LABEL: func.func @dependent
func.func @dependent(%x: !breccia.tensor<[M, 64], f32>) -> !breccia.scaled<[M, 64], f32, #breccia.recipe<f8E4M3FN, f32 per [1, all]>> {
  // CHECK-NOT: breccia.group
  %q = breccia.quantize %x policy #p to #row
  %d = breccia.dequantize %q
  %a = breccia.reduce amax %d axis [1]
  %r = breccia.quantize %x, %a given [0] policy #breccia.policy<amax = static> to #breccia.recipe<f8E4M3FN, f32 per [1, all]>
  func.return %r : !breccia.scaled<[M, 64], f32, #breccia.recipe<f8E4M3FN, f32 per [1, all]>>
}
