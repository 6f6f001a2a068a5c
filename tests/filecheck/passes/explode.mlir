// RUN: breccia-opt %s -p explode | filecheck %s

#mx = #breccia.recipe<f8E4M3FN, f8E8M0FNU per [1, 32]>
#nv = #breccia.recipe<f4E2M1FN, f32 per [all, all], f8E4M3FN per [1, 16]>
#l = #breccia.layout<elements = row_major, scale0 = row_major>
#packed = #breccia.layout<elements = packed4, scale0 = row_major, scale1 = row_major>

// Components stand in the order elements, scales; constants are counted anew.
// CHECK-LABEL: func.func @boundary(%x: !breccia.tensor<[M, 64], f32>, %w_elements: !breccia.tensor<[8, 32], ui8>, %w_scale0: !breccia.tensor<[1, 1], f32>, %w_scale1: !breccia.tensor<[8, 4], f8E4M3FN>)
// CHECK-SAME: -> (!breccia.tensor<[M, 64], f8E4M3FN>, !breccia.tensor<[M, 2], f8E8M0FNU>) attributes {breccia.constants = #breccia.ints[1, 2, 3]}
func.func @boundary(%x: !breccia.tensor<[M, 64], f32>, %w: !breccia.scaled<[8, 64], f32, #nv, #packed>)
    -> !breccia.scaled<[M, 64], f32, #mx, #l> attributes {breccia.constants = #breccia.ints[1]} {
  // CHECK-NEXT: %y_elements, %y_scale0 = breccia.kernel "rowwise_0"
  // CHECK: body (%x) {
  // CHECK: %[[P:.*]], %[[S:.*]] = parts %{{.*}}
  // CHECK-NEXT: yield %[[P]], %[[S]]
  // CHECK: func.return %y_elements, %y_scale0
  %y = breccia.kernel "rowwise_0" in (%x) out (!breccia.scaled<[M, 64], f32, #mx, #l>) body (%x) {
    %q = quantize %x policy #breccia.policy<scale = ceil> to #mx
    %y = convert_layout %q to #l
    yield %y
  }
  func.return %y : !breccia.scaled<[M, 64], f32, #mx, #l>
}

// A transpose of packed codes goes into the kernel that reads it.
// CHECK-LABEL: func.func @sunk
func.func @sunk(%w: !breccia.scaled<[8, 64], f32, #nv, #packed>) -> !breccia.tensor<[64, 8], f32> {
  // CHECK-NEXT: %y = breccia.kernel "rowwise_0"
  // CHECK: body (%w_elements, %w_scale0, %w_scale1) {
  // CHECK-NEXT: %w = assemble %w_elements, %w_scale0, %w_scale1 as
  // CHECK-NEXT: %[[T:.*]] = transpose %w [1, 0]
  // CHECK-NEXT: %y = dequantize %[[T]]
  %t = breccia.transpose %w [1, 0]
  %y = breccia.kernel "rowwise_0" in (%t) out (!breccia.tensor<[64, 8], f32>) body (%t) {
    %y = dequantize %t
    yield %y
  }
  func.return %y : !breccia.tensor<[64, 8], f32>
}

// Plain tensors are left alone.
// CHECK-LABEL: func.func @plain(%x: !breccia.tensor<[M, 8], f32>)
func.func @plain(%x: !breccia.tensor<[M, 8], f32>) -> !breccia.tensor<[8, M], f32> {
  // CHECK-NEXT: %t = breccia.transpose %x [1, 0]
  // CHECK-NEXT: func.return %t
  %t = breccia.transpose %x [1, 0]
  func.return %t : !breccia.tensor<[8, M], f32>
}
