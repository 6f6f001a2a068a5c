// RUN: breccia-opt %s | filecheck %s
// RUN: breccia-opt %s --generic | filecheck %s --check-prefix=GENERIC

// A type says how to decode; the policy stands on the op alone. Recipes that stand more than once get a short name.
// CHECK: #recipe1 = #breccia.recipe<f8E4M3FN, f8E8M0FNU per [1, 32]>
// CHECK-LABEL: func.func @types
// CHECK: breccia.quantize %x policy #breccia.policy<scale = ceil, zero_scale = smallest> to #recipe1
// CHECK: breccia.matmul %q, %w place_a #breccia.place<operand> place_b #breccia.place<epilogue, operand>
// GENERIC: "breccia.quantize"(%x) <{policy = #breccia.policy<scale = ceil, zero_scale = smallest>, recipe = #breccia.recipe<f8E4M3FN, f8E8M0FNU per [1, 32]>}>
func.func @types(%x: !breccia.tensor<[2 * G, 256], f32>, %w: !breccia.scaled<[256, N], bf16, #breccia.recipe<f4E2M1FN, f32 per [all, all], f8E4M3FN per [16, 1]>>) -> !breccia.tensor<[2 * G, N], f32> {
  %q = breccia.quantize %x policy #breccia.policy<scale = ceil, zero_scale = smallest> to #breccia.recipe<f8E4M3FN, f8E8M0FNU per [1, 32]>
  %y = breccia.matmul %q, %w place_a #breccia.place<operand> place_b #breccia.place<epilogue, operand>
  func.return %y : !breccia.tensor<[2 * G, N], f32>
}
