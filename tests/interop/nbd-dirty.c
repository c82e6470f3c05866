/* SPDX-License-Identifier: MIT */
/*
 * Prints what a dirty bitmap of an NBD server tells:  nbd-dirty URI BITMAP DISK-BYTES
 *
 * "OFFSET LENGTH" for each run that is not clean, in granules of 64 KiB.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "storage/nbd_dirty.h"

#define GRANULARITY_BITS 16u

int main(int argc, char **argv)
{
    static const struct vdisk_network_options network = {
        .struct_bytes = sizeof(network), .timeout_ms = 5000, .retries = 2};
    struct vd_bitmap_budget budget = {.bytes_max = UINT64_C(1) << 30};
    struct vd_bitmap *dirty;
    struct vdisk_error err = {0};
    if (argc != 4)
        return 2;
    uint64_t size = strtoull(argv[3], NULL, 10);
    int ret = vd_bitmap_new(size, GRANULARITY_BITS, &budget, &dirty, &err);
    if (ret == 0)
        ret = vd_nbd_read_bitmap(argv[1], argv[2], &network, dirty, &err);
    if (ret < 0) {
        fprintf(stderr, "%d: %s\n", -ret, err.message);
        return 1;
    }
    for (uint64_t at = 0; at < size;) {
        struct vd_range run = vd_bitmap_next(dirty, vd_range(at, size - at), true);
        if (!run.length)
            break;
        printf("%" PRIu64 " %" PRIu64 "\n", run.offset, run.length);
        at = vd_range_end(run);
    }
    vd_bitmap_free(dirty);
    return 0;
}
