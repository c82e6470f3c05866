/* SPDX-License-Identifier: MIT */
/*
 * The storage contract for the http driver, for with-nginx.sh.
 *
 *   http-contract FOLDER URL...   each URL serves FOLDER, one way or another
 */
#include <stdio.h>

#include "contract/served.h"

#define SERVED_MAX 8

static void remove_file(struct vt_storage_factory *factory)
{
    const struct vt_served *served = factory->state;
    remove(served->path);
}

int main(int argc, char **argv)
{
    static struct vt_served all[SERVED_MAX];
    struct vt_storage_factory *list[SERVED_MAX];
    size_t count = 0;
    for (int i = 2; i < argc && count < SERVED_MAX; i++) {
        struct vt_served *served = &all[count];
        vt_served_init(served, argv[i]);
        snprintf(served->path, sizeof(served->path), "%s/contract-%zu", argv[1], count);
        snprintf(served->url, sizeof(served->url), "%s/contract-%zu", argv[i], count);
        served->factory.destroy = remove_file;
        list[count++] = &served->factory;
    }
    return vt_storage_contract(list, count);
}
