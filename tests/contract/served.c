/* SPDX-License-Identifier: MIT */
#include "contract/served.h"

#include <stdio.h>

#include "drivers/check.h"

static struct vd_storage *open_url(struct vt_storage_factory *factory, bool writable)
{
    const struct vt_served *served = factory->state;
    struct vd_storage_options options = {.flags = writable ? VD_STORAGE_WRITE : 0};
    struct vd_storage *storage = NULL;
    VT_OK(vd_storage_open(served->url, &options, &storage, &vt_err));
    return storage;
}

static struct vd_storage *make_url(struct vt_storage_factory *factory, const uint8_t *content,
                                   size_t bytes)
{
    const struct vt_served *served = factory->state;
    FILE *file = fopen(served->path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(content, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
    return open_url(factory, served->is_writable);
}

void vt_served_init(struct vt_served *served, const char *name)
{
    served->factory = (struct vt_storage_factory){
        .name = name, .state = served, .make = make_url, .reopen = open_url};
}
