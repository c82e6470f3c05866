/* SPDX-License-Identifier: MIT */
/* Runs of bits in a buffer, as the bitmap of add-cow has them: the lowest bit of a byte is first.
 */
#ifndef VD_FORMAT_ADDCOW_ADDCOW_BITS_H
#define VD_FORMAT_ADDCOW_ADDCOW_BITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * How many bits from bit @first on are equal?  At least 1, at most @limit, which is at least 1.
 * *is_set: what they are.
 */
uint64_t vd_addcow_bits_run(const uint8_t *bits, uint64_t first, uint64_t limit, bool *is_set);

void vd_addcow_bits_fill(uint8_t *bits, uint64_t first, uint64_t count, bool set);

/* How many of the bits of @length bytes are set? */
uint64_t vd_addcow_bits_count(const uint8_t *bits, size_t length);

#endif
