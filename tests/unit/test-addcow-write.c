/* SPDX-License-Identifier: MIT */
/* Writing: what is filled, in which order things become durable, and what failures leave. */
#include "addcow-fixture.h"

static void expect_log(struct fixture *fix, const char *expected)
{
    assert_string_equal(fix->log, expected);
    fix->log[0] = '\0';
}

static void flush(struct fixture *fix)
{
    VT_OK(vdisk_image_flush(fix->image, &vt_err));
}

/* A1: data, raw file durable, bits, file durable; and one flush where no bit changed. */
static void test_flush_order(void **state)
{
    (void)state;
    struct fixture fix;
    fixture_init(&fix, 10 * CLUSTER, 10 * CLUSTER);
    fixture_open(&fix, VDISK_OPEN_WRITE);
    write_bytes(&fix, 100, 1000, 1);
    expect_log(&fix, "Rw ");
    assert_false(bit_in_file(&fix, 0));
    flush(&fix);
    expect_log(&fix, "Rf Cw Cf ");
    assert_true(bit_in_file(&fix, 0));
    write_bytes(&fix, 100, 1000, 2);
    flush(&fix);
    expect_log(&fix, "Rw Rf ");
    write_bytes(&fix, 5 * CLUSTER, 3 * CLUSTER, 3);
    fixture_close(&fix);
    expect_log(&fix, "Rw Rf Cw Cf ");
    assert_int_equal(byte_in_file(&fix, COW, 4096), 0xE1);
    fixture_destroy(&fix);
}

/* Only the sectors with changed bits are written. */
static void test_bitmap_sectors(void **state)
{
    (void)state;
    struct fixture fix;
    uint64_t size = UINT64_C(4096) * 8 * 3 * CLUSTER; /* three pages of bitmap */
    fixture_init(&fix, 0, 0);
    set_length(&fix, RAW, size);
    fixture_open(&fix, VDISK_OPEN_WRITE);
    fix.log[0] = '\0';
    write_bytes(&fix, 0, 512, 1);
    write_bytes(&fix, UINT64_C(511) * 8 * CLUSTER, 512, 1);          /* same sector */
    write_bytes(&fix, (UINT64_C(4096) + 600) * 8 * CLUSTER, 512, 1); /* another page */
    write_bytes(&fix, size - 512, 512, 1);
    fix.log[0] = '\0';
    flush(&fix);
    expect_log(&fix, "Rf Cw Cw Cw Cf ");
    fixture_destroy(&fix);
}

/* A2, against a plain array: what the raw file held never shows. */
static void test_random_writes(void **state)
{
    (void)state;
    struct vt_random random = {.state = 20261121};
    print_message("# seed %llu\n", (unsigned long long)random.state);
    for (unsigned round = 0; round < 40; round++) {
        struct fixture fix;
        uint64_t size = 512 * (1 + vt_random_below(&random, 700));
        uint64_t base = vt_random_chance(&random, 20) ? 0 : 1 + vt_random_below(&random, 500000);
        uint8_t *model = vt_calloc(size, 1), *buf = vt_calloc(size, 1);
        fixture_init(&fix, size, base);
        memset(model, BASE, vd_min(size, base));
        fixture_open(&fix, VDISK_OPEN_WRITE);
        for (unsigned op = 0; op < 25; op++) {
            uint64_t offset = vt_random_below(&random, size);
            uint64_t length = vt_random_below(&random, vd_min(size - offset, 200000) + 1);
            if (vt_random_chance(&random, 60)) {
                vt_random_fill(&random, model + offset, length);
                VT_OK(vdisk_image_pwrite(fix.image, model + offset, length, offset, &vt_err));
            } else {
                unsigned flags = vt_random_chance(&random, 30) ? VDISK_ZERO_NO_HOLE : 0;
                memset(model + offset, 0, length);
                VT_OK(vdisk_image_write_zeroes(fix.image, offset, length, flags, &vt_err));
            }
            VT_OK(vdisk_image_pread(fix.image, buf, size, 0, &vt_err));
            assert_memory_equal(buf, model, size);
        }
        fixture_close(&fix);
        assert_int_equal(bytes_of(&fix, RAW), size); /* nothing is written behind the end */
        fixture_open(&fix, 0);
        VT_OK(vdisk_image_pread(fix.image, buf, size, 0, &vt_err));
        assert_memory_equal(buf, model, size);
        fixture_destroy(&fix);
        free(model);
        free(buf);
    }
}

