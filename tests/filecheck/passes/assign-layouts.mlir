// RUN: breccia-opt %s -p assign-layouts | filecheck %s
// RUN: breccia-opt %s --target numpy -p assign-layouts | filecheck %s --check-prefix=NUMPY

// CHECK-DAG: #[[CANONICAL:.*]] = #breccia.layout<elements = row_major, scale0 = row_major>
// CHECK-DAG: #[[SWIZZLED:.*]] = #breccia.layout<elements = row_major, scale0 = swizzle_128x4>
// CHECK-DAG: #[[MN_SWIZZLED:.*]] = #breccia.layout<elements = mn_major, scale0 = swizzle_128x4>
// CHECK-DAG: #[[MN:.*]] = #breccia.layout<elements = mn_major, scale0 = row_major>
// CHECK-DAG: #[[PACKED:.*]] = #breccia.layout<elements = packed4, scale0 = row_major>
#mx = #breccia.recipe<f8E4M3FN, f8E8M0FNU per [1, 32]>
#mxt = #breccia.recipe<f8E4M3FN, f8E8M0FNU per [32, 1]>
#mx4 = #breccia.recipe<f4E2M1FN, f8E8M0FNU per [1, 32]>
#p = #breccia.policy<scale = ceil>

builtin.module attributes {breccia.target = #breccia.target<"wants", layouts = [a_scale f8E8M0FNU swizzle_128x4, b_scale any swizzle_128x4, b_elements f8E4M3FN mn_major]>} {
  // A target that asks for nothing gets canonical layouts, and no conversion at function level.
  // NUMPY-LABEL: func.func @chain
  // NUMPY-NOT: breccia.convert_layout

  // The kernel that makes %q writes the order that the product reads; the weight is converted.
  // CHECK-LABEL: func.func @chain
  func.func @chain(%x: !breccia.tensor<[M, 64], f32>, %w: !breccia.scaled<[64, 96], f32, #mxt>) -> !breccia.tensor<[M, 96], f32> {
    // CHECK: breccia.kernel "rowwise_0"
    // CHECK: [[Q:%.*]] = quantize %x
    // CHECK-NEXT: [[S:%.*]] = convert_layout [[Q]] to #[[SWIZZLED]]
    // CHECK-NEXT: yield [[S]]
    // CHECK: [[W:%.*]] = breccia.convert_layout %w to #[[MN_SWIZZLED]]
    // CHECK-NEXT: breccia.kernel "gemm_0"
    // CHECK-NEXT: in (%q, [[W]])
    %q = breccia.kernel "rowwise_0" in (%x) out (!breccia.scaled<[M, 64], f32, #mx>) body (%x) { %q = quantize %x policy #p to #mx yield %q }
    %y = breccia.kernel "gemm_0" in (%q, %w) out (!breccia.tensor<[M, 96], f32>) body (%q, %w) {
      %y = matmul %q, %w place_a #breccia.place<mma> place_b #breccia.place<mma>
      yield %y
    }
    func.return %y : !breccia.tensor<[M, 96], f32>
  }

  // Scales that are decoded on load are not read by an instruction: they stay as they are. Elements are converted.
  // CHECK-LABEL: func.func @operand
  func.func @operand(%a: !breccia.scaled<[M, 64], f32, #mx>, %w: !breccia.scaled<[64, 96], f32, #mxt>) -> !breccia.tensor<[M, 96], f32> {
    // CHECK-NEXT: breccia.convert_layout %w to #[[MN]]
    // CHECK-NEXT: breccia.kernel
    // CHECK-NEXT: in (%a, %w_1)
    %y = breccia.kernel "gemm_0" in (%a, %w) out (!breccia.tensor<[M, 96], f32>) body (%a, %w) {
      %y = matmul %a, %w place_a #breccia.place<operand> place_b #breccia.place<operand>
      yield %y
    }
    func.return %y : !breccia.tensor<[M, 96], f32>
  }

  // Results of functions are canonical: packed codes, and a conversion where a product wants another order as well.
  // CHECK-LABEL: func.func @result
  func.func @result(%x: !breccia.tensor<[M, 64], f32>) -> !breccia.scaled<[M, 64], f32, #mx4> {
    // CHECK: out (!breccia.scaled<[M, 64], f32, #{{.*}}, #[[PACKED]]>)
    // CHECK: convert_layout %q to #[[PACKED]]
    // CHECK-NEXT: yield
    // CHECK: func.return %q
    %q = breccia.kernel "rowwise_0" in (%x) out (!breccia.scaled<[M, 64], f32, #mx4>) body (%x) { %q = quantize %x policy #p to #mx4 yield %q }
    func.return %q : !breccia.scaled<[M, 64], f32, #mx4>
  }

  // A tensor that a product reads swizzled and the caller gets in canonical order: one conversion.
  // CHECK-LABEL: func.func @both
  func.func @both(%x: !breccia.tensor<[M, 64], f32>, %w: !breccia.scaled<[64, 96], f32, #mxt>) -> (!breccia.tensor<[M, 96], f32>, !breccia.scaled<[M, 64], f32, #mx>) {
    // CHECK: breccia.kernel "rowwise_0"
    // CHECK: out (!breccia.scaled<[M, 64], f32, #{{.*}}, #[[CANONICAL]]>)
    // CHECK: [[Q:%.*]] = breccia.convert_layout %q to #[[SWIZZLED]]
    // CHECK: in ([[Q]], %w_1)
    // CHECK: func.return %y, %q
    %q = breccia.kernel "rowwise_0" in (%x) out (!breccia.scaled<[M, 64], f32, #mx>) body (%x) { %q = quantize %x policy #p to #mx yield %q }
    %y = breccia.kernel "gemm_0" in (%q, %w) out (!breccia.tensor<[M, 96], f32>) body (%q, %w) {
      %y = matmul %q, %w place_a #breccia.place<mma> place_b #breccia.place<mma>
      yield %y
    }
    func.return %y, %q : !breccia.tensor<[M, 96], f32>, !breccia.scaled<[M, 64], f32, #mx>
  }

  // Plain tensors have no layout.
  // CHECK-LABEL: func.func @plain
  func.func @plain(%x: !breccia.tensor<[M, 64], f32>) -> !breccia.tensor<[M, 64], f32> {
    // CHECK-NEXT: breccia.kernel "rowwise_0"
    // CHECK-NOT: convert_layout
    %y = breccia.kernel "rowwise_0" in (%x) out (!breccia.tensor<[M, 64], f32>) body (%x) { %q = unary neg %x yield %q }
    func.return %y : !breccia.tensor<[M, 64], f32>
  }
}
