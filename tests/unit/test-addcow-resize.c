/* SPDX-License-Identifier: MIT */
/* A new size, and what a power cut within it leaves: add-cow §6. */
#include "addcow-fixture.h"

static void resize(struct fixture *fix, uint64_t size)
{
    VT_OK(vdisk_image_resize(fix->image, size, VDISK_PREALLOCATION_OFF, &vt_err));
    assert_int_equal(vdisk_image_size(fix->image), size);
    assert_int_equal(bytes_of(fix, RAW), size);
    assert_int_equal(bytes_of(fix, COW),
                     4096 + vd_addcow_bitmap_bytes(vd_addcow_clusters(size, 16)));
}

static const uint64_t sizes[] = {0,
                                 512,
                                 CLUSTER - 512,
                                 CLUSTER,
                                 CLUSTER + 512,
                                 3 * CLUSTER,
                                 8 * CLUSTER,
                                 8 * CLUSTER + 512,
                                 20 * CLUSTER - 1024};
#define SIZES (sizeof(sizes) / sizeof(sizes[0]))

/* Whatever the sizes are: what is cut off never comes back, and what is added is zero. */
static void test_there_and_back(void **state)
{
    (void)state;
    static const uint64_t bases[] = {0, CLUSTER / 2 + 100, 9 * CLUSTER, 40 * CLUSTER};
    for (size_t b = 0; b < sizeof(bases) / sizeof(bases[0]); b++)
        for (size_t i = 0; i < SIZES * SIZES; i++) {
            struct fixture fix;
            uint64_t from = sizes[i / SIZES], to = sizes[i % SIZES], end = 30 * CLUSTER;
            uint64_t kept = vd_min(from, to);
            fixture_init(&fix, from, bases[b]);
            fixture_open(&fix, VDISK_OPEN_WRITE);
            uint64_t written = from > CLUSTER ? from - CLUSTER : 0; /* the rest stays as it is */
            write_bytes(&fix, written, from - written, 7);
            resize(&fix, to);
            resize(&fix, end);
            uint64_t shown = vd_min(vd_min(kept, written), bases[b]);
            expect_bytes(&fix, 0, shown, BASE);
            if (kept > written)
                expect_bytes(&fix, written, kept - written, 7);
            expect_bytes(&fix, kept, end - kept, 0);
            fixture_close(&fix);
            fixture_open(&fix, 0);
            expect_bytes(&fix, 0, shown, BASE);
            expect_bytes(&fix, kept, end - kept, 0);
            struct vdisk_check_result result = {.struct_bytes = sizeof(result)};
            fixture_close(&fix);
            fixture_open(&fix, VDISK_OPEN_CHECK);
            VT_OK(vdisk_image_check(fix.image, VDISK_REPAIR_NONE, NULL, NULL, &result, &vt_err));
            assert_int_equal(result.corruptions + result.leaks + result.check_errors, 0);
            fixture_destroy(&fix);
        }
}

/* The driver of v20 did not clear them. */
static void test_shrink_clears_bits(void **state)
{
    (void)state;
    struct fixture fix;
    fixture_init(&fix, 30 * CLUSTER, 0);
    fixture_open(&fix, VDISK_OPEN_WRITE);
    write_bytes(&fix, 0, 30 * CLUSTER, 7);
    resize(&fix, 3 * CLUSTER);
    assert_int_equal(byte_in_file(&fix, COW, 4096), 0x07);
    fixture_close(&fix);
    set_length(&fix, RAW, 30 * CLUSTER); /* not by us */
    fixture_open(&fix, 0);
    struct vdisk_extent extent;
    VT_OK(vdisk_image_extent(fix.image, 3 * CLUSTER, 27 * CLUSTER, &extent, &vt_err));
    assert_int_equal(extent.length, 27 * CLUSTER);
    assert_int_equal(extent.flags, VDISK_EXTENT_ZERO);
    fixture_destroy(&fix);
}

/* A3, A4: bits durable, then the raw file, durable; the other way round when it shrinks. */
static void test_order(void **state)
{
    (void)state;
    struct fixture fix;
    fixture_init(&fix, 3 * CLUSTER, 10 * CLUSTER);
    fixture_open(&fix, VDISK_OPEN_WRITE);
    resize(&fix, 20 * CLUSTER);
    const char *bits = strstr(fix.log, "Cw ");
    assert_non_null(bits);
    const char *durable = strstr(bits, "Cf ");
    assert_non_null(durable);
    const char *grown = strstr(durable, "Rr ");
    assert_non_null(grown);
    assert_non_null(strstr(grown, "Rf "));
    assert_null(strstr(grown, "C"));
    assert_ptr_equal(strstr(fix.log, "Rr "), grown);
    assert_int_equal(byte_in_file(&fix, COW, 4096), 0xF8);
    assert_int_equal(byte_in_file(&fix, COW, 4097), 0x03);
    assert_int_equal(byte_in_file(&fix, COW, 4098), 0x00);
    fix.log[0] = '\0';
    resize(&fix, 4 * CLUSTER);
    assert_int_equal(strncmp(fix.log, "Rf Rr Rf Cw Cf ", 15), 0);
    fixture_destroy(&fix);
}

