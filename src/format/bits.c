/* SPDX-License-Identifier: MIT */
/* A set of small numbers, as a bitmap. */
#include "format/bits.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "util/range.h"

#define WORD_BITS 64u

void vd_bits_free(struct vd_bits *bits)
{
    free(bits->words);
    *bits = (struct vd_bits){0};
}

int vd_bits_reserve(struct vd_bits *bits, uint32_t limit, struct vdisk_error *err)
{
    size_t wanted = (size_t)vd_div_up(limit, WORD_BITS);
    if (wanted <= bits->word_entries)
        return 0;
    size_t entries = (size_t)vd_max(wanted, bits->word_entries + bits->word_entries / 2);
    /* Zeroed memory of the system is not touched before it is needed. */
    uint64_t *words = calloc(entries, sizeof(*words));
    if (!words)
        return vd_err_nomem(err, "a bitmap of clusters");
    if (bits->words)
        memcpy(words, bits->words, bits->word_entries * sizeof(*words));
    free(bits->words);
    bits->words = words;
    bits->word_entries = entries;
    return 0;
}

bool vd_bits_has(const struct vd_bits *bits, uint32_t number)
{
    size_t word = number / WORD_BITS;
    return word < bits->word_entries && (bits->words[word] >> (number % WORD_BITS)) & 1;
}

void vd_bits_add(struct vd_bits *bits, uint32_t number)
{
    assert(number / WORD_BITS < bits->word_entries && !vd_bits_has(bits, number));
    bits->words[number / WORD_BITS] |= UINT64_C(1) << (number % WORD_BITS);
    bits->count++;
    if (bits->first_clear == number)
        bits->first_clear++;
}

void vd_bits_remove(struct vd_bits *bits, uint32_t number)
{
    assert(vd_bits_has(bits, number));
    bits->words[number / WORD_BITS] &= ~(UINT64_C(1) << (number % WORD_BITS));
    bits->count--;
    if (bits->first_clear > number)
        bits->first_clear = number;
}

void vd_bits_add_all(struct vd_bits *bits, const struct vd_bits *from)
{
    for (size_t i = 0; from->count && i < from->word_entries; i++) {
        if (!from->words[i])
            continue;
        assert(i < bits->word_entries && !(bits->words[i] & from->words[i]));
        bits->words[i] |= from->words[i];
    }
    bits->count += from->count;
}

void vd_bits_clear(struct vd_bits *bits)
{
    if (bits->count)
        memset(bits->words, 0, bits->word_entries * sizeof(*bits->words));
    bits->count = 0;
    bits->first_clear = 0;
}

uint32_t vd_bits_first_missing(struct vd_bits *bits)
{
    uint32_t number = bits->first_clear;
    size_t word = number / WORD_BITS;
    while (word < bits->word_entries) {
        uint64_t missing = ~bits->words[word] & (UINT64_MAX << (number % WORD_BITS));
        if (missing) {
            number = (uint32_t)(word * WORD_BITS) + (uint32_t)__builtin_ctzll(missing);
            break;
        }
        word++;
        number = (uint32_t)(word * WORD_BITS);
    }
    bits->first_clear = number;
    return number;
}

uint32_t vd_bits_next_run(const struct vd_bits *bits, uint32_t from, uint32_t *start)
{
    size_t word = from / WORD_BITS;
    uint64_t mask = UINT64_MAX << (from % WORD_BITS);
    while (word < bits->word_entries && !(bits->words[word] & mask)) {
        word++;
        mask = UINT64_MAX;
    }
    if (word >= bits->word_entries)
        return 0;
    *start = (uint32_t)(word * WORD_BITS) + (uint32_t)__builtin_ctzll(bits->words[word] & mask);
    uint32_t end = *start + 1;
    while (vd_bits_has(bits, end))
        end++;
    return end - *start;
}

uint32_t vd_bits_end(const struct vd_bits *bits)
{
    for (size_t word = bits->count ? bits->word_entries : 0; word > 0; word--)
        if (bits->words[word - 1])
            return (uint32_t)(word * WORD_BITS) - (uint32_t)__builtin_clzll(bits->words[word - 1]);
    return 0;
}
