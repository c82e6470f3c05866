/* SPDX-License-Identifier: MIT */
/* image/encoded: reads of compressed clusters beside a plain array, and what they cost. */
#include "cow-fixture.h"

#include <errno.h>
#include <pthread.h>

#include "drivers/random.h"
#include "drivers/trace.h"
#include "util/iov.h"

#define CLUSTER_BYTES 4096u
#define CLUSTERS      150u
#define DISK_BYTES    (CLUSTERS * CLUSTER_BYTES - 1536u) /* the last one is not whole */
#define PARTS_MAX     4u

struct disk {
    struct vdisk_image *image;
    struct vd_storage *trace;
    uint8_t *model; /* of whole clusters */
};

/* Half of it noise of two letters, so that it shrinks. */
static void fill_cluster(struct vt_random *random, uint8_t *bytes, size_t length)
{
    vt_random_fill(random, bytes, length);
    for (size_t i = 0; i < length; i++)
        bytes[i] = bytes[i] & 1 || i % 3 ? 'a' : 'b';
}

static void put_encoded(struct disk *disk, size_t index, enum vd_codec codec)
{
    uint8_t bytes[CLUSTER_BYTES];
    struct vd_encoder *encoder;
    size_t length;
    VT_OK(vd_encoder_new(codec, 0, &encoder, &vt_err));
    VT_OK(vd_encode(encoder, disk->model + index * CLUSTER_BYTES, CLUSTER_BYTES, bytes,
                    sizeof(bytes), &length, &vt_err));
    vd_encoder_free(encoder);
    assert_true(length > 0);
    uint64_t offset = index * CLUSTER_BYTES;
    const struct vd_image_encoded cluster = {
        .guest = vd_range(offset, vd_min(CLUSTER_BYTES, DISK_BYTES - offset)),
        .bytes = bytes,
        .length = (uint32_t)length};
    VT_OK(vd_image_write_encoded(disk->image, codec, &cluster, 1, &vt_err));
}

static void trace_data(struct disk *disk)
{
    struct cow *cow = cow_of(disk->image);
    VT_OK(vt_trace_open(cow->data, VT_OWN, NULL, &disk->trace, &vt_err));
    cow->data = disk->trace;
}

/* All clusters encoded, or only some, beside data and zeros. */
static void begin(struct disk *disk, bool encoded_only, uint64_t seed)
{
    struct vt_random random = {.state = seed};
    disk->image = cow_image(NULL, DISK_BYTES, CLUSTER_BYTES, true);
    disk->image->backing = cow_raw(cow_mem(DISK_BYTES));
    disk->model = vt_calloc(CLUSTERS, CLUSTER_BYTES);
    trace_data(disk);
    for (size_t i = 0; i < CLUSTERS; i++) {
        uint64_t kind = encoded_only ? vt_random_below(&random, 2) : vt_random_below(&random, 5);
        uint8_t *bytes = disk->model + i * CLUSTER_BYTES;
        if (kind == 4)
            continue;
        fill_cluster(&random, bytes, CLUSTER_BYTES);
        if (kind < 3)
            put_encoded(disk, i, kind == 1 ? VD_CODEC_ZSTD : VD_CODEC_DEFLATE);
        else
            VT_OK(vdisk_image_pwrite(
                disk->image, bytes,
                (size_t)vd_min(CLUSTER_BYTES, DISK_BYTES - i * (uint64_t)CLUSTER_BYTES),
                i * (uint64_t)CLUSTER_BYTES, &vt_err));
    }
    vt_trace_reset(disk->trace);
}

static void end(struct disk *disk)
{
    VT_OK(vdisk_image_close(disk->image, &vt_err));
    free(disk->model);
}

