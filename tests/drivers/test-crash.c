/* SPDX-License-Identifier: MIT */
/* The crash storage makes every state that its header allows, and no other. */
#include <stdio.h>
#include <string.h>

#include "drivers/check.h"
#include "drivers/crash.h"
#include "drivers/random.h"
#include "drivers/snap.h"
#include "util/iov.h"

#define SECTOR 512u
#define CUTS   400u

/* @sectors of 'a', durable. */
static struct vd_storage *open_with(unsigned sectors)
{
    struct vt_pages *pages = vt_pages_new(sectors * SECTOR);
    for (unsigned i = 0; i < sectors; i++) {
        char bytes[SECTOR];
        memset(bytes, 'a', sizeof(bytes));
        vt_pages_write(pages, bytes, vd_range(i * SECTOR, SECTOR));
    }
    struct vd_storage *st;
    VT_OK(vt_crash_open(pages, &st, &vt_err));
    return st;
}

static void write_letter(struct vd_storage *st, char letter, unsigned sector, unsigned sectors)
{
    char bytes[8 * SECTOR];
    memset(bytes, letter, sizeof(bytes));
    VT_OK(vd_storage_pwrite(st, bytes, sectors * SECTOR, sector * SECTOR, &vt_err));
}

/* The state as a string, one letter a sector: '.' for zeros, '?' for a mixture. */
static void look(struct vd_storage *state, char *letters, size_t room)
{
    uint64_t size;
    VT_OK(vd_storage_size(state, &size, &vt_err));
    assert_true(size % SECTOR == 0 && size / SECTOR < room);
    memset(letters, 0, room);
    for (size_t i = 0; i < size / SECTOR; i++) {
        char bytes[SECTOR];
        VT_OK(vd_storage_pread(state, bytes, SECTOR, i * SECTOR, &vt_err));
        bool uniform = memcmp(bytes, bytes + 1, SECTOR - 1) == 0;
        letters[i] = !uniform ? '?' : bytes[0] ? bytes[0] : '.';
    }
}

static void cut(struct vd_storage *st, enum vt_cut how, uint64_t seed, char *letters, size_t room)
{
    struct vd_storage *state;
    VT_OK(vt_crash_cut(st, how, seed, &state, &vt_err));
    look(state, letters, room);
    vd_storage_close(state);
}

/* Cuts often: every state is one of @allowed, and each of these is met. */
static void expect_states(struct vd_storage *st, enum vt_cut how, const char *const *allowed)
{
    bool met[32] = {false};
    for (uint64_t seed = 0; seed < CUTS; seed++) {
        char letters[32];
        size_t i = 0;
        cut(st, how, seed, letters, sizeof(letters));
        while (allowed[i] && strcmp(allowed[i], letters) != 0)
            i++;
        if (!allowed[i])
            fail_msg("%s, seed %u: state %s", vt_cut_name(how), (unsigned)seed, letters);
        met[i] = true;
    }
    for (size_t i = 0; allowed[i]; i++)
        if (!met[i])
            fail_msg("%s: never made state %s", vt_cut_name(how), allowed[i]);
}

#define EXPECT(st, how, ...) expect_states(st, how, (const char *const[]){__VA_ARGS__, NULL})

static void test_whole_changes(void **unused)
{
    (void)unused;
    struct vd_storage *st = open_with(4);
    write_letter(st, 'b', 0, 2);
    write_letter(st, 'c', 1, 1);
    VT_OK(vd_storage_discard(st, vd_range(3 * SECTOR, SECTOR), &vt_err));
    assert_int_equal(vt_crash_pending(st), 3);
    EXPECT(st, VT_CUT_DROP_ALL, "aaaa");
    EXPECT(st, VT_CUT_KEEP_ALL, "bca.");
    EXPECT(st, VT_CUT_ALL_BUT_ONE, "aca.", "bba.", "bcaa");
    EXPECT(st, VT_CUT_ONLY_ONE, "bbaa", "acaa", "aaa.");
    EXPECT(st, VT_CUT_SUBSET, "aaaa", "bbaa", "acaa", "bcaa", "aaa.", "bba.", "aca.", "bca.");
    vd_storage_close(st);
}

static void test_tears_at_sectors(void **unused)
{
    (void)unused;
    struct vd_storage *st = open_with(3);
    write_letter(st, 'b', 0, 3);
    EXPECT(st, VT_CUT_TORN, "aaa", "baa", "aba", "bba", "aab", "bab", "abb", "bbb");
    vd_storage_close(st);
}

