/* SPDX-License-Identifier: MIT */
#include "files.h"

#include <stdlib.h>
#include <string.h>

#include "disk.h"
#include "image/chain.h"

#define CACHE_BYTES_LEAST (UINT64_C(1) << 20)
#define IMAGES_MAX        6u /* an image that names itself goes on until this */

/* Belongs to no input: nobody writes to it. */
static struct vd_storage *open_base(void)
{
    static struct overlay *base;
    if (!base) {
        uint8_t bytes[4096];
        base = overlay_new(NULL, 0);
        memset(bytes, 'b', sizeof(bytes));
        for (uint64_t at = 0; at < FUZZ_BASE_BYTES; at += sizeof(bytes))
            overlay_write(base, bytes, sizeof(bytes), at);
    }
    return overlay_open(base);
}

static int open_named(void *opaque, const char *bearer, const char *name,
                      const struct vd_storage_options *options, struct vd_storage **storage,
                      struct vdisk_error *err)
{
    const struct fuzz_files *files = opaque;
    bool writable = (options->flags & VD_STORAGE_WRITE) != 0;
    (void)bearer;
    if (strcmp(name, FUZZ_BASE_NAME) == 0 && !writable)
        *storage = open_base();
    else if (strcmp(name, FUZZ_IMAGE_NAME) == 0 && !writable)
        *storage = overlay_open(files->image);
    else if (files->data && strcmp(name, FUZZ_DATA_NAME) == 0)
        *storage = overlay_open(files->data);
    else
        return vd_err_set(err, ENOENT, "there is no '%s'", name);
    return 0;
}

struct vdisk_image *fuzz_files_open(void *opaque, uint32_t flags, struct vdisk_error *err)
{
    struct fuzz_files *files = opaque;
    struct vd_image_files named = {.open = open_named, .opaque = files};
    struct vdisk_gate gate = {.struct_bytes = sizeof(gate), .images_max = IMAGES_MAX};
    struct vdisk_open_options open = {.struct_bytes = sizeof(open),
                                      .flags = flags,
                                      .format = files->format,
                                      .cache_bytes = CACHE_BYTES_LEAST,
                                      .gate = &gate};
    struct vd_chain_options options = {.open = &open, .files = &named};
    struct vdisk_image *image = NULL;
    int ret = vd_image_open_chain_on(overlay_open(files->image), &options, &image, err);
    if ((ret == 0) != (image != NULL) || (ret < 0 && ret != -err->code))
        abort();
    return image;
}

void fuzz_files_write_some(struct fuzz_files *files, uint64_t cluster, uint64_t span)
{
    const uint64_t offsets[] = {
        0, 5 * cluster, 4 * cluster, span, span + 7 * cluster, 2 * span - cluster, 2 * span + 9};
    struct vdisk_error err = {0};
    uint8_t bytes[700];
    struct vdisk_image *image = fuzz_files_open(files, VDISK_OPEN_WRITE, &err);
    REQUIRE(image);
    for (size_t i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++) {
        memset(bytes, 'a' + (int)i, sizeof(bytes));
        REQUIRE(vdisk_image_pwrite(image, bytes, sizeof(bytes), offsets[i], &err) == 0);
    }
    REQUIRE(vdisk_image_write_zeroes(image, 8 * cluster, 3 * cluster, 0, &err) == 0);
    REQUIRE(vdisk_image_close(image, &err) == 0);
}
