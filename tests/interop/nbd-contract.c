/* SPDX-License-Identifier: MIT */
/*
 * The storage contract for the nbd driver, for with-nbdkit.sh.
 *
 *   nbd-contract PATH URI [PATH URI]...   each URI serves the file PATH, as long as it is just then
 */
#include <stdio.h>

#include "contract/served.h"

#define SERVED_MAX 16

int main(int argc, char **argv)
{
    static struct vt_served all[SERVED_MAX];
    struct vt_storage_factory *list[SERVED_MAX];
    size_t count = 0;
    for (int i = 1; i + 1 < argc && count < SERVED_MAX; i += 2) {
        struct vt_served *served = &all[count];
        vt_served_init(served, argv[i + 1]);
        snprintf(served->path, sizeof(served->path), "%s", argv[i]);
        snprintf(served->url, sizeof(served->url), "%s", argv[i + 1]);
        served->is_writable = true;
        list[count++] = &served->factory;
    }
    return vt_storage_contract(list, count);
}
