// RUN: breccia-opt %s --target numpy -p place-scales | filecheck %s --check-prefix=NUMPY
// RUN: breccia-opt %s --target triton:sm_90 -p place-scales | filecheck %s --check-prefix=SM90
// RUN: breccia-opt %s --target triton:sm_100 -p place-scales | filecheck %s --check-prefix=SM100
// RUN: not breccia-opt %s -p place-scales 2>&1 | filecheck %s --check-prefix=NONE

// NONE: place-scales needs to know the target

#row = #breccia.recipe<f8E4M3FN, f32 per [1, all]>
#tensor = #breccia.recipe<f8E4M3FN, f32 per [all, all]>
#k128 = #breccia.recipe<f8E4M3FN, f32 per [1, 128]>
#square = #breccia.recipe<f8E4M3FN, f32 per [128, 128]>
#mx = #breccia.recipe<f8E4M3FN, f8E8M0FNU per [1, 32]>
#mxt = #breccia.recipe<f8E4M3FN, f8E8M0FNU per [32, 1]>
#nv = #breccia.recipe<f4E2M1FN, f32 per [all, all], f8E4M3FN per [1, 16]>
#nvt = #breccia.recipe<f4E2M1FN, f32 per [all, all], f8E4M3FN per [16, 1]>
#int4 = #breccia.recipe<i4, bf16 per [128, 1]>
#uint4 = #breccia.recipe<ui4, f16 per [128, 1], zero ui4>
#affine = #breccia.recipe<ui4, f32 per [128, 1], offset f32>

// One scale for all of k waits until the sum is done, on every target.
// NUMPY-LABEL: func.func @whole
// NUMPY: place_a #breccia.place<epilogue> place_b #breccia.place<epilogue>
// NUMPY-SAME: a level 0 (f32 per [1, all]): epilogue, since one scale covers all of k = 576
// SM90-LABEL: func.func @whole
// SM90: %y = breccia.matmul %a, %w place_a #breccia.place<epilogue> place_b #breccia.place<epilogue>
// SM90-SAME: compute: triton:sm_90 multiplies f8E4M3FN by f8E4M3FN as they are
func.func @whole(%a: !breccia.scaled<[M, 576], f32, #row>, %w: !breccia.scaled<[576, 64], f32, #tensor>) -> !breccia.tensor<[M, 64], f32> {
  %y = breccia.matmul %a, %w
  func.return %y : !breccia.tensor<[M, 64], f32>
}

// NUMPY-LABEL: func.func @blocks
// NUMPY: place_a #breccia.place<operand> place_b #breccia.place<operand>
// NUMPY-SAME: mainloop is out: numpy does not offer it
// SM90-LABEL: func.func @blocks
// SM90: place_a #breccia.place<mainloop> place_b #breccia.place<mainloop>
// SM90-SAME: a level 0 (f32 per [1, 128]): mainloop, since blocks of 128 along k meet the tile; epilogue is out: the block does not cover k = 576; mma is out: triton:sm_90 has no scaled instruction for f8E4M3FN with f32 scales
func.func @blocks(%a: !breccia.scaled<[M, 576], f32, #k128>, %w: !breccia.scaled<[576, 64], f32, #square>) -> !breccia.tensor<[M, 64], f32> {
  %y = breccia.matmul %a, %w
  func.return %y : !breccia.tensor<[M, 64], f32>
}

// A block that covers a short k is a scale for all of it.
// NUMPY-LABEL: func.func @short
// NUMPY: place_a #breccia.place<epilogue> place_b #breccia.place<epilogue>
func.func @short(%a: !breccia.scaled<[M, 96], f32, #k128>, %w: !breccia.scaled<[96, 64], f32, #square>) -> !breccia.tensor<[M, 64], f32> {
  %y = breccia.matmul %a, %w
  func.return %y : !breccia.tensor<[M, 64], f32>
}

// A symbolic k is never known to be short.
// NUMPY-LABEL: func.func @symbolic
// NUMPY: place_a #breccia.place<operand> place_b #breccia.place<operand>
// NUMPY-SAME: the block does not cover k = K
func.func @symbolic(%a: !breccia.scaled<[M, K], f32, #k128>, %w: !breccia.scaled<[K, 64], f32, #square>) -> !breccia.tensor<[M, 64], f32> {
  %y = breccia.matmul %a, %w
  func.return %y : !breccia.tensor<[M, 64], f32>
}

// Decoded values reach below what bf16 holds, by bits that this target says it may lose.
// SM90-LABEL: func.func @mx
// SM90: breccia.matmul %a, %w compute bf16 place_a #breccia.place<operand> place_b #breccia.place<operand>
// SM90-SAME: blocks of 32 along k are shorter than 128
// SM90-SAME: compute bf16: it holds both operands exactly but for values below 2**-126
// SM100-LABEL: func.func @mx
// SM100: place_a #breccia.place<mma> place_b #breccia.place<mma>
func.func @mx(%a: !breccia.scaled<[M, 256], f32, #mx>, %w: !breccia.scaled<[256, 64], f32, #mxt>) -> !breccia.tensor<[M, 64], f32> {
  %y = breccia.matmul %a, %w
  func.return %y : !breccia.tensor<[M, 64], f32>
}

