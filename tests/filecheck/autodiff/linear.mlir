// RUN: breccia-opt --gradients x,w %s | filecheck %s --check-prefix=PLAIN
// RUN: breccia-opt --gradients x,w --training mxfp8 %s | filecheck %s --check-prefix=MX
// RUN: breccia-opt --gradients x,w --training float8_current %s | filecheck %s --check-prefix=TENSOR
// RUN: breccia-opt --gradients x --training mxfp8 %s | filecheck %s --check-prefix=FROZEN
// RUN: breccia-opt --gradients x,w --training mxfp8 --target triton:sm_90 -p default --interpret --function linear_backward %s | filecheck %s --check-prefix=RUN-BACKWARD
// RUN: not breccia-opt --gradients x,v %s 2>&1 | filecheck %s --check-prefix=NAME
// RUN: not breccia-opt --gradients x --training fp9 %s 2>&1 | filecheck %s --check-prefix=RECIPE
// RUN: not breccia-opt --training mxfp8 %s 2>&1 | filecheck %s --check-prefix=ALONE

func.func @linear(%x: !breccia.tensor<[M, 256], bf16>, %w: !breccia.tensor<[256, 128], bf16>) -> !breccia.tensor<[M, 128], bf16> {
  %p = breccia.matmul %x, %w
  %y = breccia.convert %p : bf16
  func.return %y : !breccia.tensor<[M, 128], bf16>
}

// Of two operands in bf16, the gradient is multiplied in bf16 too. Arguments are saved as they are.
// PLAIN-LABEL: func.func @linear(
// PLAIN: func.return %y : !breccia.tensor<[M, 128], bf16>
// PLAIN-LABEL: func.func @linear_backward(%dy: !breccia.tensor<[M, 128], bf16>, %w: {{.*}}, %x: {{.*}})
// PLAIN-NEXT: [[F:%.*]] = breccia.convert %dy : f32
// PLAIN-NEXT: [[D:%.*]] = breccia.convert [[F]] : bf16
// PLAIN-NEXT: [[WT:%.*]] = breccia.transpose %w [1, 0]
// PLAIN-NEXT: [[DX:%.*]] = breccia.matmul [[D]], [[WT]]
// PLAIN-NEXT: [[XT:%.*]] = breccia.transpose %x [1, 0]
// PLAIN-NEXT: [[DW:%.*]] = breccia.matmul [[XT]], [[D]]
// PLAIN-NEXT: %dx = breccia.convert [[DX]] : bf16
// PLAIN-NEXT: %dw = breccia.convert [[DW]] : bf16
// PLAIN-NEXT: func.return %dx, %dw

// Blocks along one axis: every operand is encoded anew, and %x along its rows in the forward function.
// MX: #recipe0 = #breccia.recipe<f8E4M3FN, f8E8M0FNU per [1, 32]>
// MX: #recipe1 = #breccia.recipe<f8E4M3FN, f8E8M0FNU per [32, 1]>
// MX-LABEL: func.func @linear(
// MX-NEXT: %x_rows = breccia.quantize %x policy {{.*}} to #recipe0
// MX-NEXT: %w_columns = breccia.quantize %w policy {{.*}} to #recipe1
// MX-NEXT: %x_columns = breccia.quantize %x policy {{.*}} to #recipe1
// MX-NEXT: %p = breccia.matmul %x_rows, %w_columns
// MX: func.return %y, %x_columns
// MX-LABEL: func.func @linear_backward(%dy: {{.*}}, %w: {{.*}}, %x_columns: !breccia.scaled<[M, 256], bf16, #recipe1>)
// MX-NEXT: [[F:%.*]] = breccia.convert %dy : f32
// MX-NEXT: [[D:%.*]] = breccia.quantize [[F]] policy {{.*}} to #recipe0
// MX-NEXT: %w_rows = breccia.quantize %w policy {{.*}} to #recipe0
// MX-NEXT: [[WT:%.*]] = breccia.transpose %w_rows [1, 0]
// MX-NEXT: breccia.matmul [[D]], [[WT]]
// MX-NEXT: [[C:%.*]] = breccia.quantize [[F]] policy {{.*}} to #recipe1
// MX-NEXT: [[XT:%.*]] = breccia.transpose %x_columns [1, 0]
// MX-NEXT: breccia.matmul [[XT]], [[C]]

// One scale for the tensor: one encoding of each forward operand serves both products.
// TENSOR-LABEL: func.func @linear(
// TENSOR-COUNT-2: breccia.quantize
// TENSOR-NOT: breccia.quantize
// TENSOR: func.return %y, %w_columns, %x_rows
// TENSOR-LABEL: func.func @linear_backward(
// TENSOR-NOT: breccia.quantize %w
// TENSOR: breccia.transpose %w_columns [1, 0]
// TENSOR: breccia.transpose %x_rows [1, 0]

// A weight that is not trained: no second encoding of %x, and nothing of it is saved.
// FROZEN-LABEL: func.func @linear(
// FROZEN-NOT: %x_columns
// FROZEN: func.return %y : !breccia.tensor<[M, 128], bf16>
// FROZEN-LABEL: func.func @linear_backward(%dy: {{.*}}, %w: {{.*}}) -> !breccia.tensor<[M, 256], bf16>
// FROZEN-COUNT-1: breccia.matmul
// FROZEN-NOT: breccia.matmul

// RUN-BACKWARD: // @linear_backward: seed 0, M = 40
// RUN-BACKWARD-NEXT: // result 0: bfloat16[40, 256] equal
// RUN-BACKWARD-NEXT: // result 1: bfloat16[256, 128] equal

// NAME: --gradients v: there is no such argument; arguments: x, w
// RECIPE: --training fp9: unknown training recipe; known: float8_current, float8_block, mxfp8
// ALONE: --training says how products are encoded for --gradients; give both
