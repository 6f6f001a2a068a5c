// RUN: breccia-opt %s -p canonicalize | filecheck %s

#fp8 = #breccia.recipe<f8E4M3FN, f32 per [1, 128]>

// CHECK-LABEL: func.func @transposes
func.func @transposes(%x: !breccia.tensor<[2, M, 64], f32>) -> (!breccia.tensor<[2, M, 64], f32>, !breccia.tensor<[64, 2, M], f32>) {
  // CHECK-NEXT: [[T:%.*]] = breccia.transpose %x [2, 0, 1]
  // CHECK-NEXT: func.return %x, [[T]]
  %a = breccia.transpose %x [0, 2, 1]
  %b = breccia.transpose %a [0, 2, 1]
  %c = breccia.transpose %a [1, 0, 2]
  func.return %b, %c : !breccia.tensor<[2, M, 64], f32>, !breccia.tensor<[64, 2, M], f32>
}

// CHECK-LABEL: func.func @reshapes
func.func @reshapes(%x: !breccia.tensor<[M, 64], f32>) -> (!breccia.tensor<[M, 64], f32>, !breccia.tensor<[M, 2, 32], f32>) {
  // CHECK-NEXT: [[R:%.*]] = breccia.reshape %x to [M, 2, 32]
  // CHECK-NEXT: func.return %x, [[R]]
  %a = breccia.reshape %x to [M, 4, 16]
  %b = breccia.reshape %a to [M, 64]
  %c = breccia.reshape %a to [M, 2, 32]
  func.return %b, %c : !breccia.tensor<[M, 64], f32>, !breccia.tensor<[M, 2, 32], f32>
}

// CHECK-LABEL: func.func @widen_and_narrow
func.func @widen_and_narrow(%x: !breccia.tensor<[M], bf16>, %i: !breccia.tensor<[M], i8>) -> (!breccia.tensor<[M], bf16>, !breccia.tensor<[M], i8>) {
  // CHECK-NEXT: func.return %x, %i
  %a = breccia.convert %x : f32
  %b = breccia.convert %a : bf16
  %c = breccia.convert %i : f32
  %d = breccia.convert %c : i8
  func.return %b, %d : !breccia.tensor<[M], bf16>, !breccia.tensor<[M], i8>
}

// A rounding stays, and so does a format with two codes for NaN.
// CHECK-LABEL: func.func @roundings_stay
func.func @roundings_stay(%x: !breccia.tensor<[M], f32>, %f: !breccia.tensor<[M], f8E4M3FN>) -> (!breccia.tensor<[M], f32>, !breccia.tensor<[M], f8E4M3FN>) {
  // CHECK-NEXT: breccia.convert %x : bf16
  // CHECK-NEXT: breccia.convert {{%.*}} : f32
  // CHECK-NEXT: breccia.convert %f : f32
  // CHECK-NEXT: breccia.convert {{%.*}} : f8E4M3FN
  // CHECK-NEXT: func.return
  %a = breccia.convert %x : bf16
  %b = breccia.convert %a : f32
  %c = breccia.convert %f : f32
  %d = breccia.convert %c : f8E4M3FN
  func.return %b, %d : !breccia.tensor<[M], f32>, !breccia.tensor<[M], f8E4M3FN>
}

// CHECK-LABEL: func.func @encoding_stays
func.func @encoding_stays(%x: !breccia.tensor<[M, 256], f32>, %q: !breccia.scaled<[M, 256], f32, #fp8>) -> (!breccia.tensor<[M, 256], f32>, !breccia.scaled<[M, 256], f32, #fp8>) {
  // CHECK-NEXT: breccia.quantize %x
  // CHECK-NEXT: breccia.dequantize
  // CHECK-NEXT: breccia.dequantize %q
  // CHECK-NEXT: breccia.quantize
  // CHECK-NEXT: func.return
  %a = breccia.quantize %x policy #breccia.policy<> to #fp8
  %b = breccia.dequantize %a
  %c = breccia.dequantize %q
  %d = breccia.quantize %c policy #breccia.policy<> to #fp8
  func.return %b, %d : !breccia.tensor<[M, 256], f32>, !breccia.scaled<[M, 256], f32, #fp8>
}

// CHECK-LABEL: func.func @components
func.func @components(%e: !breccia.tensor<[M, 256], f8E4M3FN>, %s: !breccia.tensor<[M, 2], f32>, %q: !breccia.scaled<[M, 256], f32, #fp8>) -> (!breccia.tensor<[M, 256], f8E4M3FN>, !breccia.tensor<[M, 2], f32>, !breccia.scaled<[M, 256], f32, #fp8>) {
  // CHECK-NEXT: func.return %e, %s, %q
  %a = breccia.assemble %e, %s as !breccia.scaled<[M, 256], f32, #fp8>
  %b, %c = breccia.parts %a
  %d, %f = breccia.parts %q
  %g = breccia.assemble %d, %f as !breccia.scaled<[M, 256], f32, #fp8>
  func.return %b, %c, %g : !breccia.tensor<[M, 256], f8E4M3FN>, !breccia.tensor<[M, 2], f32>, !breccia.scaled<[M, 256], f32, #fp8>
}

// Parts of two tensors are no tensor.
// CHECK-LABEL: func.func @mixed_components
func.func @mixed_components(%p: !breccia.scaled<[M, 256], f32, #fp8>, %q: !breccia.scaled<[M, 256], f32, #fp8>) -> !breccia.scaled<[M, 256], f32, #fp8> {
  // CHECK: breccia.parts %p
  // CHECK: breccia.parts %q
  // CHECK: breccia.assemble
  %a, %b = breccia.parts %p
  %c, %d = breccia.parts %q
  %e = breccia.assemble %a, %d as !breccia.scaled<[M, 256], f32, #fp8>
  func.return %e : !breccia.scaled<[M, 256], f32, #fp8>
}