// Two levels: the tensor's scale waits, the inner one is decoded in bf16, where it is exact, or goes to the instruction.
// SM90-LABEL: func.func @nv
// SM90: compute bf16 place_a #breccia.place<epilogue, operand> place_b #breccia.place<epilogue, operand>
// SM100-LABEL: func.func @nv
// SM100: breccia.matmul %a, %w place_a #breccia.place<epilogue, mma> place_b #breccia.place<epilogue, mma>
func.func @nv(%a: !breccia.scaled<[M, 256], f32, #nv>, %w: !breccia.scaled<[256, 64], f32, #nvt>) -> !breccia.tensor<[M, 64], f32> {
  %y = breccia.matmul %a, %w
  func.return %y : !breccia.tensor<[M, 64], f32>
}

// A scaled instruction takes scales on both sides: a plain or tensor-scaled partner keeps the other side from it.
// SM100-LABEL: func.func @partner
// SM100: place_b #breccia.place<operand>
// SM100-SAME: a is plain (bf16), and scaled instructions take scales on both sides
// SM100: place_a #breccia.place<epilogue> place_b #breccia.place<operand>
// SM100-SAME: no scaled instruction for f8E4M3FN with f32 scales
func.func @partner(%x: !breccia.tensor<[M, 256], bf16>, %a: !breccia.scaled<[M, 256], f32, #tensor>, %w: !breccia.scaled<[256, 64], f32, #mxt>) -> (!breccia.tensor<[M, 64], f32>, !breccia.tensor<[M, 64], f32>) {
  %y = breccia.matmul %x, %w
  %z = breccia.matmul %a, %w
  func.return %y, %z : !breccia.tensor<[M, 64], f32>, !breccia.tensor<[M, 64], f32>
}

// INT4 in bf16 activations: elements (less zero points) are exact in bf16, and the scales wait for partial sums; an
// offset is added after the scale, so nothing can wait.
// SM90-LABEL: func.func @integers
// SM90: compute bf16 place_b #breccia.place<mainloop>
// SM90: compute bf16 place_b #breccia.place<mainloop>
// SM90: breccia.matmul %x, %v place_b #breccia.place<operand>
// SM90-SAME: an offset is added after the scale, so that values must be decoded first
func.func @integers(%x: !breccia.tensor<[M, 256], bf16>, %w: !breccia.scaled<[256, 64], bf16, #int4>, %u: !breccia.scaled<[256, 64], bf16, #uint4>, %v: !breccia.scaled<[256, 64], bf16, #affine>) -> (!breccia.tensor<[M, 64], f32>, !breccia.tensor<[M, 64], f32>, !breccia.tensor<[M, 64], f32>) {
  %y = breccia.matmul %x, %w
  %z = breccia.matmul %x, %u
  %t = breccia.matmul %x, %v
  func.return %y, %z, %t : !breccia.tensor<[M, 64], f32>, !breccia.tensor<[M, 64], f32>, !breccia.tensor<[M, 64], f32>
}

// Blocks of 96 do not meet partial sums of 128: the second one is decoded on load.
// SM90-LABEL: func.func @strangers
// SM90: place_a #breccia.place<mainloop> place_b #breccia.place<operand>
// SM90-SAME: blocks of 192 do not meet the blocks of 128
func.func @strangers(%a: !breccia.scaled<[M, 768], f32, #k128>, %w: !breccia.scaled<[768, 64], f32, #breccia.recipe<f8E4M3FN, f32 per [192, 1]>>) -> !breccia.tensor<[M, 64], f32> {
  %y = breccia.matmul %a, %w
  func.return %y : !breccia.tensor<[M, 64], f32>
}

// A weight whose blocks run along n: the reason says what to do.
// NUMPY-LABEL: func.func @wrong_axis
// NUMPY: b level 0 (f32 per [1, 128]): operand
// NUMPY-SAME: cast the weight with axis=0 so that its blocks run along k and the scale folds
func.func @wrong_axis(%x: !breccia.tensor<[M, 256], f32>, %w: !breccia.scaled<[256, 256], f32, #k128>) -> !breccia.tensor<[M, 256], f32> {
  %y = breccia.matmul %x, %w
  func.return %y : !breccia.tensor<[M, 256], f32>
}

// A product without scales has nothing to place, and one that is placed already stays.
// NUMPY-LABEL: func.func @untouched
// NUMPY: %y = breccia.matmul %x, %x {breccia.reason = "compute f32: it holds both operands exactly"}
// NUMPY-NEXT: %z = breccia.matmul %a, %w place_a #breccia.place<operand> place_b #breccia.place<epilogue>
// NUMPY-NEXT: func.return
func.func @untouched(%x: !breccia.tensor<[64, 64], f32>, %a: !breccia.scaled<[64, 64], f32, #row>, %w: !breccia.scaled<[64, 64], f32, #tensor>) -> (!breccia.tensor<[64, 64], f32>, !breccia.tensor<[64, 64], f32>) {
  %y = breccia.matmul %x, %x
  %z = breccia.matmul %a, %w place_a #breccia.place<operand> place_b #breccia.place<epilogue>
  func.return %y, %z : !breccia.tensor<[64, 64], f32>, !breccia.tensor<[64, 64], f32>
}
