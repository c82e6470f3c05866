/* SPDX-License-Identifier: MIT */
/*
 * GOW images that a web server serves, against plain arrays: http-format DIRECTORY URL
 *
 * Makes an image of each version in DIRECTORY by random changes, and reads it back in random
 * pieces as URL/NAME.  VD_TEST_OPS: reads of each version, default 3000; VD_TEST_SEED.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vdisk.h"

#define DISK_BYTES    ((12u << 20) + 3 * 512)
#define CHANGES       1500u
#define PIECE_MAX     (200u << 10)
#define SMALL_MAX     6000u
#define OPS_DEFAULT   3000u
#define FORMATS_COUNT 3u

static const char *const formats[FORMATS_COUNT] = {"gow1", "gow2", "gow3"};

static uint8_t model[DISK_BYTES];
static uint8_t buffer[PIECE_MAX];
static unsigned seed;

static unsigned below(unsigned limit)
{
    return (unsigned)rand_r(&seed) % limit;
}

static unsigned long number_from(const char *name, unsigned long standard)
{
    const char *text = getenv(name);
    return text ? strtoul(text, NULL, 10) : standard;
}

/* A random piece of the disk, mostly a small one. */
static size_t some_piece(uint64_t *offset)
{
    size_t length = 1 + below(below(8) ? SMALL_MAX : PIECE_MAX);
    *offset = below(DISK_BYTES);
    return length < DISK_BYTES - *offset ? length : (size_t)(DISK_BYTES - *offset);
}

static int change(struct vdisk_image *image, struct vdisk_error *err)
{
    uint64_t offset;
    size_t length = some_piece(&offset);
    if (below(4) == 0) {
        memset(model + offset, 0, length);
        return vdisk_image_write_zeroes(image, offset, length, 0, err);
    }
    memset(model + offset, (int)(1 + below(255)), length);
    return vdisk_image_pwrite(image, model + offset, length, offset, err);
}

static int make_image(const char *name, const char *format, struct vdisk_error *err)
{
    struct vdisk_create_options create = {.struct_bytes = sizeof(create), .size = DISK_BYTES};
    struct vdisk_open_options options = {
        .struct_bytes = sizeof(options), .flags = VDISK_OPEN_WRITE, .format = format};
    struct vdisk_image *image = NULL;
    memset(model, 0, sizeof(model));
    int ret = vdisk_image_create(name, format, &create, err);
    if (ret == 0)
        ret = vdisk_image_open(name, &options, &image, err);
    for (unsigned i = 0; i < CHANGES && ret == 0; i++)
        ret = change(image, err);
    int closed = vdisk_image_close(image, ret == 0 ? err : NULL);
    return ret < 0 ? ret : closed;
}

static uint64_t first_difference(const uint8_t *a, const uint8_t *b, size_t length)
{
    uint64_t i = 0;
    while (i < length && a[i] == b[i])
        i++;
    return i;
}

static int read_piece(struct vdisk_image *image, struct vdisk_error *err)
{
    uint64_t offset;
    size_t length = some_piece(&offset);
    int ret = vdisk_image_pread(image, buffer, length, offset, err);
    if (ret == 0 && memcmp(buffer, model + offset, length) != 0) {
        snprintf(err->message, sizeof(err->message), "offset %" PRIu64 " differs",
                 offset + first_difference(buffer, model + offset, length));
        err->code = EIO;
        ret = -EIO;
    }
    return ret;
}

/* What is said to be zero must be. */
static int look(struct vdisk_image *image, struct vdisk_error *err)
{
    for (uint64_t offset = 0; offset < DISK_BYTES;) {
        struct vdisk_extent extent;
        int ret = vdisk_image_extent(image, offset, DISK_BYTES - offset, &extent, err);
        for (uint64_t i = 0; ret == 0 && i < extent.length; i++)
            if ((extent.flags & VDISK_EXTENT_ZERO) && model[offset + i])
                ret = -(err->code = EIO);
        if (ret < 0)
            return ret;
        offset += extent.length;
    }
    return 0;
}

static int check_image(const char *name, unsigned long reads, struct vdisk_error *err)
{
    struct vdisk_image *image = NULL;
    int ret = vdisk_image_open(name, NULL, &image, err);
    if (ret == 0 && vdisk_image_size(image) != DISK_BYTES)
        ret = -(err->code = EIO);
    if (ret == 0)
        ret = look(image, err);
    for (unsigned long i = 0; i < reads && ret == 0; i++)
        ret = read_piece(image, err);
    vdisk_image_close(image, NULL);
    return ret;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: http-format DIRECTORY URL\n");
        return 2;
    }
    unsigned long reads = number_from("VD_TEST_OPS", OPS_DEFAULT);
    seed = (unsigned)number_from("VD_TEST_SEED", 20261121);
    printf("1..%u\n# seed %u, %lu reads of each version\n", FORMATS_COUNT, seed, reads);
    int failures = 0;
    for (unsigned i = 0; i < FORMATS_COUNT; i++) {
        char path[4096], url[4096];
        struct vdisk_error err = {0};
        snprintf(path, sizeof(path), "%s/%s", argv[1], formats[i]);
        snprintf(url, sizeof(url), "%s/%s", argv[2], formats[i]);
        int ret = make_image(path, formats[i], &err);
        if (ret == 0)
            ret = check_image(url, reads, &err);
        printf("%sok %u - %s over HTTP\n", ret < 0 ? "not " : "", i + 1, formats[i]);
        if (ret < 0)
            printf("# error %d: %s\n", -ret, err.message);
        failures += ret < 0;
        fflush(stdout);
    }
    return failures ? 1 : 0;
}
