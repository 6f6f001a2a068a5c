// What the Metal Shading Language means, on a CPU: enough of it to compile and run the kernels that breccia emits.
//
// The threads of a threadgroup are fibers of one CPU thread. A fiber runs until it waits at a barrier, or for the other
// lanes of its simdgroup; the order in which fibers run can be reversed, which shows races. Entries of buffers are
// checked against their number. Threadgroup memory is static, in a section for each kernel, so that it can be poisoned.
#pragma once
#include <cstdint>
#include <ucontext.h>

using uchar = uint8_t;
using ushort = uint16_t;
using uint = uint32_t;
using ulong = uint64_t;
using half = _Float16;

template <class To, class From> inline To as_type(From from) {
    static_assert(sizeof(To) == sizeof(From), "as_type keeps the size");
    To to;
    __builtin_memcpy(&to, &from, sizeof to);
    return to;
}

struct bfloat {  // a struct, as g++ 12 has no bfloat
    ushort word;
    bfloat() = default;
    explicit bfloat(float x) {
        uint bits = as_type<uint>(x);
        word = x != x ? 0x7FC0 : ushort((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
    }
    explicit operator float() const { return as_type<float>(uint(word) << 16); }
};
using bfloat16_t = bfloat;
using float16_t = half;
struct uint3 {
    uint x, y, z;
};
struct ulong2 {
    ulong x, y;
    ulong2(ulong a, ulong b) : x(a), y(b) {}
};

#define device
#define constant const
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")

namespace shim {

// -- fibers -----------------------------------------------------------------------------------------------------------

enum Fault { none, out_of_bounds, barrier_not_reached, lanes_apart, overflowing_stack, not_as_declared };
enum State { ready, at_barrier, at_simd, done };
constexpr int lanes = 32, most_threads = 256, stack_bytes = 64 << 10;
constexpr ulong canary = 0x5AFE57ACC0FFEE11ull;

struct Fiber {
    ucontext_t context;
    State state;
    int exchanges;
};
inline Fiber fibers[most_threads];
inline char stacks[most_threads][stack_bytes] __attribute__((aligned(64)));
inline ucontext_t scheduler;
inline int current, threads, fault;
inline ulong scratch[2][most_threads];
inline void (*body)(void*, uint, uint);
inline void* arguments;
inline uint program;

inline void wait_as(State state) {
    fibers[current].state = state;
    swapcontext(&fibers[current].context, &scheduler);
}

inline void entry() {
    body(arguments, program, uint(current));
    fibers[current].state = done;
    swapcontext(&fibers[current].context, &scheduler);
}

inline void release(int from, int to) {
    for (int i = from; i < to; i++) fibers[i].state = ready;
}

// All of some fibers are in a state; a fault where a part of them is done, and can never come.
inline bool all_in(State state, int from, int to, Fault otherwise) {
    int there = 0, gone = 0;
    for (int i = from; i < to; i++) {
        there += fibers[i].state == state;
        gone += fibers[i].state == done;
    }
    if (there && there + gone == to - from && gone) fault = otherwise;
    return there == to - from;
}

inline void run_program(uint number, bool reversed) {
    program = number;
    for (int i = 0; i < threads; i++) {
        Fiber& fiber = fibers[i];
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = stacks[i];
        fiber.context.uc_stack.ss_size = stack_bytes;
        fiber.context.uc_link = nullptr;
        __builtin_memcpy(stacks[i], &canary, sizeof canary);
        fiber.state = ready;
        fiber.exchanges = 0;
        makecontext(&fiber.context, entry, 0);
    }
    for (bool moved = true; moved && !fault;) {
        moved = false;
        for (int n = 0; n < threads; n++) {
            current = reversed ? threads - 1 - n : n;
            if (fibers[current].state != ready) continue;
            moved = true;
            swapcontext(&scheduler, &fibers[current].context);
        }
        for (int i = 0; i < threads; i += lanes)
            if (all_in(at_simd, i, i + lanes, lanes_apart)) release(i, i + lanes), moved = true;
        if (all_in(at_barrier, 0, threads, barrier_not_reached)) release(0, threads), moved = true;
    }
    for (int i = 0; i < threads; i++) {
        if (fibers[i].state != done && !fault) fault = lanes_apart;
        if (__builtin_memcmp(stacks[i], &canary, sizeof canary)) fault = overflowing_stack;
    }
}

// -- memory -----------------------------------------------------------------------------------------------------------

template <class T> struct buffer {
    T* data;
    int64_t entries;
    T& operator[](int64_t i) const {
        if (i >= 0 && i < entries) return data[i];
        static T nowhere[1];
        fault = out_of_bounds;
        return nowhere[0];
    }
};
template <class T> struct buffer<const T> {  // of rank 0 it is a reference, as MLX hands scalars over
    const T* data;
    int64_t entries;
    bool scalar;
    T operator[](int64_t i) const {
        if (i >= 0 && i < entries && !scalar) return data[i];
        fault = scalar ? not_as_declared : out_of_bounds;
        return T();
    }
    operator T() const {
        if (!scalar) fault = not_as_declared;
        return data[0];
    }
};

// -- lanes ------------------------------------------------------------------------------------------------------------

// What each lane of the simdgroup hands over. Lanes are at most one exchange apart, so that two places do.
template <class T> inline void exchange(T value, T* all) {
    ulong* place = scratch[fibers[current].exchanges++ % 2];
    ulong word = 0;
    __builtin_memcpy(&word, &value, sizeof value);
    place[current] = word;
    wait_as(at_simd);
    int first = current / lanes * lanes;
    for (int i = 0; i < lanes; i++) __builtin_memcpy(&all[i], &place[first + i], sizeof value);
}

template <class T, class Join> inline T joined(T value, Join join) {
    T all[lanes];
    exchange(value, all);
    for (int width = lanes / 2; width; width /= 2)
        for (int i = 0; i < width; i++) all[i] = join(all[i], all[i + width]);
    return all[0];
}
}  // namespace shim

enum class mem_flags { mem_none, mem_device, mem_threadgroup };
inline void threadgroup_barrier(mem_flags) { shim::wait_as(shim::at_barrier); }

template <class T> inline T max(T a, T b) { return a < b ? b : a; }
template <class T> inline T min(T a, T b) { return b < a ? b : a; }
inline uint max(uint a, int b) { return max(a, uint(b)); }
template <class T> inline T clamp(T x, T low, T high) { return min(max(x, low), high); }
template <class T> inline T simd_max(T x) { return shim::joined(x, [](T a, T b) { return max(a, b); }); }
template <class T> inline T simd_min(T x) { return shim::joined(x, [](T a, T b) { return min(a, b); }); }
template <class T> inline T simd_sum(T x) { return shim::joined(x, [](T a, T b) { return T(a + b); }); }

inline float abs(float x) { return __builtin_fabsf(x); }
inline int abs(int x) { return x < 0 ? -x : x; }
inline float floor(float x) { return __builtin_floorf(x); }
inline float rint(float x) { return __builtin_rintf(x); }
inline bool isnan(float x) { return x != x; }
inline uint clz(uint x) { return x ? __builtin_clz(x) : 32; }
namespace precise {
inline float exp(float x) { return __builtin_expf(x); }
inline float log(float x) { return __builtin_logf(x); }
inline float sqrt(float x) { return __builtin_sqrtf(x); }
inline float tanh(float x) { return __builtin_tanhf(x); }
inline float sin(float x) { return __builtin_sinf(x); }
inline float cos(float x) { return __builtin_cosf(x); }
inline float pow(float x, float y) { return __builtin_powf(x, y); }
}  // namespace precise

// -- atomics: one fiber runs at a time; a weak exchange fails now and then, as it may ------------------------------------

using atomic_uint = uint;
enum memory_order { memory_order_relaxed };
inline uint atomic_load_explicit(const atomic_uint* place, memory_order) { return *place; }
inline bool atomic_compare_exchange_weak_explicit(
    atomic_uint* place, uint* expected, uint wanted, memory_order, memory_order) {
    static uint calls = 0;
    if (*place != *expected || calls++ % 3 == 0) {
        *expected = *place;
        return false;
    }
    *place = wanted;
    return true;
}

// -- 8 x 8 matrices: every lane holds all of one, and stores its share ----------------------------------------------------

template <class T, int Columns, int Rows> struct simdgroup_matrix {
    static_assert(Columns == 8 && Rows == 8, "Metal has 8 x 8 matrices alone");
    T entries[8][8];
};
template <class T, int Columns, int Rows> inline simdgroup_matrix<T, Columns, Rows> make_filled_simdgroup_matrix(T value) {
    simdgroup_matrix<T, Columns, Rows> made;
    for (auto& row : made.entries)
        for (auto& entry : row) entry = value;
    return made;
}
template <class T> inline void simdgroup_load(
    simdgroup_matrix<T, 8, 8>& to, const T* from, ulong per_row = 8, ulong2 origin = ulong2(0, 0), bool turned = false) {
    for (ulong i = 0; i < 8; i++)
        for (ulong j = 0; j < 8; j++)
            to.entries[i][j] = from[(origin.y + (turned ? j : i)) * per_row + origin.x + (turned ? i : j)];
}
template <class T> inline void simdgroup_store(const simdgroup_matrix<T, 8, 8>& from, T* to, ulong per_row = 8) {
    for (int n = shim::current % shim::lanes; n < 64; n += shim::lanes) to[n / 8 * per_row + n % 8] = from.entries[n / 8][n % 8];
}
template <class A, class B> inline void simdgroup_multiply_accumulate(
    simdgroup_matrix<float, 8, 8>& to, const simdgroup_matrix<A, 8, 8>& a, const simdgroup_matrix<B, 8, 8>& b,
    const simdgroup_matrix<float, 8, 8>& c) {
    static_assert(__is_same(A, B), "both operands have one type");
    simdgroup_matrix<float, 8, 8> sums = c;
    for (int k = 0; k < 8; k++)
        for (int i = 0; i < 8; i++)
            for (int j = 0; j < 8; j++) sums.entries[i][j] += float(a.entries[i][k]) * float(b.entries[k][j]);
    to = sums;
}
