/* SPDX-License-Identifier: MIT */
/*
 * The storage contract for the http driver, for with-nginx.sh.
 *
 *   http-contract FOLDER URL...   each URL serves FOLDER, one way or another
 */
#include <stdio.h>
#include <stdlib.h>

#include "contract/storage.h"
#include "drivers/check.h"

#define FACTORIES_MAX 8

struct place {
    struct vt_storage_factory factory;
    char path[512]; /* of the file that is served */
    char url[512];
};

static struct vd_storage *open_url(struct vt_storage_factory *factory, bool writable)
{
    const struct place *place = factory->state;
    struct vd_storage_options options = {.flags = writable ? VD_STORAGE_WRITE : 0};
    struct vd_storage *storage = NULL;
    VT_OK(vd_storage_open(place->url, &options, &storage, &vt_err));
    return storage;
}

static struct vd_storage *make_url(struct vt_storage_factory *factory, const uint8_t *content,
                                   size_t bytes)
{
    const struct place *place = factory->state;
    FILE *file = fopen(place->path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(content, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
    return open_url(factory, false);
}

static void destroy_url(struct vt_storage_factory *factory)
{
    const struct place *place = factory->state;
    remove(place->path);
}

int main(int argc, char **argv)
{
    static struct place places[FACTORIES_MAX];
    struct vt_storage_factory *list[FACTORIES_MAX];
    size_t count = 0;
    for (int i = 2; i < argc && count < FACTORIES_MAX; i++) {
        struct place *place = &places[count];
        snprintf(place->path, sizeof(place->path), "%s/contract-%zu", argv[1], count);
        snprintf(place->url, sizeof(place->url), "%s/contract-%zu", argv[i], count);
        place->factory = (struct vt_storage_factory){.name = argv[i],
                                                     .state = place,
                                                     .make = make_url,
                                                     .reopen = open_url,
                                                     .destroy = destroy_url};
        list[count++] = &place->factory;
    }
    return vt_storage_contract(list, count);
}
