/* SPDX-License-Identifier: MIT */
/*
 * Sizes as users write them, with the rules of qemu-img.  Parsing is integer arithmetic: a
 * fraction is cut down to whole bytes, never rounded through a double.
 */
#include "cli/size.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* Fractions are kept to so many decimal digits: 10^18 fits 64 bits. */
#define FRACTION_DIGITS_MAX 18

struct number {
    uint64_t whole;
    uint64_t fraction;         /* numerator over fraction_unit                        */
    uint64_t fraction_unit;    /* a power of ten                                      */
    bool is_hex, is_too_large; /* too large: whole is meaningless, the syntax was fine */
};

static int digit_value(char c, unsigned base)
{
    int value = -1;
    if (c >= '0' && c <= '9')
        value = c - '0';
    else if (c >= 'a' && c <= 'f')
        value = c - 'a' + 10;
    else if (c >= 'A' && c <= 'F')
        value = c - 'A' + 10;
    return value >= 0 && (unsigned)value < base ? value : -1;
}

/* Reads the digits at *text; moves *text behind them. */
static int parse_whole(const char **text, struct number *number)
{
    unsigned base = 10;
    if ((*text)[0] == '0' && ((*text)[1] == 'x' || (*text)[1] == 'X')) {
        base = 16;
        number->is_hex = true;
        *text += 2;
    }
    if (digit_value(**text, base) < 0)
        return -EINVAL;
    for (int value; (value = digit_value(**text, base)) >= 0; (*text)++) {
        if (__builtin_mul_overflow(number->whole, base, &number->whole) ||
            __builtin_add_overflow(number->whole, (unsigned)value, &number->whole))
            number->is_too_large = true;
    }
    return 0;
}

/* Reads ".digits" if it is there; a lone point is a fraction of nothing. */
static void parse_fraction(const char **text, struct number *number)
{
    number->fraction_unit = 1;
    if (number->is_hex || **text != '.')
        return;
    (*text)++;
    unsigned digits = 0;
    for (int value; (value = digit_value(**text, 10)) >= 0; (*text)++) {
        if (digits++ >= FRACTION_DIGITS_MAX)
            continue; /* far below one byte of the largest suffix */
        number->fraction = number->fraction * 10 + (unsigned)value;
        number->fraction_unit *= 10;
    }
}

/* The shift of a suffix letter; -1: it is none. */
static int suffix_shift(char letter)
{
    static const char letters[] = "bkmgtpe";
    if (letter >= 'A' && letter <= 'Z')
        letter = (char)(letter - 'A' + 'a');
    const char *found = letter ? strchr(letters, letter) : NULL;
    return found ? (int)(found - letters) * 10 : -1;
}

static int scale(const struct number *number, int shift, uint64_t *size)
{
    if (number->is_too_large || number->whole > (uint64_t)VD_SIZE_MAX >> shift)
        return -ERANGE;
    /* fraction < unit, so the quotient is below 2^shift; 60 + 60 bits need the wide type. */
    __extension__ typedef unsigned __int128 wide;
    uint64_t part = (uint64_t)(((wide)number->fraction << shift) / number->fraction_unit);
    *size = (number->whole << shift) + part;
    return *size > (uint64_t)VD_SIZE_MAX ? -ERANGE : 0;
}

int vd_size_parse(const char *text, uint64_t *size)
{
    struct number number = {.whole = 0};
    while (*text == ' ' || *text == '\t')
        text++;
    if (*text == '+')
        text++;
    if (parse_whole(&text, &number) < 0)
        return -EINVAL;
    parse_fraction(&text, &number);

    int shift = 0;
    if (*text) {
        shift = suffix_shift(*text++);
        if (shift < 0 || *text)
            return -EINVAL;
    }
    if (shift == 0 && number.fraction)
        return -EINVAL; /* half a byte */
    return scale(&number, shift, size);
}

int vd_size_parse_change(const char *text, struct vd_size_change *change)
{
    change->kind = VD_SIZE_SET;
    if (*text == '+' || *text == '-') {
        change->kind = *text == '+' ? VD_SIZE_ADD : VD_SIZE_SUBTRACT;
        text++;
        if (digit_value(*text, 10) < 0)
            return -EINVAL;
    }
    return vd_size_parse(text, &change->bytes);
}

const char *vd_size_problem(int ret)
{
    if (ret == -ERANGE)
        return "Invalid image size specified. Must be between 0 and 9223372036854775807.";
    return "Invalid image size specified. You may use k, M, G, T, P or E suffixes for\n"
           "kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.";
}

const char *vd_size_text(uint64_t bytes, char text[VD_SIZE_TEXT_BYTES])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    size_t unit = 0;
    double value = (double)bytes;
    while (value >= 1000.0 && unit + 1 < sizeof(units) / sizeof(units[0])) {
        value /= 1024.0;
        unit++;
    }
    snprintf(text, VD_SIZE_TEXT_BYTES, "%.3g %s", value, units[unit]);
    return text;
}