/* Reads to several buffers, cut anywhere; the bytes around them stay. */
static void check_read(struct disk *disk, struct vt_random *random, uint64_t offset, size_t length)
{
    struct iovec iov[PARTS_MAX];
    uint8_t *bytes = vt_calloc(length + PARTS_MAX, 1), *model = disk->model + offset;
    size_t at = 0, done = 0;
    unsigned parts = 1 + (unsigned)vt_random_below(random, PARTS_MAX);
    memset(bytes, 0xEE, length + PARTS_MAX);
    for (unsigned i = 0; i < parts; i++) {
        size_t step = (size_t)vt_random_below(random, length - done + 1);
        if (i + 1 == parts)
            step = length - done;
        iov[i] = (struct iovec){.iov_base = bytes + at, .iov_len = step};
        done += step;
        at += step + 1;
    }
    VT_OK(vdisk_image_preadv(disk->image, iov, (int)parts, offset, &vt_err));
    for (unsigned i = 0; i < parts; i++) {
        assert_memory_equal(iov[i].iov_base, model, iov[i].iov_len);
        assert_int_equal(((uint8_t *)iov[i].iov_base)[iov[i].iov_len], 0xEE);
        model += iov[i].iov_len;
    }
    free(bytes);
}

static void check_random_read(struct disk *disk, struct vt_random *random)
{
    uint64_t offset = vt_random_below(random, DISK_BYTES);
    uint64_t limit = vt_random_chance(random, 50) ? 600 : 50u * CLUSTER_BYTES;
    size_t length = (size_t)(1 + vt_random_below(random, vd_min(limit, DISK_BYTES - offset)));
    check_read(disk, random, offset, length);
}

static void test_reads(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 6; round++) {
        struct vt_random random = {.state = 100 + round};
        struct disk disk;
        begin(&disk, round % 3 == 0, 7 + round);
        disk.image->encoded.keeps_clusters = round % 2;
        for (unsigned i = 0; i < VT_ROUNDS(1500); i++)
            check_random_read(&disk, &random);
        check_read(&disk, &random, 0, DISK_BYTES);
        end(&disk);
    }
}

/* Writes into compressed clusters, which become others; then all of them once more. */
static void test_writes(void **state)
{
    (void)state;
    struct vt_random random = {.state = 5};
    struct disk disk;
    begin(&disk, false, 11);
    for (unsigned i = 0; i < VT_ROUNDS(1000); i++) {
        uint64_t offset = vt_random_below(&random, DISK_BYTES);
        size_t length = (size_t)(1 + vt_random_below(&random, vd_min(9000, DISK_BYTES - offset)));
        uint8_t *model = disk.model + offset;
        if (vt_random_chance(&random, 30)) {
            memset(model, 0, length);
            VT_OK(vdisk_image_write_zeroes(disk.image, offset, length, 0, &vt_err));
        } else {
            vt_random_fill(&random, model, length);
            VT_OK(vdisk_image_pwrite(disk.image, model, length, offset, &vt_err));
        }
        check_random_read(&disk, &random);
    }
    check_read(&disk, &random, 0, DISK_BYTES);
    end(&disk);
}

static void test_costs(void **state)
{
    (void)state;
    struct vt_random random = {.state = 9};
    struct disk disk;
    begin(&disk, true, 13);
    /* Neighbours are read at once. */
    check_read(&disk, &random, 0, 30u * CLUSTER_BYTES);
    assert_int_equal(vt_trace_count(disk.trace, VT_READ), 1);
    check_read(&disk, &random, 0, DISK_BYTES);
    assert_true(vt_trace_count(disk.trace, VT_READ) <= 1 + 1 + CLUSTERS / 32);

    /* Who may change it is not shown what was. */
    vt_trace_reset(disk.trace);
    for (unsigned i = 0; i < 10; i++)
        check_read(&disk, &random, 20000 + 10 * i, 100);
    assert_int_equal(vt_trace_count(disk.trace, VT_READ), 10);

    /* Small reads of one cluster read it once; and of several in turn. */
    disk.image->encoded.keeps_clusters = true;
    vt_trace_reset(disk.trace);
    for (unsigned i = 0; i < 100; i++)
        check_read(&disk, &random, i % VD_ENCODED_SLOTS_MAX * CLUSTER_BYTES + 10 * i, 100);
    assert_int_equal(vt_trace_count(disk.trace, VT_READ), VD_ENCODED_SLOTS_MAX);
    /* Another one takes the place of the one that was asked for the longest ago: 4, at i = 92. */
    check_read(&disk, &random, 50u * CLUSTER_BYTES, 100);
    check_read(&disk, &random, 1u * CLUSTER_BYTES, 100);
    assert_int_equal(vt_trace_count(disk.trace, VT_READ), VD_ENCODED_SLOTS_MAX + 1);
    check_read(&disk, &random, 4u * CLUSTER_BYTES, 100);
    assert_int_equal(vt_trace_count(disk.trace, VT_READ), VD_ENCODED_SLOTS_MAX + 2);
    end(&disk);
}

