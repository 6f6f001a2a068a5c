// RUN: breccia-opt %s -p cse | filecheck %s

#row = #breccia.recipe<f8E4M3FN, f32 per [1, all]>

// CHECK-LABEL: func.func @equal_quantizes
func.func @equal_quantizes(%x: !breccia.tensor<[M, 64], f32>) -> (!breccia.scaled<[M, 64], f32, #row>, !breccia.scaled<[M, 64], f32, #row>) {
  // CHECK-NEXT: %a = breccia.quantize %x
  // CHECK-NEXT: func.return %a, %a
  %a = breccia.quantize %x policy #breccia.policy<> to #row
  %b = breccia.quantize %x policy #breccia.policy<> to #row
  func.return %a, %b : !breccia.scaled<[M, 64], f32, #row>, !breccia.scaled<[M, 64], f32, #row>
}

// Another policy is another value.
// CHECK-LABEL: func.func @other_policy
func.func @other_policy(%x: !breccia.tensor<[M, 64], f32>) -> (!breccia.scaled<[M, 64], f32, #row>, !breccia.scaled<[M, 64], f32, #row>) {
  // CHECK: func.return %a, %b
  %a = breccia.quantize %x policy #breccia.policy<> to #row
  %b = breccia.quantize %x policy #breccia.policy<overflow = nan> to #row
  func.return %a, %b : !breccia.scaled<[M, 64], f32, #row>, !breccia.scaled<[M, 64], f32, #row>
}

// Stochastic rounding takes its seed as an operand: equal seeds are equal values, others are not.
// CHECK-LABEL: func.func @seeds
func.func @seeds(%x: !breccia.tensor<[M, 64], f32>, %s: !breccia.tensor<[], i64>, %t: !breccia.tensor<[], i64>) -> (!breccia.scaled<[M, 64], f32, #row>, !breccia.scaled<[M, 64], f32, #row>, !breccia.scaled<[M, 64], f32, #row>) {
  // CHECK: func.return %a, %a, %c
  %a = breccia.quantize %x, %s policy #breccia.policy<rounding = stochastic> to #row
  %b = breccia.quantize %x, %s policy #breccia.policy<rounding = stochastic> to #row
  %c = breccia.quantize %x, %t policy #breccia.policy<rounding = stochastic> to #row
  func.return %a, %b, %c : !breccia.scaled<[M, 64], f32, #row>, !breccia.scaled<[M, 64], f32, #row>, !breccia.scaled<[M, 64], f32, #row>
}

// CHECK-LABEL: func.func @kernels
func.func @kernels(%x: !breccia.tensor<[M, 64], f32>) -> (!breccia.tensor<[M, 64], f32>, !breccia.tensor<[M, 64], f32>, !breccia.tensor<[M, 64], f32>) {
  // CHECK: func.return %a, %a, %c
  %a = breccia.kernel "one" in (%x) out (!breccia.tensor<[M, 64], f32>) body (%x) { %n = unary neg %x yield %n }
  %b = breccia.kernel "two" in (%x) out (!breccia.tensor<[M, 64], f32>) body (%x) { %n = unary neg %x yield %n }
  %c = breccia.kernel "three" in (%x) out (!breccia.tensor<[M, 64], f32>) body (%x) { %n = unary abs %x yield %n }
  func.return %a, %b, %c : !breccia.tensor<[M, 64], f32>, !breccia.tensor<[M, 64], f32>, !breccia.tensor<[M, 64], f32>
}

// -0.0 and 0.0 are different constants; NaN equals NaN.
// CHECK-LABEL: func.func @constants
func.func @constants() -> (!breccia.tensor<[], f32>, !breccia.tensor<[], f32>, !breccia.tensor<[], f32>, !breccia.tensor<[], f32>) {
  // CHECK: func.return %a, %b, %c, %c
  %a = breccia.full 0.0 [] : f32
  %b = breccia.full -0.0 [] : f32
  %c = breccia.full nan [] : f32
  %d = breccia.full nan [] : f32
  func.return %a, %b, %c, %d : !breccia.tensor<[], f32>, !breccia.tensor<[], f32>, !breccia.tensor<[], f32>, !breccia.tensor<[], f32>
}
