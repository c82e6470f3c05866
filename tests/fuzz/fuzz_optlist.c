/* SPDX-License-Identifier: MIT */
/* Lists of -o: what was parsed, written again, parses to the same. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/optlist.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);

/* Puts @part with its commas doubled behind *at. */
static void put_escaped(char **at, const char *part)
{
    for (; *part; part++) {
        if (*part == ',')
            *(*at)++ = ',';
        *(*at)++ = *part;
    }
}

static char *write_list(const struct vd_optlist *list, size_t length)
{
    char *text = calloc(2, length + 2);
    if (!text)
        return NULL;
    char *at = text;
    for (size_t i = 0; i < list->entry_count; i++) {
        if (i)
            *at++ = ',';
        put_escaped(&at, list->entries[i].key);
        if (list->entries[i].value) {
            *at++ = '=';
            put_escaped(&at, list->entries[i].value);
        }
    }
    return text;
}

static void check_same(const struct vd_optlist *a, const struct vd_optlist *b)
{
    assert(a->entry_count == b->entry_count);
    for (size_t i = 0; i < a->entry_count; i++) {
        const struct vd_optlist_entry *x = &a->entries[i], *y = &b->entries[i];
        assert(strcmp(x->key, y->key) == 0);
        assert(!x->value == !y->value);
        assert(!x->value || strcmp(x->value, y->value) == 0);
    }
}

static void check_list(struct vd_optlist *list, size_t length)
{
    struct vd_optlist again = {0};
    struct vdisk_error err = {0};
    char *text = write_list(list, length);
    if (text && list->entry_count) {
        assert(vd_optlist_parse(&again, text, &err) == 0);
        check_same(list, &again);
    }
    for (size_t i = 0; i < list->entry_count; i++)
        vd_optlist_take(list, list->entries[i].key);
    const struct vd_optlist_entry *left = vd_optlist_left_over(list);
    assert(!left || !left->value); /* only a key without a value can be left */
    vd_optlist_free(&again);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    struct vd_optlist list = {0};
    struct vdisk_error err = {0};
    char *text = malloc(length + 1);
    if (!text)
        return 0;
    memcpy(text, data, length);
    text[length] = '\0';
    int ret = vd_optlist_parse(&list, text, &err);
    assert(ret == 0 || (ret == -EINVAL && err.message[0]) || ret == -ENOMEM);
    if (ret == 0)
        check_list(&list, length);
    vd_optlist_free(&list);
    free(text);
    return 0;
}