/* ---- Power cuts ---------------------------------------------------------------------------- */

/* What holds at every moment of a resize. */
struct cuts {
    struct fixture fix; /* the first, for the hook */
    uint64_t from, to;
    unsigned count;
};

static void judge(struct cuts *cuts, struct fixture *left)
{
    struct vdisk_check_result result = {.struct_bytes = sizeof(result)};
    fixture_open(left, VDISK_OPEN_CHECK);
    VT_OK(vdisk_image_check(left->image, VDISK_REPAIR_NONE, NULL, NULL, &result, &vt_err));
    assert_int_equal(result.corruptions + result.check_errors, 0);
    fixture_close(left);

    for (unsigned writable = 0; writable < 2; writable++) {
        fixture_open(left, writable ? VDISK_OPEN_WRITE : 0);
        uint64_t size = vdisk_image_size(left->image);
        uint64_t kept = vd_min(cuts->from, cuts->to);
        assert_true(size == cuts->from || size == cuts->to);
        expect_bytes(left, 0, CLUSTER, BASE);
        expect_bytes(left, CLUSTER, CLUSTER, 7);
        expect_bytes(left, 2 * CLUSTER, kept - 2 * CLUSTER, BASE);
        if (size == cuts->from && cuts->from > cuts->to)
            expect_bytes(left, kept, size - kept - 512, BASE); /* its last bytes were written */
        else
            expect_bytes(left, kept, size - kept, 0);
        if (writable) /* and what was set too early does not show later */
            VT_OK(vdisk_image_resize(left->image, 40 * CLUSTER, VDISK_PREALLOCATION_OFF, &vt_err));
        if (writable && !(size == cuts->from && cuts->from > cuts->to))
            expect_bytes(left, kept, 40 * CLUSTER - kept, 0);
        fixture_close(left);
    }
    cuts->count++;
}

static void cut_here(struct fixture *fix)
{
    struct cuts *cuts = (struct cuts *)fix;
    for (size_t i = 0; i < BOTH_CUTS * BOTH_CUTS; i++) {
        const enum vt_cut both[] = {both_cuts[i / BOTH_CUTS], both_cuts[i % BOTH_CUTS]};
        struct fixture left;
        fixture_cut(fix, both, i, &left);
        judge(cuts, &left);
        fixture_destroy(&left);
    }
}

static void cut_resize(uint64_t from, uint64_t to)
{
    struct cuts cuts = {.from = from, .to = to};
    fixture_init(&cuts.fix, from, 20 * CLUSTER);
    fixture_open(&cuts.fix, VDISK_OPEN_WRITE);
    write_bytes(&cuts.fix, CLUSTER, CLUSTER, 7);
    if (from > to)
        write_bytes(&cuts.fix, from - 512, 512, 8);
    VT_OK(vdisk_image_flush(cuts.fix.image, &vt_err));
    cuts.fix.at_call = cut_here;
    resize(&cuts.fix, to);
    cut_here(&cuts.fix);
    cuts.fix.at_call = NULL;
    print_message("# %llu to %llu: %u states\n", (unsigned long long)from, (unsigned long long)to,
                  cuts.count);
    assert_true(cuts.count > 100);
    fixture_destroy(&cuts.fix);
}

static void test_power_cuts(void **state)
{
    (void)state;
    cut_resize(3 * CLUSTER, 17 * CLUSTER);
    cut_resize(3 * CLUSTER + 512, 9 * CLUSTER);
    cut_resize(3 * CLUSTER, 30 * CLUSTER + 512);
    cut_resize(17 * CLUSTER, 3 * CLUSTER);
    cut_resize(17 * CLUSTER + 512, 3 * CLUSTER + 512);
}

/* ---- Failures ------------------------------------------------------------------------------ */