/* Many at once, with others in between, are as few writes as there are places; and all or the
 * first ones are there when one fails. */
static void test_many(void **state)
{
    (void)state;
    struct vt_random random = {.state = 29};
    struct disk disk;
    begin(&disk, true, 31);
    struct vd_image_encoded clusters[CLUSTERS];
    uint8_t bytes[CLUSTER_BYTES];
    struct vd_encoder *encoder;
    size_t length, entries = 0;
    VT_OK(vd_encoder_new(VD_CODEC_ZSTD, 0, &encoder, &vt_err));
    memset(bytes, 'x', sizeof(bytes));
    uint8_t *encoded = vt_calloc(CLUSTER_BYTES, 1);
    VT_OK(vd_encode(encoder, bytes, CLUSTER_BYTES, encoded, CLUSTER_BYTES, &length, &vt_err));
    vd_encoder_free(encoder);
    for (size_t i = 0; i + 1 < CLUSTERS; i += 1 + i % 3)
        clusters[entries++] =
            (struct vd_image_encoded){.guest = vd_range(i * CLUSTER_BYTES, CLUSTER_BYTES),
                                      .bytes = encoded,
                                      .length = (uint32_t)length};
    for (size_t i = 0; i < entries; i++)
        memcpy(disk.model + clusters[i].guest.offset, bytes, CLUSTER_BYTES);
    assert_true(entries > 64);
    VT_OK(vd_image_write_encoded(disk.image, VD_CODEC_ZSTD, clusters, entries, &vt_err));
    assert_int_equal(vt_trace_count(disk.trace, VT_WRITE), vd_div_up(entries, 32));
    check_read(&disk, &random, 0, DISK_BYTES);

    /* The last one lies behind the disk: those of its batch are not there, the others are. */
    memset(disk.model, 0, 32 * CLUSTER_BYTES);
    clusters[entries - 1].guest.offset = CLUSTERS * CLUSTER_BYTES;
    VT_OK(vdisk_image_write_zeroes(disk.image, 0, 32 * CLUSTER_BYTES, 0, &vt_err));
    VT_FAILS(EINVAL, vd_image_write_encoded(disk.image, VD_CODEC_ZSTD, clusters, entries, &vt_err));
    for (size_t i = 0; i < 32; i++)
        memcpy(disk.model + clusters[i].guest.offset, bytes, CLUSTER_BYTES);
    check_read(&disk, &random, 0, DISK_BYTES);
    free(encoded);
    end(&disk);
}

static void test_extents(void **state)
{
    (void)state;
    struct disk disk;
    struct vdisk_extent extent;
    begin(&disk, true, 17);
    VT_OK(vdisk_image_extent(disk.image, 100, DISK_BYTES - 100, &extent, &vt_err));
    assert_int_equal(extent.length, DISK_BYTES - 100);
    assert_int_equal(extent.flags,
                     VDISK_EXTENT_DATA | VDISK_EXTENT_PRESENT | VDISK_EXTENT_COMPRESSED);
    assert_null(extent.host_name);
    VT_OK(vdisk_image_pwrite(disk.image, disk.model, 10, 3 * CLUSTER_BYTES + 5, &vt_err));
    VT_OK(vdisk_image_extent(disk.image, 0, DISK_BYTES, &extent, &vt_err));
    assert_int_equal(extent.length, 3 * CLUSTER_BYTES);
    VT_OK(vdisk_image_extent(disk.image, extent.length, 2 * CLUSTER_BYTES, &extent, &vt_err));
    assert_int_equal(extent.length, CLUSTER_BYTES);
    assert_int_equal(extent.flags, VDISK_EXTENT_DATA | VDISK_EXTENT_PRESENT | VDISK_EXTENT_OFFSET);
    end(&disk);
}

