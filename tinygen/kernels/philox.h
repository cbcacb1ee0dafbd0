// The random stream: Philox4x32-10 (Salmon et al., SC 2011) and what is made of its words.
// Both compilers read this file, so the GPU and the CPU draw the same numbers, bit for bit.

#pragma once
#include "functions.h"

// The place of a draw in the stream. `counter` may point to two numbers that are added to Philox's
// counter: to `draw`, and to the number of each block. They can live in the memory of the device and be
// advanced there. The second is above 0 where an array holds rows from the middle of a larger draw.
struct Stream {
    u64 seed, draw, first;
};

SHARED Stream stream_at(u64 seed, u64 draw, const u64* counter) {
    return Stream{seed, counter ? draw + counter[0] : draw, counter ? counter[1] : 0};
}

struct Words {
    u32 w0, w1, w2, w3;
};

SHARED Words philox(Stream stream, u64 block) {
    block += stream.first;
    u32 c0 = (u32)block, c1 = (u32)(block >> 32);
    u32 c2 = (u32)stream.draw, c3 = (u32)(stream.draw >> 32);
    u32 k0 = (u32)stream.seed, k1 = (u32)(stream.seed >> 32);
    UNROLL
    for (int round = 0; round < 10; ++round) {
        const u64 p0 = product(0xD2511F53u, c0), p2 = product(0xCD9E8D57u, c2);
        c0 = (u32)(p2 >> 32) ^ c1 ^ k0;
        c1 = (u32)p2;
        c2 = (u32)(p0 >> 32) ^ c3 ^ k1;
        c3 = (u32)p0;
        k0 += 0x9E3779B9u;  // the golden ratio and sqrt(3) - 1, in units of 2^-32
        k1 += 0xBB67AE85u;
    }
    return Words{c0, c1, c2, c3};
}

// Uniforms in [0, 1): 24 bits of one word, or 53 of two. Exact.
SHARED float unit(u32 word) { return (float)(i32)(word >> 8) * 0x1p-24f; }

SHARED double unit(u32 high, u32 low) {
    return ((double)(i32)(high >> 5) * 0x1p26 + (double)(i32)(low >> 6)) * 0x1p-53;
}

// low + width u, below the end of the interval even where the sum rounds up.
template <class T>
SHARED T placed(T u, T low, T width, T last) {
    const T x = u * width + low;
    return x < last ? x : last;
}

// Two standard normals by Box & Muller (1958): a radius, and an angle in turns.
template <class T>
struct Pair {
    T cosine, sine;
};

// The nearest quarter turn comes off the angle while it is a whole number, and exactly; pi enters
// after that. So each result is accurate relative to itself, even where it is nearly 0. An angle of
// `turn` 2^-32 turns, rounded to quarters, has the number of its quarter in the top two bits of
// turn + 2^29, and the signed rest in the bits below the top two of `turn` itself.
template <class T>
SHARED Pair<T> turned(u32 turn, T sine, T cosine) {
    const u32 quarter = turn + (1u << 29);
    const bool odd = quarter & (1u << 30);
    const T s = odd ? cosine : sine, c = odd ? sine : cosine;
    return Pair<T>{signed_by(c, quarter + (1u << 30)), signed_by(s, quarter)};
}

SHARED Pair<float> box_muller(u32 word0, u32 word1) {
    const float u = (float)(i32)((word0 >> 8) + 1) * 0x1p-24f;  // in (0, 1]
    const float radius = fast_square_root(2.0f * magnitude(logarithm(u)));
    const float angle = (float)((i32)(word1 << 2) >> 10) * 3.74507035e-07f;  // 2 pi 2^-24
    const Pair<float> p = turned(word1, sine(angle), cosine(angle));
    return Pair<float>{radius * p.cosine, radius * p.sine};
}

SHARED Pair<double> box_muller(Words w) {
    const double u = unit(w.w0, w.w1) + 0x1p-53;
    const double radius = square_root(-2.0 * logarithm(u));
    const double high = (double)((i32)(w.w2 << 2) >> 7), low = (double)(i32)(w.w3 >> 6);
    const double angle = (high * 0x1p26 + low) * 6.9757369960172635e-16;  // 2 pi 2^-53
    const Pair<double> p = turned(w.w2, sine(angle), cosine(angle));
    return Pair<double>{radius * p.cosine, radius * p.sine};
}

// floor(r size / 2^64) for 64 random bits r, by words; size is at most 2^32.
SHARED u64 scaled(u32 high, u32 low, u64 size) {
    return ((u64)high * size + (((u64)low * size) >> 32)) >> 32;
}
