// RUN: breccia-opt %s -p dce | filecheck %s

// CHECK-LABEL: func.func @chain
func.func @chain(%x: !breccia.tensor<[M, 4], f32>) -> !breccia.tensor<[M, 4], f32> {
  // CHECK-NEXT: %y = breccia.unary neg %x
  // CHECK-NEXT: func.return %y
  %a = breccia.unary exp %x
  %b = breccia.unary exp %a
  %y = breccia.unary neg %x
  func.return %y : !breccia.tensor<[M, 4], f32>
}

// A kernel loses the result that nobody uses, the op behind it, and the operand that only this op read.
// CHECK-LABEL: func.func @results
func.func @results(%x: !breccia.tensor<[M, 4], f32>, %z: !breccia.tensor<[M, 4], f32>) -> !breccia.tensor<[M, 4], f32> {
  // CHECK-NEXT: %y = breccia.kernel "k" schedule<num_warps = 4>
  // CHECK-NEXT: in (%x)
  // CHECK-NEXT: out (!breccia.tensor<[M, 4], f32>)
  // CHECK-NEXT: body (%x) {
  // CHECK-NEXT: unary neg %x
  // CHECK-NEXT: yield
  %u, %y = breccia.kernel "k" schedule<num_warps = 4> in (%z, %x) out (!breccia.tensor<[M, 4], f32>, !breccia.tensor<[M, 4], f32>) body (%z, %x) {
    %a = unary exp %z
    %b = unary neg %x
    yield %a, %b
  }
  func.return %y : !breccia.tensor<[M, 4], f32>
}

// A value that is yielded twice is one result.
// CHECK-LABEL: func.func @twice
func.func @twice(%x: !breccia.tensor<[M, 4], f32>) -> (!breccia.tensor<[M, 4], f32>, !breccia.tensor<[M, 4], f32>) {
  // CHECK: %y = breccia.kernel "k"
  // CHECK: func.return %y, %y
  %y, %z = breccia.kernel "k" in (%x) out (!breccia.tensor<[M, 4], f32>, !breccia.tensor<[M, 4], f32>) body (%x) {
    %b = unary neg %x
    yield %b, %b
  }
  func.return %y, %z : !breccia.tensor<[M, 4], f32>, !breccia.tensor<[M, 4], f32>
}

// What is used stays, and so do arguments of functions.
// CHECK-LABEL: func.func @used
func.func @used(%x: !breccia.tensor<[M, 4], f32>, %unused: !breccia.tensor<[M, 4], f32>) -> (!breccia.tensor<[M, 4], f32>, !breccia.tensor<[M, 4], f32>) {
  // CHECK: %a, %b = breccia.kernel "k"
  // CHECK: func.return %b, %a
  %a, %b = breccia.kernel "k" in (%x) out (!breccia.tensor<[M, 4], f32>, !breccia.tensor<[M, 4], f32>) body (%x) {
    %c = unary neg %x
    %d = unary exp %c
    yield %c, %d
  }
  func.return %b, %a : !breccia.tensor<[M, 4], f32>, !breccia.tensor<[M, 4], f32>
}
