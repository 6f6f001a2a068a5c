// RUN: breccia-opt %s -p hoist-prepare --split-input-file | filecheck %s

#mx = #breccia.recipe<f8E4M3FN, f8E8M0FNU per [32, 1]>
#c = #breccia.layout<elements = row_major, scale0 = row_major>
#s = #breccia.layout<elements = row_major, scale0 = swizzle_128x4>

// CHECK-LABEL: func.func @f
// CHECK-SAME: %w: !breccia.scaled<[64, 96], f32, #{{[a-z0-9]*}}, #[[S:[a-z0-9]*]]>
// CHECK-NEXT: breccia.kernel "k"
// CHECK-NEXT: in (%w, %u)
// CHECK: func.func @prepare(%u: !breccia.tensor<[1, 96], f32>, %w: !breccia.scaled
// CHECK-NEXT: [[V:%.*]] = breccia.convert_layout %w to #[[S]]
// CHECK-NEXT: func.return %u, [[V]]
func.func @f(%x: !breccia.tensor<[M, 64], f32>, %w: !breccia.scaled<[64, 96], f32, #mx, #c>, %u: !breccia.tensor<[1, 96], f32>) -> !breccia.tensor<[64, 96], f32> attributes {breccia.constants = #breccia.ints[2, 1]} {
  %v = breccia.convert_layout %w to #s
  %y = breccia.kernel "k" in (%v, %u) out (!breccia.tensor<[64, 96], f32>) body (%v, %u) { %d = dequantize %v  %e = binary add %d, %u yield %e }
  func.return %y : !breccia.tensor<[64, 96], f32>
}

// -----

#mx = #breccia.recipe<f8E4M3FN, f8E8M0FNU per [32, 1]>
#c = #breccia.layout<elements = row_major, scale0 = row_major>
#s = #breccia.layout<elements = row_major, scale0 = swizzle_128x4>

// An argument that is no constant is converted at every call; so is a constant that is read in two forms.
// CHECK-LABEL: func.func @g
// CHECK-NEXT: breccia.convert_layout %w
// CHECK-NEXT: breccia.convert_layout %u
// CHECK-NOT: @prepare
func.func @g(%w: !breccia.scaled<[64, 96], f32, #mx, #c>, %u: !breccia.scaled<[64, 96], f32, #mx, #c>) -> !breccia.tensor<[64, 96], f32> attributes {breccia.constants = #breccia.ints[1]} {
  %v = breccia.convert_layout %w to #s
  %t = breccia.convert_layout %u to #s
  %y = breccia.kernel "k" in (%v, %t, %u) out (!breccia.tensor<[64, 96], f32>) body (%v, %t, %u) {
    %d = dequantize %v
    %e = dequantize %t
    %g = dequantize %u
    %h = binary add %d, %e
    %i = binary add %h, %g
    yield %i
  }
  func.return %y : !breccia.tensor<[64, 96], f32>
}

// -----

#mx = #breccia.recipe<f8E4M3FN, f8E8M0FNU per [32, 1]>
#mxt = #breccia.recipe<f8E4M3FN, f8E8M0FNU per [1, 32]>
#c = #breccia.layout<elements = row_major, scale0 = row_major>

// A view before the conversion moves along; one after the last conversion stays, since it costs nothing.
// CHECK-LABEL: func.func @h
// CHECK-NEXT: breccia.transpose %u [1, 0]
// CHECK-NEXT: breccia.kernel
// CHECK: func.func @prepare
// CHECK-NEXT: breccia.transpose %w [1, 0]
// CHECK-NEXT: breccia.convert_layout
// CHECK-NEXT: func.return
func.func @h(%w: !breccia.scaled<[96, 64], f32, #mxt, #c>, %u: !breccia.tensor<[96, 64], f32>) -> !breccia.tensor<[64, 96], f32> attributes {breccia.constants = #breccia.ints[0, 1]} {
  %t = breccia.transpose %w [1, 0]
  %v = breccia.convert_layout %t to #c
  %p = breccia.transpose %u [1, 0]
  %y = breccia.kernel "k" in (%v, %p) out (!breccia.tensor<[64, 96], f32>) body (%v, %p) { %d = dequantize %v %s = binary add %d, %p yield %s }
  func.return %y : !breccia.tensor<[64, 96], f32>
}

// -----

#mx = #breccia.recipe<f8E4M3FN, f8E8M0FNU per [1, 32]>
#row = #breccia.recipe<f8E4M3FN, f32 per [1, all]>
#c = #breccia.layout<elements = row_major, scale0 = row_major>

// A scaled constant is encoded anew once; what the kernel makes is passed on. An array may be written to: it is not.
// CHECK-LABEL: func.func @encoded
// CHECK-SAME: (%w: {{.*}}, %u: {{.*}}, %w_folded: !breccia.scaled<[64, 96], f32, #{{[a-z0-9]*}}, #{{[a-z0-9]*}}>)
// CHECK-NOT: "rowwise_0"
// CHECK: breccia.kernel "rowwise_1"
// CHECK: func.func @prepare(%w: {{.*}}, %u: {{.*}}) -> (
// CHECK: %w_folded = breccia.kernel "rowwise_0"
// CHECK: func.return %w, %u, %w_folded
func.func @encoded(%w: !breccia.scaled<[64, 96], f32, #mx, #c>, %u: !breccia.tensor<[64, 96], f32>) -> (!breccia.scaled<[64, 96], f32, #row, #c>, !breccia.scaled<[64, 96], f32, #row, #c>)
    attributes {breccia.constants = #breccia.ints[0, 1]} {
  %w_folded = breccia.kernel "rowwise_0" in (%w) out (!breccia.scaled<[64, 96], f32, #row, #c>) body (%w) {
    %d = dequantize %w
    %q = quantize %d policy #breccia.policy<> to #row
    %r = convert_layout %q to #c
    yield %r
  }
  %e = breccia.kernel "rowwise_1" in (%u) out (!breccia.scaled<[64, 96], f32, #row, #c>) body (%u) {
    %q = quantize %u policy #breccia.policy<> to #row
    %r = convert_layout %q to #c
    yield %r
  }
  func.return %w_folded, %e : !breccia.scaled<[64, 96], f32, #row, #c>, !breccia.scaled<[64, 96], f32, #row, #c>
}
