// RUN: breccia-opt %s -p split-quantize | filecheck %s

#e = #breccia.policy<>
#tensor = #breccia.recipe<f8E4M3FN, f32 per [all, all]>
#column = #breccia.recipe<f8E4M3FN, f32 per [all, 1]>
#row = #breccia.recipe<f8E4M3FN, f32 per [1, all]>
#k128 = #breccia.recipe<f8E4M3FN, f32 per [1, 128]>
#nv = #breccia.recipe<f4E2M1FN, f32 per [all, all], f8E4M3FN per [1, 16]>

// CHECK-LABEL: func.func @tensor
func.func @tensor(%x: !breccia.tensor<[M, 64], bf16>) -> !breccia.scaled<[M, 64], bf16, #tensor> {
  // CHECK-NEXT: [[F:%.*]] = breccia.convert %x : f32
  // CHECK-NEXT: [[A:%.*]] = breccia.reduce amax [[F]] axis [0, 1]
  // CHECK-NEXT: %q_scale = breccia.scale_from_amax [[A]] policy #{{.*}} to #{{.*}} level 0
  // CHECK-NEXT: %q = breccia.quantize %x, %q_scale given [0]
  // CHECK-NEXT: func.return %q
  %q = breccia.quantize %x policy #e to #tensor
  func.return %q : !breccia.scaled<[M, 64], bf16, #tensor>
}

// Infinities count as the largest float32 where the policy says so.
// CHECK-LABEL: func.func @saturate
func.func @saturate(%x: !breccia.tensor<[M, 64], f32>) -> !breccia.scaled<[M, 64], f32, #tensor> {
  // CHECK: breccia.reduce amax %x axis [0, 1]
  // CHECK: breccia.full 3.4028234663852886e+38
  // CHECK-NEXT: breccia.binary min
  // CHECK-NEXT: breccia.scale_from_amax
  %q = breccia.quantize %x policy #breccia.policy<nonfinite = saturate> to #tensor
  func.return %q : !breccia.scaled<[M, 64], f32, #tensor>
}

// The outer level alone is split, from finite values only; the inner one stays.
// CHECK-LABEL: func.func @two_levels
func.func @two_levels(%x: !breccia.tensor<[M, 64], f32>) -> !breccia.scaled<[M, 64], f32, #nv> {
  // CHECK-NEXT: breccia.unary abs %x
  // CHECK-NEXT: breccia.full inf
  // CHECK-NEXT: [[C:%.*]] = breccia.binary lt
  // CHECK-NEXT: breccia.full 0.0
  // CHECK-NEXT: [[V:%.*]] = breccia.select [[C]], %x
  // CHECK-NEXT: [[A:%.*]] = breccia.reduce amax [[V]] axis [0, 1]
  // CHECK-NEXT: breccia.scale_from_amax [[A]] policy #{{.*}} to #{{.*}} level 0
  // CHECK-NEXT: breccia.quantize %x, %q_scale given [0]
  %q = breccia.quantize %x policy #e to #nv
  func.return %q : !breccia.scaled<[M, 64], f32, #nv>
}

// CHECK-LABEL: func.func @columns
func.func @columns(%x: !breccia.tensor<[M, 64], f32>) -> !breccia.scaled<[M, 64], f32, #column> {
  // CHECK-NEXT: breccia.reduce amax %x axis [0]
  %q = breccia.quantize %x policy #e to #column
  func.return %q : !breccia.scaled<[M, 64], f32, #column>
}

// Blocks across a whole axis and along another one: the axis is cut into blocks first.
// CHECK-LABEL: func.func @slabs
func.func @slabs(%x: !breccia.tensor<[M, 64], f32>) -> !breccia.scaled<[M, 64], f32, #breccia.recipe<f8E4M3FN, f32 per [all, 16]>> {
  // CHECK-NEXT: [[R:%.*]] = breccia.reshape %x to [M, 4, 16]
  // CHECK-NEXT: [[A:%.*]] = breccia.reduce amax [[R]] axis [0, 2]
  // CHECK-NEXT: breccia.reshape [[A]] to [1, 4]
  %q = breccia.quantize %x policy #e to #breccia.recipe<f8E4M3FN, f32 per [all, 16]>
  func.return %q : !breccia.scaled<[M, 64], f32, #breccia.recipe<f8E4M3FN, f32 per [all, 16]>>
}

// Two quantizations of one value look at it once.
// CHECK-LABEL: func.func @shared
func.func @shared(%x: !breccia.tensor<[M, 64], f32>) -> (!breccia.scaled<[M, 64], f32, #tensor>, !breccia.scaled<[M, 64], f32, #breccia.recipe<f8E5M2, f32 per [all, all]>>) {
  // CHECK: breccia.reduce amax
  // CHECK-NOT: breccia.reduce
  // CHECK: func.return
  %q = breccia.quantize %x policy #e to #tensor
  %r = breccia.quantize %x policy #e to #breccia.recipe<f8E5M2, f32 per [all, all]>
  func.return %q, %r : !breccia.scaled<[M, 64], f32, #tensor>, !breccia.scaled<[M, 64], f32, #breccia.recipe<f8E5M2, f32 per [all, all]>>
}

// Blocks within rows, a tensor of one row, and scales that are given need nothing.
// CHECK-LABEL: func.func @nothing_to_split
func.func @nothing_to_split(%x: !breccia.tensor<[M, 64], f32>, %v: !breccia.tensor<[1, N], f32>, %s: !breccia.tensor<[1, 1], f32>) -> (!breccia.scaled<[M, 64], f32, #row>, !breccia.scaled<[M, 64], f32, #k128>, !breccia.scaled<[1, N], f32, #tensor>, !breccia.scaled<[M, 64], f32, #tensor>) {
  // CHECK-NEXT: breccia.quantize %x
  // CHECK-NEXT: breccia.quantize %x
  // CHECK-NEXT: breccia.quantize %v
  // CHECK-NEXT: breccia.quantize %x, %s given [0]
  // CHECK-NEXT: func.return
  %a = breccia.quantize %x policy #e to #row
  %b = breccia.quantize %x policy #e to #k128
  %c = breccia.quantize %v policy #e to #tensor
  %d = breccia.quantize %x, %s given [0] policy #breccia.policy<amax = delayed> to #tensor
  func.return %a, %b, %c, %d : !breccia.scaled<[M, 64], f32, #row>, !breccia.scaled<[M, 64], f32, #k128>, !breccia.scaled<[1, N], f32, #tensor>, !breccia.scaled<[M, 64], f32, #tensor>
}
