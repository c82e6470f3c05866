/* SPDX-License-Identifier: MIT */
/*
 * Repairs of qcow2 images with random damage: what could be read reads the same, also when the
 * power is cut on the way, or a call fails; and writers that did not end well.
 */
#include "drivers/fault.h"

#include "qcow2-check.h"
#include "qed-cuts.h"

/* ---- images, and damage ---- */

static void random_image(struct q2_image *image, struct vt_random *random)
{
    struct q2_shape shape = {.cluster_bits = 9 + (uint32_t)vt_random_below(random, 4)};
    shape.version = vt_random_chance(random, 20) ? 2 : 3;
    if (shape.version == 3) {
        shape.refcount_order_plus_1 = 1 + (uint32_t)vt_random_below(random, 7);
        shape.autoclear = vt_random_chance(random, 20) ? UINT64_C(1) << 40 : 0;
    }
    uint64_t cluster = UINT64_C(1) << shape.cluster_bits;
    shape.size = 3 * (cluster / 8) * cluster;
    q2_create(image, &shape);
    unsigned count = 3 + (unsigned)vt_random_below(random, 12);
    for (unsigned i = 0; i < count; i++) {
        uint64_t span = vt_random_below(random, 3) * image->geometry.l2_span;
        uint64_t guest = span + vt_random_below(random, 8) * cluster;
        if (q2_entry(image, guest))
            continue;
        uint64_t data = q2_add_data(image, guest, (uint8_t)i);
        q2_put(image->file, data, 1000 + i, 8);
        if (i == count / 2 && image->geometry.refcount_order > 1 && vt_random_chance(random, 50))
            q2_add_snapshot(image);
    }
    if (vt_random_chance(random, 30))
        q2_alloc(image, 1 + vt_random_below(random, 3));
}

/* A place for an entry: any cluster, not the start of one, or behind the end. */
static uint64_t random_place(const struct q2_image *image, struct vt_random *random)
{
    uint64_t place = vt_random_below(random, image->end / image->cluster) * image->cluster;
    if (vt_random_chance(random, 15))
        return vt_random_next(random) & UINT64_C(0x00fffffffffffe00);
    return vt_random_chance(random, 15) && image->cluster > 512 ? place + 512 : place;
}

/* A word of the file, if it is in there. */
static void change(struct q2_image *image, uint64_t offset, uint64_t value)
{
    if (offset && offset + 8 <= image->end)
        q2_put(image->file, offset, value, 8);
}

/* Refcounts only if @is_light: nothing of the disk is lost then. */
static void damage(struct q2_image *image, struct vt_random *random, bool is_light)
{
    unsigned count = 1 + (unsigned)vt_random_below(random, 4);
    for (unsigned i = 0; i < count; i++) {
        uint64_t clusters = image->end / image->cluster;
        uint64_t guest = vt_random_below(random, 3) * image->geometry.l2_span +
                         vt_random_below(random, 8) * image->cluster;
        uint64_t l1 = q2_l1_entry_at(image, guest);
        uint64_t block = q2_get(image->file, image->refcount_table, 8);
        switch (vt_random_below(random, is_light ? 4 : 8)) {
        case 0:
            if (block && block + image->cluster <= image->end && block % image->cluster == 0)
                q2_set_refcount_in(
                    image, block,
                    vt_random_below(random, vd_min(clusters, image->geometry.block_entries)),
                    vt_random_below(random, vd_min(image->geometry.refcount_max, 5)));
            break;
        case 1:
            q2_put(image->file, image->refcount_table, 0, 8);
            break;
        case 2:
            if (q2_get(image->file, l1, 8))
                q2_put(image->file, l1, q2_get(image->file, l1, 8) ^ Q2_COPIED, 8);
            break;
        case 3:
            q2_put(image->file, image->refcount_table, random_place(image, random), 8);
            break;
        case 4:
            change(image, q2_get(image->file, l1, 8) & UINT64_C(0x00fffffffffffe00),
                   random_place(image, random) | (vt_random_chance(random, 50) ? Q2_COPIED : 0));
            break;
        case 5:
            q2_put(image->file, l1, random_place(image, random) | Q2_COPIED, 8);
            break;
        case 6:
            if (q2_get(image->file, 60, 4))
                q2_put(image->file, q2_get(image->file, 64, 8), random_place(image, random), 8);
            break;
        default:
            if (q2_get(image->file, l1, 8))
                q2_put(image->file, q2_l1_entry_at(image, 0), q2_get(image->file, l1, 8), 8);
            break;
        }
    }
}