/* The driver of v20 copied behind the end of a short backing file, and of the disk. */
static void test_edges(void **state)
{
    (void)state;
    struct fixture fix;
    uint64_t size = 2 * CLUSTER + 1536;
    fixture_init(&fix, size, CLUSTER + 700);
    fixture_open(&fix, VDISK_OPEN_WRITE);
    write_bytes(&fix, 2 * CLUSTER - 10, 20, 7); /* astride */
    expect_bytes(&fix, 0, CLUSTER + 700, BASE);
    expect_bytes(&fix, CLUSTER + 700, CLUSTER - 710, 0);
    expect_bytes(&fix, 2 * CLUSTER - 10, 20, 7);
    expect_bytes(&fix, 2 * CLUSTER + 10, 1526, 0);
    fixture_close(&fix);
    assert_int_equal(bytes_of(&fix, RAW), size);
    assert_int_equal(byte_in_file(&fix, COW, 4096), 0x06);
    assert_int_equal(byte_in_file(&fix, RAW, 0), STALE); /* the first cluster was not touched */
    fixture_destroy(&fix);
}

/* No zeros are written into a hole, and none are spared where there is something. */
static void test_fill_of_holes(void **state)
{
    (void)state;
    struct fixture fix;
    fixture_init(&fix, 4 * CLUSTER, 0);
    fixture_put(&fix, RAW, filled(4 * CLUSTER, 0));
    set_byte_in_file(&fix, RAW, 2 * CLUSTER + 5, STALE);
    fixture_open(&fix, VDISK_OPEN_WRITE);
    struct vd_mapping mapping;
    struct vd_format *format = vd_image_format(fix.image);
    VT_OK(vd_format_map_for_write(format, vd_range(100, 1), true, &mapping, &vt_err));
    assert_int_equal(mapping.fill, VD_FILL_NONE);
    assert_int_equal(mapping.clusters.length, CLUSTER);
    vd_format_write_done(format, &mapping, false);
    VT_OK(vd_format_map_for_write(format, vd_range(2 * CLUSTER, 1), true, &mapping, &vt_err));
    assert_int_equal(mapping.fill, VD_FILL_ZERO);
    vd_format_write_done(format, &mapping, false);
    write_bytes(&fix, CLUSTER, 2 * CLUSTER - 1, 7);
    expect_bytes(&fix, 3 * CLUSTER - 1, 1, 0);
    expect_bytes(&fix, 0, CLUSTER, 0);
    fixture_destroy(&fix);
}

static void test_zeroes(void **state)
{
    (void)state;
    struct fixture fix;
    fixture_init(&fix, 10 * CLUSTER, 0);
    fixture_open(&fix, VDISK_OPEN_WRITE);
    /* Nothing to do where nothing is. */
    VT_OK(vdisk_image_write_zeroes(fix.image, 100, 9 * CLUSTER, 0, &vt_err));
    flush(&fix);
    expect_log(&fix, "Rf ");
    /* In place where something is. */
    write_bytes(&fix, CLUSTER, CLUSTER, 7);
    VT_OK(vdisk_image_write_zeroes(fix.image, CLUSTER + 5, 100, 0, &vt_err));
    expect_log(&fix, "Rw Rz ");
    expect_bytes(&fix, CLUSTER + 5, 100, 0);
    expect_bytes(&fix, CLUSTER + 105, CLUSTER - 105, 7);
    fixture_destroy(&fix);

    fixture_init(&fix, 10 * CLUSTER, 10 * CLUSTER);
    fixture_open(&fix, VDISK_OPEN_WRITE);
    VT_OK(vdisk_image_write_zeroes(fix.image, 2 * CLUSTER, 5 * CLUSTER, 0, &vt_err));
    expect_log(&fix, "Rz "); /* whole clusters, at once */
    expect_bytes(&fix, 2 * CLUSTER, 5 * CLUSTER, 0);
    expect_bytes(&fix, 7 * CLUSTER, 3 * CLUSTER, BASE);
    fixture_close(&fix);
    assert_int_equal(byte_in_file(&fix, COW, 4096), 0x7C);
    fixture_destroy(&fix);
}

