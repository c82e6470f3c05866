/* SPDX-License-Identifier: MIT */
/* The table of verbs, in the order of `vdisk --help`. */
#include "cli/verbs.h"

#include <string.h>

/* clang-format off */
static const struct vd_cli_verb *const verbs[] = {
    &vd_cmd_amend,
    &vd_cmd_backup,
    &vd_cmd_bench,
    &vd_cmd_bitmap,
    &vd_cmd_check,
    &vd_cmd_commit,
    &vd_cmd_compact,
    &vd_cmd_compare,
    &vd_cmd_convert,
    &vd_cmd_create,
    &vd_cmd_dd,
    &vd_cmd_delta,
    &vd_cmd_flatten,
    &vd_cmd_info,
    &vd_cmd_io,
    &vd_cmd_map,
    &vd_cmd_measure,
    &vd_cmd_rebase,
    &vd_cmd_resize,
    &vd_cmd_restore,
    &vd_cmd_serve,
    &vd_cmd_snapshot,
    &vd_cmd_sums,
    &vd_cmd_sync,
};
/* clang-format on */

const struct vd_cli_verb *vd_cli_verb_at(size_t index)
{
    return index < sizeof(verbs) / sizeof(verbs[0]) ? verbs[index] : NULL;
}

const struct vd_cli_verb *vd_cli_find_verb(const char *name)
{
    for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++)
        if (strcmp(verbs[i]->name, name) == 0)
            return verbs[i];
    return NULL;
}

const char *vd_cli_inner_name(const struct vd_cli_verb *verb)
{
    const char *blank = strchr(verb->name, ' ');
    return blank ? blank + 1 : verb->name;
}

const struct vd_cli_verb *vd_cli_find_inner(const struct vd_cli_verb *outer, const char *word)
{
    for (size_t i = 0; word && outer->inner && outer->inner[i]; i++)
        if (strcmp(vd_cli_inner_name(outer->inner[i]), word) == 0)
            return outer->inner[i];
    return NULL;
}
