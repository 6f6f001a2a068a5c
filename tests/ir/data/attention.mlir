// Causal attention, two heads of q to one of k and v, with a running softmax; its weights are rounded to bf16.
func.func @tiled(%q: !breccia.tensor<[2 * G, S, 32], f32>, %k: !breccia.tensor<[G, S, 32], f32>, %v: !breccia.tensor<[G, S, 32], f32>) -> !breccia.tensor<[2 * G, S, 32], f32> {
  %y = breccia.kernel "attention" grid(h = 2 * G, m = ceildiv(S, 16), n = min(ceildiv(S, 16), m + 1) reduction)
    in (%q window [one, 16, 32] at (h, m, 0), %k window [one, 16, 32] at (h floordiv 2, n, 0), %v window [one, 16, 32] at (h floordiv 2, n, 0))
    out (!breccia.tensor<[2 * G, S, 32], f32> window [one, 16, 32] at (h, m, 0))
    init {
      %max = full -1.0e+30 [16, 1] : f32
      %sum = full 0.0 [16, 1] : f32
      %acc = full 0.0 [16, 32] : f32
      yield %max, %sum, %acc
    }
    step (%max, %sum, %acc, %q, %k, %v) {
      %s = dot nt %q, %k
      %c = full 0.25 [1, 1] : f32
      %t = binary mul %s, %c
      %row = iota axis 0 start m * 16 [16, 1] : i32
      %col = iota axis 1 start n * 16 [1, 16] : i32
      %ok = binary ge %row, %col
      %low = full -1.0e+30 [1, 1] : f32
      %u = select %ok, %t, %low
      %rmax = reduce max %u axis [1]
      %max2 = binary max %max, %rmax
      %d = binary sub %u, %max2
      %p = unary exp %d
      %d2 = binary sub %max, %max2
      %alpha = unary exp %d2
      %rsum = reduce sum %p axis [1]
      %sum1 = binary mul %sum, %alpha
      %sum2 = binary add %sum1, %rsum
      %pv = dot nn %p, %v
      %acc1 = binary mul %acc, %alpha
      %acc2 = binary add %acc1, %pv
      yield %max2, %sum2, %acc2
    }
    finish (%max, %sum, %acc) {
      %o = binary div %acc, %sum
      %b = convert %o : bf16
      %y = convert %b : f32
      yield %y
    }
  func.return %y : !breccia.tensor<[2 * G, S, 32], f32>
}
func.func @untiled(%q: !breccia.tensor<[2 * G, S, 32], f32>, %k: !breccia.tensor<[G, S, 32], f32>, %v: !breccia.tensor<[G, S, 32], f32>) -> !breccia.tensor<[2 * G, S, 32], f32> {
  %q4 = breccia.reshape %q to [G, 2, S, 32]
  %k4 = breccia.reshape %k to [G, 1, S, 32]
  %v4 = breccia.reshape %v to [G, 1, S, 32]
  %kt = breccia.transpose %k4 [0, 1, 3, 2]
  %s = breccia.matmul %q4, %kt
  %c = breccia.full 0.25 [1, 1, 1, 1] : f32
  %t = breccia.binary mul %s, %c
  %row = breccia.iota axis 2 start 0 [1, 1, S, 1] : i32
  %col = breccia.iota axis 3 start 0 [1, 1, 1, S] : i32
  %ok = breccia.binary ge %row, %col
  %low = breccia.full -1.0e+30 [1, 1, 1, 1] : f32
  %u = breccia.select %ok, %t, %low
  %max = breccia.reduce max %u axis [3]
  %d = breccia.binary sub %u, %max
  %p = breccia.unary exp %d
  %sum = breccia.reduce sum %p axis [3]
  %pv = breccia.matmul %p, %v4
  %o = breccia.binary div %pv, %sum
  %b = breccia.convert %o : bf16
  %f = breccia.convert %b : f32
  %y = breccia.reshape %f to [2 * G, S, 32]
  func.return %y : !breccia.tensor<[2 * G, S, 32], f32>
}