/* One bad cluster: who reads it is told where it is, and gets zeros; the others are as they were.
 */
static void test_bad_cluster(void **state)
{
    (void)state;
    struct vt_random random = {.state = 3};
    struct disk disk;
    begin(&disk, true, 19);
    struct cow *cow = cow_of(disk.image);
    uint8_t bytes[3 * CLUSTER_BYTES];
    memset(bytes, 0xFF, sizeof(bytes));
    VT_OK(vd_storage_pwrite(cow->data, bytes, cow->encoded[1], cow->hosts[1], &vt_err));
    struct vdisk_error err = {0};
    assert_int_equal(vdisk_image_pread(disk.image, bytes, sizeof(bytes), 0, &err), -EBADMSG);
    assert_non_null(strstr(err.message, "compressed cluster of 4096 bytes at offset 4096 "));
    assert_true(vd_buffer_is_zero(bytes, sizeof(bytes)));
    check_read(&disk, &random, 0, CLUSTER_BYTES);
    check_read(&disk, &random, 2 * CLUSTER_BYTES, CLUSTER_BYTES);

    /* A stream that the file does not have is an error of the file. */
    cow->hosts[5] = UINT64_C(1) << 40;
    assert_true(vdisk_image_pread(disk.image, bytes, 10, 5 * CLUSTER_BYTES, NULL) < 0);
    end(&disk);
}

static void test_refused(void **state)
{
    (void)state;
    struct vdisk_image *raw = cow_raw(cow_mem(CLUSTER_BYTES));
    const struct vd_image_encoded cluster = {
        .guest = vd_range(0, CLUSTER_BYTES), .bytes = "abc", .length = 3};
    VT_FAILS(ENOTSUP, vd_image_write_encoded(raw, VD_CODEC_ZSTD, &cluster, 1, &vt_err));
    const struct vd_image_encoded behind = {
        .guest = vd_range(CLUSTER_BYTES, CLUSTER_BYTES), .bytes = "abc", .length = 3};
    VT_FAILS(EINVAL, vd_image_write_encoded(raw, VD_CODEC_ZSTD, &behind, 1, &vt_err));
    VT_OK(vdisk_image_close(raw, &vt_err));
}

struct reader {
    struct disk *disk;
    uint64_t seed;
};

static void *read_all(void *opaque)
{
    const struct reader *reader = opaque;
    struct vt_random random = {.state = reader->seed};
    for (unsigned i = 0; i < 400; i++)
        check_random_read(reader->disk, &random);
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    for (unsigned keeps = 0; keeps < 2; keeps++) {
        struct disk disk;
        struct reader readers[4];
        pthread_t threads[4];
        begin(&disk, keeps, 23);
        disk.image->encoded.keeps_clusters = keeps;
        for (unsigned i = 0; i < 4; i++) {
            readers[i] = (struct reader){.disk = &disk, .seed = i};
            assert_int_equal(pthread_create(&threads[i], NULL, read_all, &readers[i]), 0);
        }
        for (unsigned i = 0; i < 4; i++)
            pthread_join(threads[i], NULL);
        end(&disk);
    }
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads),   cmocka_unit_test(test_writes),
        cmocka_unit_test(test_costs),   cmocka_unit_test(test_many),
        cmocka_unit_test(test_extents), cmocka_unit_test(test_bad_cluster),
        cmocka_unit_test(test_refused), cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