/* The raw file can not grow: all is as it was, and stays so when it can. */
static void test_no_space(void **state)
{
    (void)state;
    struct fixture fix;
    fixture_init(&fix, 3 * CLUSTER, 40 * CLUSTER);
    fixture_open(&fix, VDISK_OPEN_WRITE);
    write_bytes(&fix, CLUSTER, CLUSTER, 7);
    vt_fault_set(fix.open[RAW], (struct vt_fault_plan){
                                    .calls = VT_CALL_BIT(VT_RESIZE), .nth = 1, .error = ENOSPC});
    struct vdisk_error err = {0};
    assert_int_equal(vdisk_image_resize(fix.image, 30 * CLUSTER, VDISK_PREALLOCATION_OFF, &err),
                     -ENOSPC);
    assert_int_equal(strncmp(err.message, "raw: ", 5), 0);
    assert_int_equal(vdisk_image_size(fix.image), 3 * CLUSTER);
    expect_bytes(&fix, 0, CLUSTER, BASE);
    expect_bytes(&fix, CLUSTER, CLUSTER, 7);
    write_bytes(&fix, 0, 512, 8);
    VT_OK(vdisk_image_flush(fix.image, &vt_err));
    assert_int_equal(byte_in_file(&fix, COW, 4096), 0x03);
    assert_int_equal(bytes_of(&fix, COW), 4097);
    resize(&fix, 30 * CLUSTER);
    expect_bytes(&fix, 512, CLUSTER - 512, BASE);
    expect_bytes(&fix, 2 * CLUSTER, CLUSTER, BASE);
    expect_bytes(&fix, 3 * CLUSTER, 27 * CLUSTER, 0);
    fixture_destroy(&fix);
}

static void test_refused(void **state)
{
    (void)state;
    struct fixture fix;
    fixture_init(&fix, 3 * CLUSTER, 0);
    fixture_open(&fix, VDISK_OPEN_WRITE);
    VT_FAILS(EINVAL, vdisk_image_resize(fix.image, (UINT64_C(1) << 56) + 512,
                                        VDISK_PREALLOCATION_OFF, &vt_err));
    VT_FAILS(EINVAL, vdisk_image_resize(fix.image, 4 * CLUSTER, VDISK_PREALLOCATION_FULL, &vt_err));
    fix.open[RAW]->caps &= ~(uint32_t)VD_STORAGE_CAN_RESIZE;
    struct vdisk_error err = {0};
    assert_int_equal(vdisk_image_resize(fix.image, 4 * CLUSTER, VDISK_PREALLOCATION_OFF, &err),
                     -ENOTSUP);
    assert_non_null(strstr(err.message, "raw"));
    assert_int_equal(vdisk_image_size(fix.image), 3 * CLUSTER);
    assert_int_equal(bytes_of(&fix, COW), 4097);
    fixture_destroy(&fix);
}

/* On a device the bitmap is where it is, with whatever was left behind it. */
static void test_bitmap_on_a_device(void **state)
{
    (void)state;
    struct fixture fix;
    fixture_init(&fix, 3 * CLUSTER, 4 * CLUSTER);
    set_length(&fix, COW, 8192);
    for (uint64_t i = 3; i < 800; i++)
        set_bit_in_file(&fix, i);
    struct vdisk_error err = {0};
    fixture_open(&fix, VDISK_OPEN_WRITE);
    fix.open[COW]->caps &= ~(uint32_t)VD_STORAGE_CAN_RESIZE;
    VT_OK(vdisk_image_resize(fix.image, 30 * CLUSTER, VDISK_PREALLOCATION_OFF, &vt_err));
    expect_bytes(&fix, 0, 3 * CLUSTER, BASE);
    expect_bytes(&fix, 3 * CLUSTER, 27 * CLUSTER, 0);
    assert_int_equal(byte_in_file(&fix, COW, 4096), 0x08);
    assert_int_equal(byte_in_file(&fix, COW, 4097), 0);
    assert_int_equal(byte_in_file(&fix, COW, 4099), 0xC0);
    VT_OK(vdisk_image_resize(fix.image, 2 * CLUSTER, VDISK_PREALLOCATION_OFF, &vt_err));
    assert_int_equal(byte_in_file(&fix, COW, 4096), 0);
    assert_int_equal(bytes_of(&fix, COW), 8192);
    assert_int_equal(
        vdisk_image_resize(fix.image, UINT64_C(40000) * CLUSTER, VDISK_PREALLOCATION_OFF, &err),
        -ENOSPC);
    expect_bytes(&fix, 0, 2 * CLUSTER, BASE);
    fixture_destroy(&fix);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_there_and_back),
        cmocka_unit_test(test_shrink_clears_bits),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_power_cuts),
        cmocka_unit_test(test_no_space),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_bitmap_on_a_device),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
