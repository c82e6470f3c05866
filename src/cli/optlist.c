/* SPDX-License-Identifier: MIT */
/* The lists of -o. */
#include "cli/optlist.h"

#include <stdlib.h>
#include <string.h>

#include "util/err.h"

/* Copies one item of *text, with ",," as ","; moves *text to the comma behind it, or the end. */
static char *copy_item(const char **text)
{
    char *item = calloc(1, strlen(*text) + 1);
    size_t used = 0;
    while (item && **text && ((*text)[0] != ',' || (*text)[1] == ',')) {
        if (**text == ',')
            (*text)++;
        item[used++] = *(*text)++;
    }
    return item;
}

/* Takes @item over. */
static int add_item(struct vd_optlist *list, char *item, struct vdisk_error *err)
{
    char *equals = strchr(item, '=');
    int ret = 0;
    if (strcmp(item, "help") == 0 || strcmp(item, "?") == 0) {
        list->wants_help = true;
        free(item);
        return 0;
    }
    if (item[0] == '\0' || equals == item)
        ret = vd_err_set(err, EINVAL, "an option without a name");

    struct vd_optlist_entry *entries = NULL;
    if (ret == 0) {
        entries = realloc(list->entries, (list->entry_count + 1) * sizeof(*entries));
        if (!entries)
            ret = vd_err_nomem(err, "options");
    }
    if (ret < 0) {
        free(item);
        return ret;
    }
    list->entries = entries;
    if (equals)
        *equals++ = '\0';
    list->entries[list->entry_count++] = (struct vd_optlist_entry){.key = item, .value = equals};
    return 0;
}

int vd_optlist_parse(struct vd_optlist *list, const char *text, struct vdisk_error *err)
{
    for (const char *rest = text;;) {
        char *item = copy_item(&rest);
        if (!item)
            return vd_err_nomem(err, "options");
        int ret = add_item(list, item, err);
        if (ret < 0)
            return vd_err_prefix(err, ret, "Invalid option list: %s: ", text);
        if (!*rest)
            return 0;
        rest++;
    }
}

const char *vd_optlist_take(struct vd_optlist *list, const char *key)
{
    const char *value = NULL;
    for (size_t i = 0; i < list->entry_count; i++) {
        struct vd_optlist_entry *entry = &list->entries[i];
        if (strcmp(entry->key, key) == 0 && entry->value) {
            entry->is_taken = true;
            value = entry->value;
        }
    }
    return value;
}

const struct vd_optlist_entry *vd_optlist_left_over(const struct vd_optlist *list)
{
    for (size_t i = 0; i < list->entry_count; i++)
        if (!list->entries[i].is_taken)
            return &list->entries[i];
    return NULL;
}

void vd_optlist_free(struct vd_optlist *list)
{
    for (size_t i = 0; i < list->entry_count; i++)
        free(list->entries[i].key);
    free(list->entries);
    *list = (struct vd_optlist){0};
}
