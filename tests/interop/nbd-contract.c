/* SPDX-License-Identifier: MIT */
/*
 * The storage contract for the nbd driver, for with-nbdkit.sh.
 *
 *   nbd-contract PATH URI [PATH URI]...   each URI serves the file PATH, as long as it is just then
 */
#include <stdio.h>
#include <stdlib.h>

#include "contract/storage.h"
#include "drivers/check.h"

#define FACTORIES_MAX 16

struct place {
    struct vt_storage_factory factory;
    const char *path;
    const char *uri;
};

static struct vd_storage *open_uri(struct vt_storage_factory *factory, bool writable)
{
    const struct place *place = factory->state;
    struct vd_storage_options options = {.flags = writable ? VD_STORAGE_WRITE : 0};
    struct vd_storage *storage = NULL;
    VT_OK(vd_storage_open(place->uri, &options, &storage, &vt_err));
    return storage;
}

static struct vd_storage *make_uri(struct vt_storage_factory *factory, const uint8_t *content,
                                   size_t bytes)
{
    const struct place *place = factory->state;
    FILE *file = fopen(place->path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(content, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
    return open_uri(factory, true);
}

int main(int argc, char **argv)
{
    static struct place places[FACTORIES_MAX];
    struct vt_storage_factory *list[FACTORIES_MAX];
    size_t count = 0;
    for (int i = 1; i + 1 < argc && count < FACTORIES_MAX; i += 2) {
        struct place *place = &places[count];
        place->path = argv[i];
        place->uri = argv[i + 1];
        place->factory = (struct vt_storage_factory){
            .name = argv[i + 1], .state = place, .make = make_uri, .reopen = open_uri};
        list[count++] = &place->factory;
    }
    return vt_storage_contract(list, count);
}
