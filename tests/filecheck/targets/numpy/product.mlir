// RUN: breccia-opt %s --target numpy -p default --emit numpy | filecheck %s

// Scales that cover all of k wait until after the product; the others are applied to the operand.

func.func @product(%x : !breccia.scaled<[M, 96], f32, #breccia.recipe<f8E4M3FN, f32 per [1, all]>>,
    %w : !breccia.scaled<[96, 40], f32, #breccia.recipe<f4E2M1FN, f32 per [all, all], f8E4M3FN per [16, 1]>>)
    -> !breccia.tensor<[M, 40], f32> {
  %y = breccia.matmul %x, %w
  func.return %y : !breccia.tensor<[M, 40], f32>
}

// CHECK:       def _gemm_0(xp, rt, x_elements, w_elements, w_scale1, x_scale0, w_scale0):
// CHECK:         [[S:\w+]] = rt.decode(xp, w_scale1, "float8_e4m3fn")
// CHECK-NEXT:    w_values = rt.dequantize(xp, w_elements, "float4_e2m1fn", (([[S]], (16, 1)),), size=40)
// CHECK-NEXT:    {{\w+}} = rt.decode(xp, x_elements, "float8_e4m3fn")
// CHECK-NEXT:    [[P:\w+]] = xp.matmul({{\w+}}, w_values)
// CHECK-NEXT:    [[T:\w+]] = {{[wx]_scale0 \* [wx]_scale0}}
// CHECK-NEXT:    [[P]] *= [[T]]
// CHECK:         return
// CHECK:       @runtime.quiet
// CHECK-NEXT:  def product(x_elements, x_scale0, w_elements, w_scale0, w_scale1, *, xp=np, rt=runtime):
