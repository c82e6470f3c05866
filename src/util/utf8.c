/* SPDX-License-Identifier: MIT */
#include "util/utf8.h"

#include <stdint.h>

/* What may follow the first byte of a character; the bytes behind that are 0x80 to 0xbf. */
struct form {
    uint8_t first_min;
    uint8_t first_max;
    uint8_t second_min;
    uint8_t second_max;
    uint8_t length;
};

/* The table of well-formed sequences in the Unicode standard. */
static const struct form forms[] = {
    {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3}, {0xe1, 0xec, 0x80, 0xbf, 3},
    {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3}, {0xf0, 0xf0, 0x90, 0xbf, 4},
    {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
};

static bool is_form(const struct form *form, const uint8_t *bytes, size_t length)
{
    if (bytes[0] < form->first_min || bytes[0] > form->first_max || length < form->length)
        return false;
    if (bytes[1] < form->second_min || bytes[1] > form->second_max)
        return false;
    for (size_t i = 2; i < form->length; i++)
        if (bytes[i] < 0x80 || bytes[i] > 0xbf)
            return false;
    return true;
}

size_t vd_utf8_length(const char *text, size_t length)
{
    const uint8_t *bytes = (const uint8_t *)text;
    if (length == 0)
        return 0;
    if (bytes[0] < 0x80)
        return 1;
    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++)
        if (is_form(&forms[i], bytes, length))
            return forms[i].length;
    return 0;
}

bool vd_utf8_is_text(const char *text, size_t length)
{
    while (length > 0) {
        size_t bytes = *text ? vd_utf8_length(text, length) : 0;
        if (bytes == 0)
            return false;
        text += bytes;
        length -= bytes;
    }
    return true;
}