static void test_tears_unaligned_writes_at_sectors_of_the_file(void **unused)
{
    (void)unused;
    struct vd_storage *st = open_with(2);
    char b[SECTOR];
    memset(b, 'b', sizeof(b));
    VT_OK(vd_storage_pwrite(st, b, SECTOR, 100, &vt_err));
    for (uint64_t seed = 0; seed < CUTS; seed++) {
        struct vd_storage *state;
        char bytes[2 * SECTOR];
        VT_OK(vt_crash_cut(st, VT_CUT_TORN, seed, &state, &vt_err));
        VT_OK(vd_storage_pread(state, bytes, sizeof(bytes), 0, &vt_err));
        assert_memory_equal(bytes + 100, bytes + 101, SECTOR - 101);
        assert_memory_equal(bytes + SECTOR, bytes + SECTOR + 1, 99);
        assert_true(bytes[0] == 'a' && bytes[99] == 'a' && bytes[SECTOR + 100] == 'a');
        vd_storage_close(state);
    }
    vd_storage_close(st);
}

static void test_reorders(void **unused)
{
    (void)unused;
    struct vd_storage *st = open_with(1);
    write_letter(st, 'b', 0, 1);
    write_letter(st, 'c', 0, 1);
    EXPECT(st, VT_CUT_SUBSET, "a", "b", "c");
    EXPECT(st, VT_CUT_REORDERED, "a", "b", "c");
    VT_OK(vd_storage_resize(st, 0, &vt_err));
    EXPECT(st, VT_CUT_SUBSET, "a", "b", "c", "");
    EXPECT(st, VT_CUT_REORDERED, "a", "b", "c", "", "."); /* emptied, then grown by a lost write */
    vd_storage_close(st);
}

static void test_loses_sizes_and_data(void **unused)
{
    (void)unused;
    struct vd_storage *st = open_with(1);
    write_letter(st, 'b', 1, 2);
    EXPECT(st, VT_CUT_SUBSET, "a", "a..", "abb");
    EXPECT(st, VT_CUT_TORN, "a", "a..", "ab", "ab.", "a.b", "abb");
    VT_OK(vd_storage_flush(st, &vt_err));
    VT_OK(vd_storage_resize(st, SECTOR, &vt_err));
    EXPECT(st, VT_CUT_TORN, "a", "abb");
    VT_OK(vd_storage_write_zeroes(st, vd_range(SECTOR, SECTOR), 0, &vt_err));
    EXPECT(st, VT_CUT_SUBSET, "a", "abb", "a.b", "a.");
    vd_storage_close(st);
}

static void test_flushed_stays(void **unused)
{
    (void)unused;
    struct vd_storage *st = open_with(2);
    write_letter(st, 'b', 0, 1);
    VT_OK(vd_storage_flush(st, &vt_err));
    assert_int_equal(vt_crash_flushes(st), 1);
    assert_int_equal(vt_crash_pending(st), 0);
    for (enum vt_cut how = 0; how < VT_CUTS; how++)
        EXPECT(st, how, "ba");
    write_letter(st, 'c', 1, 1);
    EXPECT(st, VT_CUT_REORDERED, "ba", "bc");

    char letters[8];
    look(st, letters, sizeof(letters)); /* reads see everything */
    assert_string_equal(letters, "bc");
    vd_storage_close(st);
}

static void test_can_lie(void **unused)
{
    (void)unused;
    struct vd_storage *st = open_with(1);
    vt_crash_ignore_flushes(st, 2, 0);
    write_letter(st, 'b', 0, 1);
    VT_OK(vd_storage_flush(st, &vt_err));
    EXPECT(st, VT_CUT_SUBSET, "a", "b");
    VT_OK(vd_storage_flush(st, &vt_err));
    EXPECT(st, VT_CUT_SUBSET, "b");
    vd_storage_close(st);
}

static void count_hook(void *opaque, struct vd_storage *storage, enum vt_call call)
{
    unsigned *counts = opaque;
    struct vd_storage *state;
    VT_OK(vt_crash_cut(storage, VT_CUT_KEEP_ALL, 0, &state, &vt_err));
    vd_storage_close(state);
    counts[call]++;
}

static void test_calls_the_hook_first(void **unused)
{
    (void)unused;
    unsigned counts[VT_CALLS] = {0};
    struct vd_storage *st = open_with(1);
    vt_crash_set_hook(st, count_hook, counts);
    write_letter(st, 'b', 0, 1);
    VT_OK(vd_storage_write_zeroes(st, vd_range(0, 10), 0, &vt_err));
    VT_OK(vd_storage_discard(st, vd_range(0, 10), &vt_err));
    VT_OK(vd_storage_resize(st, 10, &vt_err));
    VT_OK(vd_storage_flush(st, &vt_err));
    assert_int_equal(counts[VT_WRITE] + counts[VT_ZERO] + counts[VT_DISCARD], 3);
    assert_int_equal(counts[VT_RESIZE] + counts[VT_FLUSH], 2);
    vd_storage_close(st);
}

int main(void)
{
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole_changes),
        cmocka_unit_test(test_tears_at_sectors),
        cmocka_unit_test(test_tears_unaligned_writes_at_sectors_of_the_file),
        cmocka_unit_test(test_reorders),
        cmocka_unit_test(test_loses_sizes_and_data),
        cmocka_unit_test(test_flushed_stays),
        cmocka_unit_test(test_can_lie),
        cmocka_unit_test(test_calls_the_hook_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
