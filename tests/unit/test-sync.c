/* SPDX-License-Identifier: MIT */
/*
 * vdisk_sync() and vdisk_delta(): a replica follows a master through random sessions, canceled now
 * and then; masters with random metadata; options.
 *
 * VDISK_TEST_ROUNDS: sessions of the master, default 40.  VDISK_TEST_SEED: seed, printed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vdisk.h"

#define BLOCK_BYTES 65536u
#define DISK_BLOCKS 96u

#define OK(call)                                                  \
    do {                                                          \
        struct vdisk_error err = {0};                             \
        if ((call) < 0)                                           \
            fail_msg("%s: %d: %s", #call, err.code, err.message); \
    } while (0)

static char work_dir[256];
static uint64_t dice;

static uint64_t number_from(const char *variable, uint64_t fallback)
{
    const char *text = getenv(variable);
    return text ? strtoull(text, NULL, 0) : fallback;
}

static uint64_t random_below(uint64_t limit)
{
    dice = dice * 6364136223846793005u + 1442695040888963407u;
    return (dice >> 33) % limit;
}

static int enter_work_dir(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(work_dir, sizeof(work_dir), "%s/test-sync-XXXXXX", tmp ? tmp : "/tmp");
    return mkdtemp(work_dir) && chdir(work_dir) == 0 ? 0 : -1;
}

static int leave_work_dir(void **state)
{
    (void)state;
    unlink("m");
    unlink("r");
    unlink("bad");
    return chdir("/") == 0 && rmdir(work_dir) == 0 ? 0 : -1;
}

static struct vdisk_image *open_image(const char *name, uint32_t flags)
{
    struct vdisk_open_options options = {.struct_bytes = sizeof(options), .flags = flags};
    struct vdisk_image *image = NULL;
    OK(vdisk_image_open(name, &options, &image, &err));
    return image;
}

static void make_master(void)
{
    struct vdisk_create_options create = {.struct_bytes = sizeof(create),
                                          .size = DISK_BLOCKS * BLOCK_BYTES};
    unlink("m");
    unlink("r");
    OK(vdisk_image_create("m", "gow3", &create, &err));
}

/* One write session: writes, discards, perhaps another size. */
static void change_master(void)
{
    struct vdisk_image *image = open_image("m", VDISK_OPEN_WRITE);
    static const uint32_t max_bytes = 5 * BLOCK_BYTES;
    uint8_t *data = malloc(max_bytes);
    assert_non_null(data);
    if (random_below(5) == 0)
        OK(vdisk_image_resize(image, (1 + random_below(DISK_BLOCKS * 128)) * 512,
                              VDISK_PREALLOCATION_OFF, &err));
    uint64_t size = vdisk_image_size(image);
    for (uint64_t i = random_below(12); i > 0; i--) {
        uint64_t offset = random_below(size);
        uint64_t length = 1 + random_below(max_bytes);
        if (length > size - offset)
            length = size - offset;
        memset(data, (int)random_below(256), length);
        if (random_below(3))
            OK(vdisk_image_pwrite(image, data, length, offset, &err));
        else
            OK(vdisk_image_discard(image, offset, length, &err));
    }
    free(data);
    OK(vdisk_image_close(image, &err));
}

static void assert_identical(void)
{
    struct vdisk_image *master = open_image("m", 0);
    struct vdisk_image *replica = open_image("r", 0);
    struct vdisk_image_info info = {.struct_bytes = sizeof(info)};
    OK(vdisk_image_info(replica, &info, &err));
    assert_int_equal(info.flags & (VDISK_INFO_REPLICA | VDISK_INFO_INCOMPLETE), VDISK_INFO_REPLICA);
    uint64_t size = vdisk_image_size(master);
    assert_int_equal(vdisk_image_size(replica), size);
    uint8_t *a = malloc(size), *b = malloc(size);
    assert_non_null(a);
    assert_non_null(b);
    OK(vdisk_image_pread(master, a, size, 0, &err));
    OK(vdisk_image_pread(replica, b, size, 0, &err));
    assert_memory_equal(a, b, size);
    free(a);
    free(b);
    OK(vdisk_image_close(replica, &err));
    OK(vdisk_image_close(master, &err));
}

/* Says no when so many reports have come. */
struct patience {
    uint64_t reports;
    uint64_t limit;
};

static int lose_patience(void *opaque, const struct vdisk_progress *progress)
{
    struct patience *patience = opaque;
    assert_non_null(progress->phase);
    assert_true(progress->done_bytes <= progress->total_bytes);
    assert_true(progress->done_blocks <= progress->total_blocks);
    return ++patience->reports > patience->limit;
}

static struct vdisk_sync_options random_options(struct vdisk_network_options *network)
{
    *network = (struct vdisk_network_options){.struct_bytes = sizeof(*network),
                                              .connections = (uint32_t)(1 + random_below(6))};
    return (struct vdisk_sync_options){
        .struct_bytes = sizeof(struct vdisk_sync_options),
        .source = "m",
        .replica = "r",
        .run_bytes = (uint32_t)(1 + random_below(20)) * BLOCK_BYTES,
        .window_bytes = (1 + random_below(40)) * BLOCK_BYTES,
        .network = network,
    };
}

