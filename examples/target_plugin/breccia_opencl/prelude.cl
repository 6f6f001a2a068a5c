// What emitted kernels call. Floats of all widths are float in a tile; a rounding is a call.
#pragma OPENCL FP_CONTRACT OFF
#undef min
#undef max
#define min(a, b) ((a) < (b) ? (a) : (b))
#define max(a, b) ((a) > (b) ? (a) : (b))
#define CEILDIV(a, b) (((a) + (b) - 1) / (b))
#define EACH(count) for (int e = get_local_id(0); e < (count); e += LANES)
#define DONE barrier(CLK_LOCAL_MEM_FENCE)

// The larger and the smaller one; NaN wins.
float larger(float a, float b) { return isnan(a) || a > b ? a : b; }
float smaller(float a, float b) { return isnan(a) || a < b ? a : b; }
float square(float x) { return x * x; }
float relu(float x) { return larger(x, 0.0f); }
float sigmoid(float x) { return 1.0f / (1.0f + exp(-x)); }
float silu(float x) { return x * sigmoid(x); }
float gelu(float x) { return (0.5f * x) * (1.0f + erf(x * 0.70710678f)); }
float gelu_tanh(float x) {
  return (0.5f * x) * (1.0f + tanh(0.79788456f * (x + 0.044715f * (x * x * x))));
}

float load_bf16(ushort bits) { return as_float((uint)bits << 16); }
float round_bf16(float x) {
  uint bits = as_uint(x);
  return isnan(x) ? as_float(bits & 0x80000000u | 0x7fc00000u)
                  : as_float((bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u);
}
float round_f16(float x) {
  ushort bits;
  vstore_half_rte(x, 0, (half *)&bits);
  return vload_half(0, (half *)&bits);
}

// The code that a float has by a table of steps: codes[n] from the n-th key on. Keys order as floats do.
uchar code_of(float x, __constant const uint *steps, int count, __constant const uchar *codes, uchar of_nan) {
  uint bits = as_uint(x), key = bits >> 31 ? ~bits : bits | 0x80000000u;
  int low = 0, high = count;
  while (low < high) {
    int middle = (low + high) / 2;
    if (steps[middle] <= key) low = middle + 1; else high = middle;
  }
  return isnan(x) ? of_nan : codes[low];
}

// Programs that meet in one entry of a result.
#define COMBINE(name, expression)                                                    \
  void name(volatile __global float *place, float x) {                              \
    float old, now;                                                                 \
    do {                                                                            \
      old = *place;                                                                 \
      now = expression;                                                             \
    } while (atomic_cmpxchg((volatile __global uint *)place, as_uint(old), as_uint(now)) != as_uint(old)); \
  }
COMBINE(combine_add, old + x)
COMBINE(combine_max, larger(old, x))
