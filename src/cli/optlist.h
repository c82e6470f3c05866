/* SPDX-License-Identifier: MIT */
/* The lists of -o: key=value,key2=value2; a comma in a value is written twice. */
#ifndef VD_CLI_OPTLIST_H
#define VD_CLI_OPTLIST_H

#include <stdbool.h>
#include <stddef.h>

#include "vdisk.h"

struct vd_optlist_entry {
    char *key;
    char *value; /* NULL: there was no '=' */
    bool is_taken;
};

/* Starts zeroed. */
struct vd_optlist {
    struct vd_optlist_entry *entries;
    size_t entry_count;
    bool wants_help; /* "help" or "?" was among them */
};

/* Adds what @text lists, for each -o in turn.  0, -EINVAL or -ENOMEM with @err set. */
int vd_optlist_parse(struct vd_optlist *list, const char *text, struct vdisk_error *err);

/* The value of @key, the last one if it is there several times; NULL: none.  Marks it as taken. */
const char *vd_optlist_take(struct vd_optlist *list, const char *key);

/* An entry that nobody took, or NULL: for the message about it. */
const struct vd_optlist_entry *vd_optlist_left_over(const struct vd_optlist *list);

void vd_optlist_free(struct vd_optlist *list);

#endif