static void test_follows_random_sessions(void **state)
{
    (void)state;
    uint64_t rounds = number_from("VDISK_TEST_ROUNDS", 40);
    uint64_t canceled = 0;
    make_master();
    for (uint64_t i = 0; i < rounds; i++) {
        struct vdisk_network_options network;
        struct vdisk_sync_options options = random_options(&network);
        struct vdisk_sync_result delta = {.struct_bytes = sizeof(delta)};
        struct vdisk_sync_result result = {.struct_bytes = sizeof(result)};
        change_master();
        if (random_below(3) == 0) { /* begun, and given up */
            struct patience patience = {.limit = random_below(4)};
            struct vdisk_sync_options impatient = options;
            impatient.progress = lose_patience;
            impatient.opaque = &patience;
            int ret = vdisk_sync(&impatient, NULL, NULL);
            assert_true(ret == 0 || ret == -ECANCELED);
            canceled += ret < 0;
            if (random_below(2))
                change_master();
        }
        OK(vdisk_delta(&options, &delta, &err));
        OK(vdisk_sync(&options, &result, &err));
        assert_int_equal(result.changed_blocks, delta.changed_blocks);
        assert_int_equal(result.fetched_blocks, delta.fetched_blocks);
        assert_int_equal(result.requests, delta.requests);
        assert_int_equal(result.fetched_bytes, delta.fetched_bytes);
        assert_true(result.fetched_bytes <=
                    result.fetched_blocks * BLOCK_BYTES + 8 * result.total_blocks + 4096);
        assert_identical();
        OK(vdisk_sync(&options, &result, &err));
        assert_int_equal(result.flags, VDISK_SYNC_UNCHANGED);
        assert_int_equal(result.requests, 1);
    }
    print_message("# %" PRIu64 " sessions, %" PRIu64 " syncs given up\n", rounds, canceled);
    assert_true(canceled > 0);
}

static void copy_file(const char *from, const char *to)
{
    char command[64];
    snprintf(command, sizeof(command), "cp --sparse=always %s %s", from, to);
    assert_int_equal(system(command), 0);
}

static void put_random_byte(const char *name, uint64_t offset)
{
    int fd = open(name, O_RDWR | O_CLOEXEC);
    uint8_t byte = (uint8_t)random_below(256);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)offset), 1);
    assert_int_equal(close(fd), 0);
}

/* Whatever the metadata of a master says: an error, or a replica that is sound. */
static void test_masters_with_random_metadata(void **state)
{
    (void)state;
    uint64_t refused = 0;
    make_master();
    change_master();
    change_master();
    for (int i = 0; i < 60; i++) {
        struct vdisk_sync_options options = {
            .struct_bytes = sizeof(options), .source = "bad", .replica = "r"};
        struct vdisk_error story = {0};
        copy_file("m", "bad");
        static const uint64_t tables[] = {0, 320, 320 + (16u << 20)};
        for (int changes = 0; changes < 3; changes++)
            put_random_byte("bad", tables[random_below(3)] + random_below(400));
        unlink("r");
        int ret = vdisk_sync(&options, NULL, &story);
        assert_int_equal(ret, -story.code);
        refused += ret < 0;
        if (ret == 0)
            OK(vdisk_image_close(open_image("r", 0), &err));
        else
            assert_true(story.message[0]);
    }
    print_message("# %" PRIu64 " of 60 refused\n", refused);
    assert_true(refused > 0);
}

static void test_options(void **state)
{
    (void)state;
    struct vdisk_sync_options good = {.struct_bytes = sizeof(good), .source = "m", .replica = "r"};
    struct vdisk_sync_result result = {.struct_bytes = 1};
    struct vdisk_sync_options bad = good;
    make_master();
    assert_int_equal(vdisk_sync(&good, &result, NULL), -EINVAL);
    bad.struct_bytes--;
    assert_int_equal(vdisk_sync(&bad, NULL, NULL), -EINVAL);
    bad = good;
    bad.reserved = 1;
    assert_int_equal(vdisk_sync(&bad, NULL, NULL), -EINVAL);
    bad = good;
    bad.flags = 1u << 31;
    assert_int_equal(vdisk_sync(&bad, NULL, NULL), -EINVAL);
    bad = good;
    bad.run_bytes = 1000;
    assert_int_equal(vdisk_sync(&bad, NULL, NULL), -EINVAL);
    bad = good;
    bad.sums = "m.sums"; /* without VDISK_SYNC_VERIFY */
    assert_int_equal(vdisk_sync(&bad, NULL, NULL), -EINVAL);
    bad = good;
    bad.replica = NULL;
    assert_int_equal(vdisk_sync(&bad, NULL, NULL), -EINVAL);
    bad = good;
    bad.replica = "m";
    assert_int_equal(vdisk_sync(&bad, NULL, NULL), -EINVAL);
    bad = good;
    bad.source = "missing";
    assert_int_equal(vdisk_sync(&bad, NULL, NULL), -ENOENT);
    assert_int_equal(access("r", F_OK), -1);
    OK(vdisk_sync(&good, NULL, &err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_follows_random_sessions),
        cmocka_unit_test(test_masters_with_random_metadata),
        cmocka_unit_test(test_options),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    dice = number_from("VDISK_TEST_SEED", 20261121);
    print_message("# seed %" PRIu64 "\n", dice);
    return cmocka_run_group_tests(tests, enter_work_dir, leave_work_dir);
}
