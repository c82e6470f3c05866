/* SPDX-License-Identifier: MIT */
/* Sizes: whatever the text, the answer is a size within the limit, or one of two errors. */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/size.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);

static void check_size(const char *text)
{
    uint64_t size = 0;
    int ret = vd_size_parse(text, &size);
    assert(ret == 0 || ret == -EINVAL || ret == -ERANGE);
    if (ret < 0) {
        assert(vd_size_problem(ret)[0]);
        return;
    }
    assert(size <= (uint64_t)VD_SIZE_MAX);

    /* What a size is printed as, is the same size. */
    char again[64];
    uint64_t same = 0;
    snprintf(again, sizeof(again), "%" PRIu64, size);
    assert(vd_size_parse(again, &same) == 0 && same == size);
    snprintf(again, sizeof(again), "0x%" PRIx64, size);
    assert(vd_size_parse(again, &same) == 0 && same == size);
    char human[VD_SIZE_TEXT_BYTES];
    assert(strchr(vd_size_text(size, human), 'B'));
}

static void check_change(const char *text)
{
    struct vd_size_change change = {0};
    if (vd_size_parse_change(text, &change) < 0)
        return;
    assert(change.bytes <= (uint64_t)VD_SIZE_MAX);
    assert((text[0] == '-') == (change.kind == VD_SIZE_SUBTRACT));
    assert((text[0] == '+') == (change.kind == VD_SIZE_ADD));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    char *text = malloc(length + 1);
    if (!text)
        return 0;
    memcpy(text, data, length);
    text[length] = '\0';
    check_size(text);
    check_change(text);
    free(text);
    return 0;
}