/* A discard gives space back, changes no bit, and shows nothing that was not there. */
static void test_discard(void **state)
{
    (void)state;
    struct fixture fix;
    fixture_init(&fix, 4 * CLUSTER, 4 * CLUSTER);
    fixture_open(&fix, VDISK_OPEN_WRITE);
    write_bytes(&fix, CLUSTER, CLUSTER, 7);
    flush(&fix);
    fix.log[0] = '\0';
    VT_OK(vdisk_image_discard(fix.image, 0, 4 * CLUSTER, &vt_err));
    expect_log(&fix, "Rd ");
    expect_bytes(&fix, 0, CLUSTER, BASE);
    expect_bytes(&fix, CLUSTER, CLUSTER, 0);
    expect_bytes(&fix, 2 * CLUSTER, 2 * CLUSTER, BASE);
    fixture_destroy(&fix);
}

/* ---- Failures ------------------------------------------------------------------------------ */

/* The data could not be written: the cluster is as before, and can be taken later. */
static void test_failed_data(void **state)
{
    (void)state;
    struct fixture fix;
    uint8_t buf[1000] = {7};
    fixture_init(&fix, 4 * CLUSTER, 4 * CLUSTER);
    fixture_open(&fix, VDISK_OPEN_WRITE);
    vt_fault_set(fix.open[RAW], (struct vt_fault_plan){.calls = VT_CALL_BIT(VT_WRITE),
                                                       .nth = 1,
                                                       .error = ENOSPC,
                                                       .prefix_bytes = 30000});
    struct vdisk_error err = {0};
    assert_int_equal(vdisk_image_pwrite(fix.image, buf, 1000, CLUSTER + 100, &err), -ENOSPC);
    assert_int_equal(strncmp(err.message, "raw: ", 5), 0);
    expect_bytes(&fix, 0, 4 * CLUSTER, BASE);
    flush(&fix);
    assert_false(bit_in_file(&fix, 1));
    write_bytes(&fix, CLUSTER + 100, 1000, 8);
    expect_bytes(&fix, CLUSTER, 100, BASE);
    expect_bytes(&fix, CLUSTER + 1100, CLUSTER - 1100, BASE);
    fixture_destroy(&fix);
}

/* A flush that fails in either file ends all changes, and names the file. */
static void test_failed_flush(void **state)
{
    (void)state;
    static const struct {
        enum which which;
        enum vt_call call;
        const char *name;
    } table[] = {{RAW, VT_FLUSH, "raw: "}, {COW, VT_WRITE, "cow: "}, {COW, VT_FLUSH, "cow: "}};
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct fixture fix;
        uint8_t buf[512] = {7};
        fixture_init(&fix, 4 * CLUSTER, 4 * CLUSTER);
        fixture_open(&fix, VDISK_OPEN_WRITE);
        write_bytes(&fix, 0, 512, 7);
        vt_fault_set(
            fix.open[table[i].which],
            (struct vt_fault_plan){.calls = VT_CALL_BIT(table[i].call), .nth = 1, .error = EIO});
        struct vdisk_error err = {0};
        assert_int_equal(vdisk_image_flush(fix.image, &err), -EIO);
        assert_int_equal(strncmp(err.message, table[i].name, 5), 0);
        VT_FAILS(EIO, vdisk_image_flush(fix.image, &vt_err));
        VT_FAILS(EIO, vdisk_image_pwrite(fix.image, buf, 512, 0, &vt_err));
        expect_bytes(&fix, 0, 512, 7);
        expect_bytes(&fix, 512, CLUSTER, BASE);
        VT_FAILS(EIO, vdisk_image_close(fix.image, &vt_err));
        fix.image = NULL;
        fixture_open(&fix, VDISK_OPEN_WRITE);
        expect_bytes(&fix, 512, CLUSTER, BASE);
        fixture_destroy(&fix);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flush_order),   cmocka_unit_test(test_bitmap_sectors),
        cmocka_unit_test(test_random_writes), cmocka_unit_test(test_edges),
        cmocka_unit_test(test_fill_of_holes), cmocka_unit_test(test_zeroes),
        cmocka_unit_test(test_discard),       cmocka_unit_test(test_failed_data),
        cmocka_unit_test(test_failed_flush),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
