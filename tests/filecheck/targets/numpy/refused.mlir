// RUN: not breccia-opt %s --emit numpy 2>&1 | filecheck %s
// RUN: not breccia-opt %s --emit metal 2>&1 | filecheck %s --check-prefix=METAL

// CHECK: error: numpy: cannot print breccia.quantize; it prints tiled modules of the pipeline for numpy
// METAL: error: emit needs to know the target: give the module the attribute breccia.target

func.func @f(%x : !breccia.tensor<[M, 32], f32>) -> !breccia.tensor<[M, 32], f32> {
  %q = breccia.quantize %x policy #breccia.policy<> to #breccia.recipe<f8E4M3FN, f32 per [1, 32]>
  %y = breccia.dequantize %q
  func.return %y : !breccia.tensor<[M, 32], f32>
}
