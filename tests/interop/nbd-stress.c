/* SPDX-License-Identifier: MIT */
/*
 * Threads that read, write, zero and discard an export at random, each in stripes of its own, and
 * compare with a plain array; whatever size and block sizes the server has.
 *
 *   nbd-stress URI THREADS OPERATIONS SEED [CONNECTIONS [sync]]
 *
 * Everything is read and compared again in the end, by a connection made then.  Prints what it did;
 * the exit status is 0 if all was well.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "drivers/alloc.h"
#include "drivers/random.h"
#include "storage/storage.h"
#include "util/iov.h"
#include "util/workers.h"

#define STRIPE_BYTES 70001u /* no multiple of any block: neighbours share units */
#define BYTES_MAX    (64u << 20)

struct stress {
    struct vd_storage *storage;
    uint8_t *bytes;
    uint64_t size;
    unsigned threads;
    uint64_t operations;
    uint64_t seed;
};

static struct vd_range random_range(const struct stress *stress, struct vt_random *random,
                                    unsigned index)
{
    uint64_t stripes = stress->size / STRIPE_BYTES;
    uint64_t stripe = vt_random_below(random, stripes / stress->threads) * stress->threads + index;
    uint64_t start = vt_random_below(random, STRIPE_BYTES);
    uint64_t length = vt_random_below(random, STRIPE_BYTES - start) + 1;
    if (vt_random_chance(random, 30)) {
        start = vd_round_down(start, 4096);
        length = vd_min(4096, STRIPE_BYTES - start);
    }
    return vd_range(stripe * STRIPE_BYTES + start, length);
}

static int check(const struct stress *stress, const uint8_t *got, struct vd_range range,
                 struct vdisk_error *err)
{
    for (uint64_t i = 0; i < range.length; i++)
        if (got[i] != stress->bytes[range.offset + i])
            return vd_err_set(err, EILSEQ, "byte %" PRIu64 " is 0x%02x instead of 0x%02x",
                              range.offset + i, got[i], stress->bytes[range.offset + i]);
    return 0;
}

static int check_extent(const struct stress *stress, struct vd_range range, struct vdisk_error *err)
{
    struct vd_storage_extent extent;
    int ret = vd_storage_extent(stress->storage, range, &extent, err);
    if (ret == 0 && extent.kind == VD_STORAGE_HOLE &&
        !vd_buffer_is_zero(stress->bytes + range.offset, (size_t)extent.length))
        return vd_err_set(err, EILSEQ, "a hole where data is, at %" PRIu64, range.offset);
    return ret;
}

static int discard(const struct stress *stress, struct vd_range range, struct vdisk_error *err)
{
    uint8_t *model = stress->bytes + range.offset;
    int ret = vd_storage_discard(stress->storage, range, err);
    if (ret < 0)
        return ret;
    if (vd_storage_caps(stress->storage) & VD_STORAGE_CAN_DISCARD) {
        memset(model, 0, (size_t)range.length);
        return 0;
    }
    return vd_storage_pread(stress->storage, model, (size_t)range.length, range.offset, err);
}

static int step(const struct stress *stress, struct vt_random *random, unsigned index,
                uint8_t *buffer, struct vdisk_error *err)
{
    struct vd_range range = random_range(stress, random, index);
    uint8_t *model = stress->bytes + range.offset;
    unsigned kind = (unsigned)vt_random_below(random, 100);
    size_t length = (size_t)range.length;
    if (kind < 35) {
        int ret = vd_storage_pread(stress->storage, buffer, length, range.offset, err);
        return ret < 0 ? ret : check(stress, buffer, range, err);
    }
    if (kind < 70) {
        size_t cut = (size_t)vt_random_below(random, length + 1);
        struct iovec iov[2] = {{model, cut}, {model + cut, length - cut}};
        vt_random_fill(random, model, length);
        return vd_storage_pwritev(stress->storage, iov, 2, range.offset, err);
    }
    if (kind < 80) {
        memset(model, 0, length);
        return vd_storage_write_zeroes(stress->storage, range,
                                       kind % 2 ? VD_STORAGE_ZERO_MAY_PUNCH : 0, err);
    }
    if (kind < 88)
        return discard(stress, range, err);
    if (kind < 98)
        return check_extent(stress, range, err);
    return vd_storage_flush(stress->storage, err);
}

static int run(void *work, unsigned index, struct vdisk_error *err)
{
    const struct stress *stress = work;
    struct vt_random random = {stress->seed + index};
    uint8_t *buffer = vt_calloc(STRIPE_BYTES, 1);
    int ret = 0;
    for (uint64_t i = 0; i < stress->operations && ret == 0; i++)
        ret = step(stress, &random, index, buffer, err);
    free(buffer);
    return ret;
}

static int read_all(struct stress *stress, uint8_t *to, struct vdisk_error *err)
{
    return vd_storage_pread(stress->storage, to, (size_t)stress->size, 0, err);
}

static int stress_all(struct stress *stress, const char *uri,
                      const struct vd_storage_options *options, struct vdisk_error *err)
{
    int ret = vd_storage_open(uri, options, &stress->storage, err);
    if (ret == 0)
        ret = vd_storage_size(stress->storage, &stress->size, err);
    if (ret < 0)
        return ret;
    if (stress->size > BYTES_MAX || stress->size / STRIPE_BYTES < stress->threads) {
        vd_storage_close(stress->storage);
        return vd_err_set(err, EINVAL, "the size does not suit: %" PRIu64, stress->size);
    }
    stress->bytes = vt_calloc((size_t)stress->size, 1);
    ret = read_all(stress, stress->bytes, err);
    if (ret == 0)
        ret = vd_workers_run(stress->threads, run, stress, err);
    if (ret == 0)
        ret = vd_storage_flush(stress->storage, err);
    vd_storage_close(stress->storage);
    if (ret < 0)
        return ret;

    struct vd_storage_options again = {.network = options->network};
    ret = vd_storage_open(uri, &again, &stress->storage, err);
    if (ret < 0)
        return ret;
    uint8_t *now = vt_calloc((size_t)stress->size, 1);
    ret = read_all(stress, now, err);
    if (ret == 0)
        ret = check(stress, now, vd_range(0, stress->size), err);
    free(now);
    vd_storage_close(stress->storage);
    return ret;
}

int main(int argc, char **argv)
{
    if (argc < 5)
        return 2;
    struct vdisk_error err = {0};
    struct stress stress = {.threads = (unsigned)strtoul(argv[2], NULL, 0),
                            .operations = strtoull(argv[3], NULL, 0),
                            .seed = strtoull(argv[4], NULL, 0)};
    struct vdisk_network_options network = {.struct_bytes = sizeof(network),
                                            .timeout_ms = 10000,
                                            .connections =
                                                argc > 5 ? (uint32_t)strtoul(argv[5], NULL, 0) : 4};
    struct vd_storage_options options = {
        .flags = VD_STORAGE_WRITE | (argc > 6 ? VD_STORAGE_SYNC : 0), .network = &network};
    int ret = stress_all(&stress, argv[1], &options, &err);
    printf("%u threads, %" PRIu64 " operations each, seed %" PRIu64 ": %s\n", stress.threads,
           stress.operations, stress.seed, ret < 0 ? err.message : "good");
    free(stress.bytes);
    return ret < 0;
}
