// RUN: breccia-opt %s -p fold-batch | filecheck %s

#p = #breccia.policy<>
#k32 = #breccia.recipe<f8E4M3FN, f32 per [1, 1, 32]>
#column = #breccia.recipe<f8E4M3FN, f32 per [1, 32, 1]>

// What stands before and after the product folds with it; reshapes stand where values come from, and where they go.
// CHECK-LABEL: func.func @layer
func.func @layer(%x: !breccia.tensor<[M, N, 64], f32>, %w: !breccia.tensor<[64, 32], f32>, %r: !breccia.tensor<[M, N, 32], f32>, %b: !breccia.tensor<[32], f32>) -> !breccia.scaled<[M, N, 32], f32, #k32> {
  // CHECK-NEXT: [[X:%.*]] = breccia.reshape %x to [M * N, 64]
  // CHECK-NEXT: %q = breccia.quantize [[X]] policy {{.*}}
  // CHECK-NEXT: %y = breccia.matmul %q, %w
  // CHECK-NEXT: %z = breccia.binary add %y, %b
  // CHECK-NEXT: [[R:%.*]] = breccia.reshape %r to [M * N, 32]
  // CHECK-NEXT: %s = breccia.binary add %z, [[R]]
  // CHECK-NEXT: %o = breccia.quantize %s policy {{.*}}
  // CHECK-NEXT: [[O:%.*]] = breccia.reshape %o to [M, N, 32]
  // CHECK-NEXT: func.return [[O]]
  %q = breccia.quantize %x policy #p to #k32
  %y = breccia.matmul %q, %w
  %z = breccia.binary add %y, %b
  %s = breccia.binary add %z, %r
  %o = breccia.quantize %s policy #p to #k32
  func.return %o : !breccia.scaled<[M, N, 32], f32, #k32>
}

// A batch of products, and what is on its own, stay.
// CHECK-LABEL: func.func @batch
func.func @batch(%x: !breccia.tensor<[M, N, 64], f32>, %w: !breccia.tensor<[M, 64, 32], f32>) -> (!breccia.tensor<[M, N, 32], f32>, !breccia.tensor<[M, N, 64], f32>) {
  // CHECK-NOT: breccia.reshape
  %y = breccia.matmul %x, %w
  %z = breccia.unary silu %x
  func.return %y, %z : !breccia.tensor<[M, N, 32], f32>, !breccia.tensor<[M, N, 64], f32>
}

// Blocks that span rows of one matrix end where it ends, so that encoding comes before the rows are joined: never.
// CHECK-LABEL: func.func @columns
func.func @columns(%x: !breccia.tensor<[M, N, 64], f32>, %w: !breccia.tensor<[64, 32], f32>) -> !breccia.tensor<[M, N, 32], f32> {
  // CHECK-NOT: breccia.reshape
  %q = breccia.quantize %x policy #p to #column
  %y = breccia.matmul %q, %w
  func.return %y : !breccia.tensor<[M, N, 32], f32>
}
