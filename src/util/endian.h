/* SPDX-License-Identifier: MIT */
/*
 * Integers as they lie on disk: byte-array types of alignment 1.  Assigning an integer to one, or
 * adding to one, does not compile, so a byte order can not be forgotten.
 */
#ifndef VD_UTIL_ENDIAN_H
#define VD_UTIL_ENDIAN_H

#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define VD_LE(bits, value) (value)
#define VD_BE(bits, value) __builtin_bswap##bits(value)
#else
#define VD_LE(bits, value) __builtin_bswap##bits(value)
#define VD_BE(bits, value) (value)
#endif

#define VD_DISK_INT(name, bits, convert)                                  \
    struct name##bits {                                                   \
        uint8_t bytes[(bits) / 8];                                        \
    };                                                                    \
    static inline uint##bits##_t name##bits##_get(struct name##bits disk) \
    {                                                                     \
        uint##bits##_t value;                                             \
        memcpy(&value, disk.bytes, sizeof(value));                        \
        return convert(bits, value);                                      \
    }                                                                     \
    static inline struct name##bits name##bits##_of(uint##bits##_t value) \
    {                                                                     \
        struct name##bits disk;                                           \
        value = convert(bits, value);                                     \
        memcpy(disk.bytes, &value, sizeof(value));                        \
        return disk;                                                      \
    }

VD_DISK_INT(le, 16, VD_LE)
VD_DISK_INT(le, 32, VD_LE)
VD_DISK_INT(le, 64, VD_LE)
VD_DISK_INT(be, 16, VD_BE)
VD_DISK_INT(be, 32, VD_BE)
VD_DISK_INT(be, 64, VD_BE)

#undef VD_DISK_INT

#endif