static void test_mend(void **state)
{
    (void)state;
    struct vt_random random = {20261202};
    print_message("# seed %llu\n", (unsigned long long)random.state);
    uint64_t fixed = 0;
    for (int i = 0; i < VT_ROUNDS(400); i++) {
        struct q2_image image;
        random_image(&image, &random);
        damage(&image, &random, i % 2 == 0);
        uint64_t *tags = q2_read_all(&image, image.file);
        uint64_t length = q2_length(image.file);
        fixed += q2_mend(image.file).corruptions_fixed;
        q2_expect_all(&image, image.file, tags);
        assert_true(q2_length(image.file) <= 3 * length + 64 * image.cluster);
        /* Known bits are kept, and others go before the first change. */
        test_free(tags);
        q2_destroy(&image);
    }
    assert_true(fixed > VT_ROUNDS(400));
}

/* ---- power cuts ---- */

struct expectation {
    const struct q2_image *image;
    const uint64_t *tags;
    struct vt_random random;
};

static void judge(void *opaque, struct vd_storage *found)
{
    struct expectation *expectation = opaque;
    q2_expect_all(expectation->image, found, expectation->tags);
    /* Once more, and to the end; not for each, as that takes long. */
    if (!vt_random_chance(&expectation->random, 20))
        return;
    q2_mend(found);
    q2_expect_all(expectation->image, found, expectation->tags);
}

static void test_power_cut(void **state)
{
    (void)state;
    struct vt_random random = {20261203};
    print_message("# seed %llu\n", (unsigned long long)random.state);
    unsigned states = 0;
    unsigned rounds = VT_ROUNDS(40);
    for (unsigned i = 0; i < rounds; i++) {
        struct q2_image image;
        random_image(&image, &random);
        damage(&image, &random, i % 2 == 0);
        image.size = 2 * image.geometry.l2_span; /* looked at each time */
        uint64_t *tags = q2_read_all(&image, image.file);
        struct expectation expectation = {.image = &image, .tags = tags, .random = random};
        struct cuts cuts = {.judge = judge, .opaque = &expectation};
        struct vd_storage *file = cuts_open(&cuts, image.file);
        q2_mend(file);
        states += cuts.count;
        vd_storage_close(file);
        test_free(tags);
        q2_destroy(&image);
    }
    print_message("# %u states\n", states);
    assert_true(states > 10 * rounds);
}

/* ---- failures ---- */

static bool fails_at(struct vd_storage *from, uint64_t nth, struct vd_storage **copy)
{
    struct vd_storage *file;
    struct vd_format *format;
    struct vdisk_error err = {0};
    struct vdisk_check_result result = {.struct_bytes = sizeof(result)};
    const struct vd_check all = {.repair = VDISK_REPAIR_ALL, .result = &result};
    const struct vd_format_options options = {.flags = VD_FORMAT_CHECK | VD_FORMAT_WRITE};
    VT_OK(vt_snap_clone(from, copy, &vt_err));
    VT_OK(vt_fault_open(*copy, VT_BORROW, &file, &vt_err));
    VT_OK(vd_format_open(vd_format_find("qcow2", NULL), file, &options, &format, &vt_err));
    vt_fault_set(file,
                 (struct vt_fault_plan){.calls = VT_CALL_BIT(VT_READ) | VT_CALL_BIT(VT_WRITE) |
                                                 VT_CALL_BIT(VT_RESIZE) | VT_CALL_BIT(VT_FLUSH),
                                        .nth = nth,
                                        .error = EIO});
    int ret = vd_format_check(format, &all, &err);
    bool has_failed = vt_fault_hits(file) > 0;
    assert_int_equal(err.code, -ret);
    /* A table that can not be read is told, and nothing is mended then. */
    assert_true(has_failed ? ret == -EIO || result.check_errors > 0 : ret == 0);
    vt_fault_set(file, (struct vt_fault_plan){0});
    VT_OK(vd_format_close(format, &vt_err));
    vd_storage_close(file);
    return has_failed;
}

static void test_failures(void **state)
{
    (void)state;
    struct vt_random random = {20261204};
    print_message("# seed %llu\n", (unsigned long long)random.state);
    for (int i = 0; i < VT_ROUNDS(10); i++) {
        struct q2_image image;
        random_image(&image, &random);
        damage(&image, &random, i % 2 == 0);
        uint64_t *tags = q2_read_all(&image, image.file);
        bool has_failed = true;
        for (uint64_t nth = 1; has_failed; nth++) {
            struct vd_storage *copy;
            has_failed = fails_at(image.file, nth, &copy);
            q2_expect_all(&image, copy, tags);
            q2_mend(copy);
            q2_expect_all(&image, copy, tags);
            vd_storage_close(copy);
        }
        test_free(tags);
        q2_destroy(&image);
    }
}

