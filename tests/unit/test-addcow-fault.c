/* SPDX-License-Identifier: MIT */
/*
 * Every call to either file fails once, in turn, within a session of everything that changes an
 * image.  Afterwards the image is sound, and each sector holds what it may hold.
 */
#include "addcow-fixture.h"

#define DISK_BYTES (5 * CLUSTER + 512)
#define SECTORS    (6 * CLUSTER / 512)

/* Values that a sector may have, as bits: 0 is zero, 1 is BASE, the others are written ones. */
enum {
    ZERO_BIT = 1u << 0,
    BASE_BIT = 1u << 1
};

struct session {
    struct fixture fix;         /* the first, for the hook */
    uint32_t visible[SECTORS];  /* what reads find now */
    uint32_t possible[SECTORS]; /* and may be found if what was not flushed is lost */
    unsigned step;
    uint64_t failures;
};

static uint8_t byte_of(unsigned value)
{
    return value == 0 ? 0 : value == 1 ? BASE : (uint8_t)value;
}

/* A step either happens, or fails and may have happened in part. */
static void note(struct session *session, struct vd_range guest, uint32_t values, int ret)
{
    for (uint64_t i = guest.offset / 512; i < vd_range_end(guest) / 512; i++) {
        session->visible[i] = ret == 0 ? values : session->visible[i] | values;
        session->possible[i] |= values;
    }
    session->failures += ret < 0;
}

static void do_flush(struct session *session)
{
    if (vdisk_image_flush(session->fix.image, NULL) < 0)
        session->failures++;
    else
        memcpy(session->possible, session->visible, sizeof(session->possible));
}

static void do_write(struct session *session, uint64_t offset, uint64_t length)
{
    unsigned value = ++session->step + 1;
    uint8_t *buf = vt_calloc(length, 1);
    memset(buf, byte_of(value), length);
    int ret = vdisk_image_pwrite(session->fix.image, buf, length, offset, NULL);
    note(session, vd_range(offset, length), 1u << value, ret);
    free(buf);
}

static void do_zero(struct session *session, uint64_t offset, uint64_t length)
{
    int ret = vdisk_image_write_zeroes(session->fix.image, offset, length, 0, NULL);
    note(session, vd_range(offset, length), ZERO_BIT, ret);
}

static void do_resize(struct session *session, uint64_t size)
{
    uint64_t before = vdisk_image_size(session->fix.image);
    int ret = vdisk_image_resize(session->fix.image, size, VDISK_PREALLOCATION_OFF, NULL);
    uint64_t start = vd_min(before, size);
    session->failures += ret < 0;
    /* What was cut off, and what was added, is zero; if it failed, the size says what holds. */
    if (vdisk_image_size(session->fix.image) == size)
        note(session, vd_range(start, SECTORS * 512 - start), ZERO_BIT, 0);
}

static void run(struct session *session)
{
    struct vd_format *format = vd_image_format(session->fix.image);
    struct vd_backing backing = {.name = "base", .format = "raw"};
    do_write(session, 512, 1024);
    do_write(session, CLUSTER - 512, 2 * CLUSTER);
    do_flush(session);
    do_zero(session, 3 * CLUSTER, CLUSTER);
    do_zero(session, 1024, 512);
    do_write(session, 1024, CLUSTER);
    do_resize(session, 2 * CLUSTER + 512);
    do_write(session, 2 * CLUSTER, 512);
    do_resize(session, DISK_BYTES);
    do_write(session, 4 * CLUSTER + 512, 1024);
    do_flush(session);
    do_write(session, 4 * CLUSTER, 1024);
    session->failures += vd_format_set_backing(format, NULL, NULL) < 0;
    session->failures += vd_format_set_backing(format, &backing, NULL) < 0;
    do_write(session, 5 * CLUSTER, 512);
    session->failures += vdisk_image_close(session->fix.image, NULL) < 0;
    session->fix.image = NULL;
}

static void judge(struct session *session)
{
    struct vdisk_check_result result = {.struct_bytes = sizeof(result)};
    fixture_open(&session->fix, VDISK_OPEN_CHECK);
    VT_OK(vdisk_image_check(session->fix.image, VDISK_REPAIR_NONE, NULL, NULL, &result, &vt_err));
    assert_int_equal(result.corruptions + result.check_errors, 0);
    if (session->failures == 0)
        assert_int_equal(result.leaks, 0);
    fixture_close(&session->fix);

    fixture_open(&session->fix, VDISK_OPEN_WRITE);
    struct vdisk_image_info info = {.struct_bytes = sizeof(info)};
    VT_OK(vdisk_image_info(session->fix.image, &info, &vt_err));
    bool has_backing = info.backing_name != NULL; /* else a failure came between the two changes */
    assert_true(has_backing || session->failures);
    uint64_t size = vdisk_image_size(session->fix.image);
    for (uint64_t i = 0; i < size / 512; i++) {
        uint8_t buf[512];
        uint32_t allowed = session->failures ? session->possible[i] : session->visible[i];
        bool found = false;
        if (!has_backing && (allowed & BASE_BIT))
            allowed |= ZERO_BIT;
        VT_OK(vdisk_image_pread(session->fix.image, buf, 512, i * 512, &vt_err));
        for (unsigned value = 0; value < 30; value++)
            found = found || ((allowed >> value & 1) && buf[0] == byte_of(value));
        for (unsigned j = 1; j < 512; j++)
            found = found && buf[j] == buf[0];
        if (!found)
            fail_msg("sector %llu holds 0x%02x, allowed 0x%x", (unsigned long long)i, buf[0],
                     allowed);
    }
    fixture_close(&session->fix);
}

/* Runs with the call number @nth of @which failing; false: nobody noticed, or it was not called. */
static bool run_with_fault(enum which which, uint64_t nth, int error)
{
    struct session *session = vt_calloc(1, sizeof(*session));
    for (uint64_t i = 0; i < SECTORS; i++)
        session->visible[i] = session->possible[i] = i * 512 < DISK_BYTES ? BASE_BIT : ZERO_BIT;
    fixture_init(&session->fix, DISK_BYTES, 9 * CLUSTER);
    fixture_open(&session->fix, VDISK_OPEN_WRITE);
    vt_fault_set(session->fix.open[which],
                 (struct vt_fault_plan){.calls = VT_CALL_ANY, .nth = nth, .error = error});
    run(session);
    judge(session);
    bool failed = session->failures > 0;
    fixture_destroy(&session->fix);
    free(session);
    return failed;
}

static void test_every_call(void **state)
{
    (void)state;
    static const int errors[] = {EIO, ENOSPC};
    for (enum which which = COW; which <= RAW; which++)
        for (size_t e = 0; e < 2; e++) {
            uint64_t failed = 0;
            for (uint64_t nth = 1; nth <= 80; nth++)
                failed += run_with_fault(which, nth, errors[e]);
            print_message("# %s: %llu of 80 runs noticed a failure\n", which == COW ? "cow" : "raw",
                          (unsigned long long)failed);
            assert_true(failed >= 15);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_call)};
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
