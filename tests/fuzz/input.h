/* SPDX-License-Identifier: MIT */
/* Drawing values from the bytes of a fuzzer; past the end everything is zero. */
#ifndef TESTS_FUZZ_INPUT_H
#define TESTS_FUZZ_INPUT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct input {
    const uint8_t *data;
    size_t left;
};

/* The next @bytes bytes (at most 8) as a little-endian number. */
static inline uint64_t input_take(struct input *in, size_t bytes)
{
    uint64_t value = 0;
    for (size_t i = 0; i < bytes && in->left; i++) {
        value |= (uint64_t)*in->data << (8 * i);
        in->data++;
        in->left--;
    }
    return value;
}

/* Fills @buf: what the input has, then zeros. */
static inline void input_copy(struct input *in, uint8_t *buf, size_t length)
{
    size_t have = length < in->left ? length : in->left;
    memcpy(buf, in->data, have);
    memset(buf + have, 0, length - have);
    in->data += have;
    in->left -= have;
}

#endif
