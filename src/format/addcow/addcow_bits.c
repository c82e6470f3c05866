/* SPDX-License-Identifier: MIT */
/* Runs of bits, most of the way by words. */
#include "format/addcow/addcow_bits.h"

#include <string.h>

static bool bit_at(const uint8_t *bits, uint64_t index)
{
    return (bits[index / 8] >> (index % 8)) & 1;
}

static uint64_t word_at(const uint8_t *bits, uint64_t index)
{
    uint64_t word; /* all bits or none: the byte order does not matter */
    memcpy(&word, bits + index / 8, sizeof(word));
    return word;
}

uint64_t vd_addcow_bits_run(const uint8_t *bits, uint64_t first, uint64_t limit, bool *is_set)
{
    const bool wanted = bit_at(bits, first);
    const uint64_t word = wanted ? UINT64_MAX : 0;
    const uint64_t end = first + limit;
    uint64_t at = first + 1;

    while (at < end && at % 8 && bit_at(bits, at) == wanted)
        at++;
    if (at % 8 == 0) {
        while (end - at >= 64 && word_at(bits, at) == word)
            at += 64;
        while (end - at >= 8 && bits[at / 8] == (uint8_t)word)
            at += 8;
    }
    while (at < end && bit_at(bits, at) == wanted)
        at++;
    *is_set = wanted;
    return at - first;
}

void vd_addcow_bits_fill(uint8_t *bits, uint64_t first, uint64_t count, bool set)
{
    const uint64_t end = first + count;
    while (first < end) {
        uint64_t whole = (end - first) / 8;
        if (first % 8 == 0 && whole) {
            memset(bits + first / 8, set ? 0xFF : 0, (size_t)whole);
            first += whole * 8;
            continue;
        }
        uint8_t bit = (uint8_t)(1u << (first % 8));
        if (set)
            bits[first / 8] |= bit;
        else
            bits[first / 8] &= (uint8_t)~bit;
        first++;
    }
}

uint64_t vd_addcow_bits_count(const uint8_t *bits, size_t length)
{
    uint64_t count = 0;
    size_t at = 0;
    for (; length - at >= 8; at += 8)
        count += (uint64_t)__builtin_popcountll(word_at(bits, (uint64_t)at * 8));
    for (; at < length; at++)
        count += (uint64_t)__builtin_popcount(bits[at]);
    return count;
}
