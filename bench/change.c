/* SPDX-License-Identifier: MIT */
/*
 * Overwrites a share of the 64 KiB blocks of a disk, evenly spread, with bytes that do not
 * compress:
 *
 *     bench-change IMAGE FORMAT PERCENT SEED
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vdisk.h>

#define BLOCK_BYTES 65536u

static void fill(uint64_t *block, uint64_t *state)
{
    for (size_t i = 0; i < BLOCK_BYTES / sizeof(*block); i++) {
        uint64_t value = *state += UINT64_C(0x9E3779B97F4A7C15); /* SplitMix64 */
        value = (value ^ (value >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
        value = (value ^ (value >> 27)) * UINT64_C(0x94D049BB133111EB);
        block[i] = value ^ (value >> 31);
    }
}

static int change(struct vdisk_image *image, uint64_t percent, uint64_t seed,
                  struct vdisk_error *err)
{
    static uint64_t block[BLOCK_BYTES / sizeof(uint64_t)];
    uint64_t blocks = vdisk_image_size(image) / BLOCK_BYTES;
    for (uint64_t i = 0; i < blocks; i++) {
        if (i * percent / 100 == (i + 1) * percent / 100)
            continue;
        fill(block, &seed);
        int ret = vdisk_image_pwrite(image, block, BLOCK_BYTES, i * BLOCK_BYTES, err);
        if (ret < 0)
            return ret;
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct vdisk_error err = {0, ""};
    struct vdisk_open_options options;
    struct vdisk_image *image = NULL;

    if (argc != 5) {
        fprintf(stderr, "usage: bench-change IMAGE FORMAT PERCENT SEED\n");
        return 1;
    }
    memset(&options, 0, sizeof(options));
    options.struct_bytes = sizeof(options);
    options.flags = VDISK_OPEN_WRITE;
    options.format = argv[2];
    int ret = vdisk_image_open(argv[1], &options, &image, &err);
    if (ret == 0) {
        ret = change(image, strtoull(argv[3], NULL, 10), strtoull(argv[4], NULL, 10), &err);
        int closed = vdisk_image_close(image, &err);
        ret = ret < 0 ? ret : closed;
    }
    if (ret < 0)
        fprintf(stderr, "bench-change: %s\n", err.message);
    return ret < 0;
}