// CHECK-LABEL: func.func @neutral
func.func @neutral(%x: !breccia.tensor<[M, 4], f32>) -> (!breccia.tensor<[M, 4], f32>, !breccia.tensor<[M, 4], f32>, !breccia.tensor<[M, 4], f32>) {
  // CHECK-NEXT: func.return %x, %x, %x
  %one = breccia.full 1.0 [] : f32
  %zero = breccia.full -0.0 [1, 1] : f32
  %low = breccia.full -inf [] : f32
  %a = breccia.binary mul %one, %x
  %b = breccia.binary add %x, %zero
  %c = breccia.binary max %x, %low
  func.return %a, %b, %c : !breccia.tensor<[M, 4], f32>, !breccia.tensor<[M, 4], f32>, !breccia.tensor<[M, 4], f32>
}

// x + 0 turns -0 into 0; x * 0 and x - x may be NaN.
// CHECK-LABEL: func.func @not_neutral
func.func @not_neutral(%x: !breccia.tensor<[M, 4], f32>) -> (!breccia.tensor<[M, 4], f32>, !breccia.tensor<[M, 4], f32>, !breccia.tensor<[M, 4], f32>) {
  // CHECK: breccia.binary add %x
  // CHECK: breccia.binary mul %x
  // CHECK: breccia.binary sub %x, %x
  %zero = breccia.full 0.0 [] : f32
  %a = breccia.binary add %x, %zero
  %b = breccia.binary mul %x, %zero
  %c = breccia.binary sub %x, %x
  func.return %a, %b, %c : !breccia.tensor<[M, 4], f32>, !breccia.tensor<[M, 4], f32>, !breccia.tensor<[M, 4], f32>
}

// x * 1 of a smaller x still broadcasts.
// CHECK-LABEL: func.func @neutral_that_broadcasts
func.func @neutral_that_broadcasts(%x: !breccia.tensor<[1, 4], f32>) -> !breccia.tensor<[3, 4], f32> {
  // CHECK: breccia.binary mul %x
  %one = breccia.full 1.0 [3, 1] : f32
  %a = breccia.binary mul %x, %one
  func.return %a : !breccia.tensor<[3, 4], f32>
}

// CHECK-LABEL: func.func @constants
func.func @constants(%x: !breccia.tensor<[M], f32>) -> (!breccia.tensor<[], f32>, !breccia.tensor<[M], f32>) {
  // CHECK-NEXT: [[C:%.*]] = breccia.full -0.333984375 [] : f32
  // CHECK-NEXT: func.return [[C]], %x
  %one = breccia.full 1.0 [] : f32
  %three = breccia.full 3.0 [] : f32
  %a = breccia.binary div %one, %three
  %b = breccia.convert %a : bf16
  %c = breccia.convert %b : f32
  %d = breccia.unary neg %c
  %yes = breccia.binary lt %one, %three
  %e = breccia.select %yes, %x, %one
  func.return %d, %e : !breccia.tensor<[], f32>, !breccia.tensor<[M], f32>
}

// A target's exp may differ in its last bit.
// CHECK-LABEL: func.func @exp_stays
func.func @exp_stays() -> !breccia.tensor<[], f32> {
  // CHECK: breccia.unary exp
  %one = breccia.full 1.0 [] : f32
  %a = breccia.unary exp %one
  func.return %a : !breccia.tensor<[], f32>
}

// CHECK-LABEL: func.func @implied_broadcast
func.func @implied_broadcast(%x: !breccia.tensor<[M, 4], f32>, %b: !breccia.tensor<[4], f32>) -> (!breccia.tensor<[M, 4], f32>, !breccia.tensor<[2, 4], f32>) {
  // CHECK-NEXT: [[A:%.*]] = breccia.binary add %x, %b
  // CHECK-NEXT: [[W:%.*]] = breccia.broadcast %b to [2, 4]
  // CHECK-NEXT: breccia.binary add
  %wide = breccia.broadcast %b to [M, 4]
  %a = breccia.binary add %x, %wide
  %two = breccia.broadcast %b to [2, 4]
  %c = breccia.binary add %two, %b
  func.return %a, %c : !breccia.tensor<[M, 4], f32>, !breccia.tensor<[2, 4], f32>
}

// A product decodes to f32 itself; a rounding to bf16 in between stays.
// CHECK-LABEL: func.func @decoded_operands
func.func @decoded_operands(%x: !breccia.tensor<[M, 256], bf16>, %w: !breccia.scaled<[256, 8], bf16, #breccia.recipe<f8E4M3FN, f32 per [128, 1]>>) -> (!breccia.tensor<[M, 8], f32>, !breccia.tensor<[M, 8], f32>) {
  // CHECK-NEXT: [[D:%.*]] = breccia.dequantize %w
  // CHECK-NEXT: breccia.matmul %x, %w
  // CHECK-NEXT: [[R:%.*]] = breccia.convert [[D]] : bf16
  // CHECK-NEXT: breccia.matmul %x, [[R]]
  %f = breccia.convert %x : f32
  %d = breccia.dequantize %w
  %y = breccia.matmul %f, %d
  %r = breccia.convert %d : bf16
  %z = breccia.matmul %x, %r
  func.return %y, %z : !breccia.tensor<[M, 8], f32>, !breccia.tensor<[M, 8], f32>
}