/* ---- writers that did not end well ---- */

/* Opened for writing, and closed. */
static int open_for_writing(struct vd_storage *file, struct vdisk_error *err)
{
    const struct vd_format_options options = {.flags = VD_FORMAT_WRITE};
    struct vd_format *format;
    int ret = vd_format_open(vd_format_find("qcow2", NULL), file, &options, &format, err);
    return ret < 0 ? ret : vd_format_close(format, err);
}

static void test_recover(void **state)
{
    (void)state;
    struct vt_random random = {20261205};
    print_message("# seed %llu\n", (unsigned long long)random.state);
    for (int i = 0; i < VT_ROUNDS(40); i++) {
        struct q2_image image;
        do
            random_image(&image, &random);
        while (q2_get(image.file, 4, 4) < 3 && (q2_destroy(&image), true));
        damage(&image, &random, true);
        q2_put(image.file, 72, 1, 8);
        uint64_t *tags = q2_read_all(&image, image.file);
        VT_OK(open_for_writing(image.file, &vt_err));
        assert_int_equal(q2_get(image.file, 72, 8), 0);
        struct vdisk_check_result result = q2_check(image.file, VDISK_REPAIR_NONE);
        assert_int_equal(result.corruptions + result.check_errors + result.leaks, 0);
        q2_expect_all(&image, image.file, tags);
        test_free(tags);
        q2_destroy(&image);
    }
}

/* What a writer does not leave behind is not mended unasked. */
static void test_recover_refcounts_only(void **state)
{
    (void)state;
    struct q2_image image;
    const struct q2_shape shape = {.size = 1 * MIB, .cluster_bits = 12, .incompatible = 1};
    q2_create(&image, &shape);
    uint64_t data = q2_add_data(&image, 0, 1);
    q2_set_entry(&image, image.cluster, (data + 512) | Q2_COPIED, 0);
    q2_set_refcount(&image, data, 0);
    VT_FAILS(EBADMSG, open_for_writing(image.file, &vt_err));
    assert_int_equal(q2_get(image.file, 72, 8), 1);
    assert_int_equal(q2_entry(&image, image.cluster), (data + 512) | Q2_COPIED);
    assert_int_equal(q2_refcount(&image, data), 0);
    q2_mend(image.file);
    VT_OK(open_for_writing(image.file, &vt_err));
    q2_destroy(&image);
}

/* What can not be read is not taken for what is not there. */
static void test_recover_unreadable(void **state)
{
    (void)state;
    struct q2_image image;
    struct vd_storage *file;
    const struct q2_shape shape = {.size = 1 * MIB, .cluster_bits = 12, .incompatible = 1};
    q2_create(&image, &shape);
    q2_add_data(&image, 0, 1);
    VT_OK(vt_fault_open(image.file, VT_BORROW, &file, &vt_err));
    for (uint64_t nth = 2; nth < 6; nth++) {
        vt_fault_set(file,
                     (struct vt_fault_plan){
                         .calls = VT_CALL_BIT(VT_READ), .nth = nth, .error = EIO, .forever = true});
        struct vdisk_error err = {0};
        assert_true(open_for_writing(file, &err) < 0);
        assert_int_equal(q2_get(image.file, 72, 8), 1);
    }
    vd_storage_close(file);
    q2_destroy(&image);
}

static void test_corrupt_bit(void **state)
{
    (void)state;
    struct q2_image image;
    const struct q2_shape shape = {.size = 1 * MIB, .cluster_bits = 12, .incompatible = 2};
    q2_create(&image, &shape);
    q2_add_data(&image, 0, 1);
    VT_FAILS(EROFS, open_for_writing(image.file, &vt_err));
    q2_check(image.file, VDISK_REPAIR_LEAKS);
    assert_int_equal(q2_get(image.file, 72, 8), 2);
    q2_check(image.file, VDISK_REPAIR_ALL);
    assert_int_equal(q2_get(image.file, 72, 8), 0);
    VT_OK(open_for_writing(image.file, &vt_err));
    q2_destroy(&image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mend),
        cmocka_unit_test(test_power_cut),
        cmocka_unit_test(test_failures),
        cmocka_unit_test(test_recover),
        cmocka_unit_test(test_recover_refcounts_only),
        cmocka_unit_test(test_recover_unreadable),
        cmocka_unit_test(test_corrupt_bit),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
