// RUN: breccia-opt %s --emit numpy | filecheck %s

// What coarsen leaves of a grid is a loop; windows are slices, and an empty segment is skipped.

func.func @grouped(%off: !breccia.tensor<[4], i32>, %x: !breccia.tensor<[T, 16], f32>, %w: !breccia.tensor<[3, 16, 8], f32>)
    -> !breccia.tensor<[T, 8], f32> {
  %y = breccia.kernel "grouped_0" grid(e = 3, m = ceildiv(T, 4))
    in (%off, %x window [4, 16] at (m, 0) within axis 0 %off[e] to %off[e + 1], %w window [one, 16, 8] at (e, 0, 0))
    out (!breccia.tensor<[T, 8], f32> window [4, 8] at (m, 0) within axis 0 %off[e] to %off[e + 1])
    finish (%x, %w) {
      %p = dot nn %x, %w
      yield %p }
  func.return %y : !breccia.tensor<[T, 8], f32>
}

// CHECK:       def _grouped_0(xp, rt, off, x, w, T):
// CHECK:         y = rt.empty(xp, (T, 8), "f32")
// CHECK-NEXT:    for e in range(3):
// CHECK-NEXT:      for m in range(-(-T // 4)):
// CHECK-NEXT:        if int(off[e]) + m * 4 >= int(off[e + 1]):
// CHECK-NEXT:          continue
// CHECK-NEXT:        x_tile = x[int(off[e]) + m * 4:min(int(off[e]) + m * 4 + 4, int(off[e + 1])), :]
// CHECK-NEXT:        w_tile = w[e, :, :]
// CHECK-NEXT:        p = xp.matmul(x_tile, w_tile)
// CHECK-NEXT:        y = rt.store(xp, y, rt.at[{{.*}}], p)
// CHECK-NEXT:    return y
