/* SPDX-License-Identifier: MIT */
/* Writing qcow2 images: where clusters come from, what is shared, and what is refused. */
#include "format/qcow2/qcow2_write.h"
#include "qcow2-writer.h"

#define OFFSET_MASK UINT64_C(0x00fffffffffffe00)

static uint64_t entry_of(struct writer *writer, uint64_t guest)
{
    return q2_entry(&writer->image, guest);
}

/* Every cluster size, width of refcounts and kind of entry: what is written is read, and counted.
 */
static void test_geometries(void **state)
{
    (void)state;
    static const uint32_t cluster_bits[] = {9, 10, 12, 16, 21};
    for (size_t c = 0; c < 5; c++)
        for (uint32_t order = 0; order <= 6; order++)
            for (unsigned kind = 0; kind < 3; kind++) {
                struct q2_shape shape = {.version = kind == 1 ? 2 : 3,
                                         .cluster_bits = cluster_bits[c],
                                         .refcount_order_plus_1 = order + 1,
                                         .incompatible = kind == 2 ? 0x10 : 0,
                                         .size = 3 * MIB + 512};
                if ((kind == 1 && order != 4) || (kind == 2 && cluster_bits[c] < 14))
                    continue;
                struct writer writer;
                writer_create(&writer, &shape);
                writer_open(&writer, VD_FORMAT_WRITE);
                assert_int_equal(fill(&writer, 512, 512, 1), 0);
                assert_int_equal(fill(&writer, 2 * MIB - 512, 66048, 2), 0);
                assert_int_equal(fill(&writer, 3 * MIB, 512, 3), 0);
                for (unsigned i = 0; i < 2; i++) {
                    expect(&writer, 0, 512, 0);
                    expect(&writer, 512, 512, 1);
                    expect(&writer, 1024, 2 * MIB - 512 - 1024, 0);
                    expect(&writer, 2 * MIB - 512, 66048, 2);
                    expect(&writer, 3 * MIB - 512, 512, 0);
                    expect(&writer, 3 * MIB, 512, 3);
                    writer_reopen(&writer);
                }
                assert_int_equal(fill(&writer, 0, 3 * MIB + 512, 9), 0);
                expect(&writer, 0, 3 * MIB + 512, 9);
                writer_destroy(&writer);
            }
}

/* One mapping for a large write; nothing of it shows before it is done. */
static void test_contiguous(void **state)
{
    (void)state;
    struct writer writer;
    writer_create(&writer, &(struct q2_shape){.size = 64 * MIB});
    writer_open(&writer, VD_FORMAT_WRITE);
    struct vd_mapping mapping;
    VT_OK(
        vd_format_map_for_write(writer.format, vd_range(65536, 2 * MIB), true, &mapping, &vt_err));
    assert_true(mapping.fresh);
    assert_int_equal(mapping.guest.length, 2 * MIB);
    assert_int_equal(mapping.fill, VD_FILL_NONE);
    expect_map(&writer, vd_range(65536, 512), VD_MAP_ZERO, false, 512); /* W6 */
    q2_fill(mapping.storage, mapping.host_offset, 2 * MIB, 5);
    vd_format_write_done(writer.format, &mapping, true);
    for (uint64_t offset = 65536 + 2 * MIB; offset < 8 * MIB; offset += 65536)
        assert_int_equal(fill(&writer, offset, 65536, 5), 0);
    expect_map(&writer, vd_range(65536, 60 * MIB), VD_MAP_DATA, true, 8 * MIB - 65536);
    writer_destroy(&writer);
}

/* Overwrites go where the data is, without an allocation; the question alone allocates nothing. */
static void test_in_place(void **state)
{
    (void)state;
    struct writer writer;
    struct vd_mapping mapping;
    writer_create(&writer, &(struct q2_shape){.size = MIB});
    uint64_t host = q2_add_data(&writer.image, 65536, 1);
    writer_open(&writer, VD_FORMAT_WRITE);
    VT_OK(vd_format_map_for_write(writer.format, vd_range(65536 + 512, MIB / 2), false, &mapping,
                                  &vt_err));
    assert_int_equal(mapping.kind, VD_MAP_DATA);
    assert_false(mapping.fresh);
    assert_int_equal(mapping.host_offset, host + 512);
    assert_int_equal(mapping.guest.length, 65536 - 512);
    VT_OK(vd_format_map_for_write(writer.format, vd_range(131072, 512), false, &mapping, &vt_err));
    assert_int_equal(mapping.kind, VD_MAP_ZERO);
    assert_int_equal(vt_trace_count(writer.file, VT_WRITE), 0);
    assert_int_equal(vt_trace_count(writer.file, VT_RESIZE), 0);
    writer_destroy(&writer);
}

/* A write that fails leaves nothing behind. */
static void test_give_back(void **state)
{
    (void)state;
    struct writer writer;
    struct vd_mapping mapping;
    writer_create(&writer, &(struct q2_shape){.size = 64 * MIB});
    writer_open(&writer, VD_FORMAT_WRITE);
    assert_int_equal(fill(&writer, 0, 512, 1), 0);
    writer_reopen(&writer);
    uint64_t length = q2_length(writer.image.file);
    VT_OK(vd_format_map_for_write(writer.format, vd_range(MIB, MIB), true, &mapping, &vt_err));
    q2_fill(mapping.storage, mapping.host_offset, MIB, 6);
    vd_format_write_done(writer.format, &mapping, false);
    expect_map(&writer, vd_range(MIB, MIB), VD_MAP_ZERO, false, MIB);
    uint64_t host = mapping.host_offset;
    /* The same place, which is not zero any more. */
    VT_OK(vd_format_map_for_write(writer.format, vd_range(MIB, 512), true, &mapping, &vt_err));
    assert_int_equal(mapping.host_offset, host);
    assert_int_equal(mapping.fill, VD_FILL_ZERO);
    vd_format_write_done(writer.format, &mapping, false);
    writer_close(&writer);
    assert_int_equal(q2_length(writer.image.file), length);
    writer_open(&writer, VD_FORMAT_WRITE);
    writer_destroy(&writer);
}

/* What an internal snapshot has stays as it is: clusters, and the table that leads to them. */
static void test_shared(void **state)
{
    (void)state;
    for (unsigned table_is_shared = 0; table_is_shared < 2; table_is_shared++) {
        struct writer writer;
        writer_create(&writer, &(struct q2_shape){.size = 4 * MIB});
        struct q2_image *image = &writer.image;
        uint64_t first = q2_add_data(image, 0, 1);
        uint64_t second = q2_add_data(image, 65536, 2);
        uint64_t table = q2_table(image, 0);
        /* Somebody else refers to them: only refcounts tell. */
        q2_set_entry(image, 0, first, 0);
        q2_set_entry(image, 65536, second, 0);
        q2_set_refcount(image, first, 2);
        q2_set_refcount(image, second, 2);
        if (table_is_shared) {
            q2_set_refcount(image, table, 2);
            q2_put(image->file, q2_l1_entry_at(image, 0), table, 8);
        }
        writer_open(&writer, VD_FORMAT_WRITE);
        assert_int_equal(fill(&writer, 65536 - 512, 1024, 7), 0);
        expect(&writer, 0, 65536 - 512, 1);
        expect(&writer, 65536 - 512, 1024, 7);
        expect(&writer, 65536 + 512, 65536 - 512, 2);
        writer_close(&writer);
        assert_int_equal(q2_refcount(image, first), 1);
        assert_int_equal(q2_refcount(image, second), 1);
        assert_int_equal(q2_refcount(image, table), 1);
        assert_int_equal(q2_get(image->file, first + 65536 - 1, 1), 1);
        assert_int_equal(q2_get(image->file, second, 1), 2);
        assert_int_equal(q2_table(image, 0) != table, table_is_shared);
        assert_true(entry_of(&writer, 0) & Q2_COPIED);
        assert_true(q2_get(image->file, q2_l1_entry_at(image, 0), 8) & Q2_COPIED);
        assert_int_equal(q2_get(image->file, table, 8) & OFFSET_MASK,
                         table_is_shared ? first : entry_of(&writer, 0) & OFFSET_MASK);
        writer_destroy(&writer);
    }
}

/* W5: what is written, or taken, or given up, is no metadata. */
static void test_overlap(void **state)
{
    (void)state;
    for (unsigned kind = 0; kind < 5; kind++) {
        struct writer writer;
        writer_create(&writer, &(struct q2_shape){.size = 4 * MIB});
        struct q2_image *image = &writer.image;
        uint64_t table = q2_table(image, 0);
        uint64_t places[] = {image->l1, image->refcount_table, table, q2_block_of(image, 0),
                             image->l1};
        q2_set_entry(image, 65536, places[kind] | (kind < 4 ? Q2_COPIED : 0), 0);
        writer_open(&writer, VD_FORMAT_WRITE);
        assert_int_equal(fill(&writer, 65536, 512, 1), -EBADMSG);
        assert_int_equal(fill(&writer, 0, 512, 1), -EBADMSG); /* nor anything else */
        writer_fail(&writer, EBADMSG);
        assert_int_equal(q2_get(image->file, 72, 8), 2); /* the corrupt bit */
        VT_FAILS(EROFS, vd_format_open(vd_format_find("qcow2", NULL), writer.file,
                                       &(struct vd_format_options){.flags = VD_FORMAT_WRITE},
                                       &writer.format, &vt_err));
        writer_destroy(&writer);
    }
}

/* W5: a table that is free by its refcount is not taken. */
static void test_free_metadata(void **state)
{
    (void)state;
    struct writer writer;
    writer_create(&writer, &(struct q2_shape){.size = 4 * MIB});
    q2_set_refcount(&writer.image, writer.image.l1, 0);
    writer_open(&writer, VD_FORMAT_WRITE);
    assert_int_equal(fill(&writer, 0, 512, 1), -EBADMSG);
    writer_fail(&writer, EBADMSG);
    assert_int_equal(q2_get(writer.image.file, 72, 8), 2);
    writer_destroy(&writer);
}

/* W10: data that does not count by mistake is not cut off with the end of the file. */
static void test_uncounted_end(void **state)
{
    (void)state;
    struct writer writer;
    writer_create(&writer, &(struct q2_shape){.size = 4 * MIB});
    uint64_t first = q2_add_data(&writer.image, 0, 1);
    uint64_t last = q2_add_data(&writer.image, 65536, 2);
    assert_true(last > first);
    q2_set_refcount(&writer.image, last, 0);
    writer_open(&writer, VD_FORMAT_WRITE);
    assert_int_equal(fill(&writer, 0, 512, 7), 0);
    flush(&writer);
    writer_close(&writer);
    writer_open(&writer, 0);
    expect(&writer, 0, 512, 7);
    expect(&writer, 65536, 65536, 2);
    writer_close(&writer);
    writer_destroy(&writer);
}

/* W10: two entries lead to one table, which has one reference: it is not given up with the first.
 */
static void test_given_up_metadata(void **state)
{
    (void)state;
    struct writer writer;
    writer_create(&writer, &(struct q2_shape){.size = 4 * MIB});
    uint64_t data = q2_add_data(&writer.image, 0, 1);
    writer_open(&writer, VD_FORMAT_WRITE);
    VT_OK(vd_qcow2_begin(writer.format->state, &vt_err));
    VT_OK(vd_qcow2_release(writer.format->state, writer.image.l1, 1, &vt_err));
    writer_fail(&writer, EBADMSG);
    assert_int_equal(q2_get(writer.image.file, 72, 8), 2); /* the corrupt bit */
    assert_int_equal(q2_refcount(&writer.image, writer.image.l1), 1);
    assert_int_equal(q2_get(writer.image.file, data, 1), 1);
    writer_destroy(&writer);
}

/* W9: bits that promise what a change may break go before the first change, and not before. */
static void test_autoclear(void **state)
{
    (void)state;
    struct writer writer;
    writer_create(&writer, &(struct q2_shape){.size = MIB, .autoclear = 0x80});
    q2_add_data(&writer.image, 0, 1);
    writer_open(&writer, VD_FORMAT_WRITE);
    expect(&writer, 0, 512, 1);
    flush(&writer);
    writer_close(&writer);
    assert_int_equal(q2_get(writer.image.file, 88, 8), 0x80);
    writer_open(&writer, VD_FORMAT_WRITE);
    struct vd_mapping mapping;
    VT_OK(vd_format_map_for_write(writer.format, vd_range(0, 512), false, &mapping, &vt_err));
    assert_int_equal(q2_get(writer.image.file, 88, 8), 0);
    assert_int_equal(flushes(&writer), 1);
    writer_destroy(&writer);
}

/* A full disk is the error of the request that needs space, and nothing is lost. */
static void test_full_disk(void **state)
{
    (void)state;
    for (unsigned nth = 1; nth < 8; nth++) {
        struct writer writer;
        writer_create(&writer, &(struct q2_shape){.size = GIB, .cluster_bits = 12});
        writer_open(&writer, VD_FORMAT_WRITE);
        assert_int_equal(fill(&writer, 0, 8192, 1), 0);
        vt_fault_set(writer.fault, (struct vt_fault_plan){.calls = VT_CALL_BIT(VT_RESIZE) |
                                                                   VT_CALL_BIT(VT_PREALLOCATE),
                                                          .nth = nth,
                                                          .error = ENOSPC,
                                                          .forever = true});
        int ret = 0;
        uint64_t good = 0;
        for (uint64_t at = 16 * MIB; ret == 0; at += 2 * MIB, good += ret == 0)
            ret = fill(&writer, at, 4096, 2);
        assert_int_equal(ret, -ENOSPC);
        flush(&writer);
        vt_fault_set(writer.fault, (struct vt_fault_plan){0});
        assert_int_equal(fill(&writer, 4 * MIB, 4096, 3), 0);
        writer_reopen(&writer);
        expect(&writer, 0, 8192, 1);
        expect(&writer, 4 * MIB, 4096, 3);
        for (uint64_t i = 0; i < good; i++)
            expect(&writer, 16 * MIB + i * 2 * MIB, 4096, 2);
        writer_destroy(&writer);
    }
}

/* A device does not grow: the image has what it has, and all of that. */
static void test_fixed_length(void **state)
{
    (void)state;
    struct writer writer;
    writer_create(&writer, &(struct q2_shape){.size = 64 * MIB, .cluster_bits = 12});
    VT_OK(vd_storage_resize(writer.image.file, 20 * MIB + 100, &vt_err));
    writer.file->caps &= ~(uint32_t)VD_STORAGE_CAN_RESIZE;
    writer_open(&writer, VD_FORMAT_WRITE);
    uint64_t written = 0;
    int ret;
    while ((ret = fill(&writer, written, 65536, 4)) == 0)
        written += 65536;
    assert_int_equal(ret, -ENOSPC);
    assert_true(written > 19 * MIB);
    flush(&writer);
    zero(&writer, 0, MIB, VD_MAP_ZERO_MAY_UNMAP);
    flush(&writer);
    assert_int_equal(fill(&writer, 40 * MIB, MIB / 2, 5), 0);
    writer_reopen(&writer);
    expect(&writer, 0, MIB, 0);
    expect(&writer, MIB, written - MIB, 4);
    expect(&writer, 40 * MIB, MIB / 2, 5);
    assert_int_equal(q2_length(writer.image.file), 20 * MIB + 100);
    writer_destroy(&writer);
}

/* Freed clusters are used again, but not while a request may still see them. */
static void test_reuse(void **state)
{
    (void)state;
    struct writer writer;
    writer_create(&writer, &(struct q2_shape){.size = 64 * MIB});
    writer_open(&writer, VD_FORMAT_WRITE);
    assert_int_equal(fill(&writer, 0, MIB, 1), 0);
    flush(&writer);
    uint64_t host = map(&writer, 0, MIB).host_offset;
    unsigned ticket = vd_format_enter(writer.format);
    zero(&writer, 0, MIB, VD_MAP_ZERO_MAY_UNMAP);
    flush(&writer);
    assert_int_equal(q2_get(writer.image.file, host, 1), 1); /* somebody may read it */
    assert_int_equal(fill(&writer, 8 * MIB, MIB, 2), 0);
    assert_true(map(&writer, 8 * MIB, MIB).host_offset >= host + MIB);
    vd_format_leave(writer.format, ticket);
    flush(&writer);
    assert_int_equal(q2_get(writer.image.file, host, 1), 0); /* punched */
    assert_int_equal(fill(&writer, 16 * MIB, MIB, 3), 0);
    assert_int_equal(map(&writer, 16 * MIB, MIB).host_offset, host);
    writer_destroy(&writer);
}

/* A disk that needs more refcounts than the table leads to. */
static void test_refcount_table_grows(void **state)
{
    (void)state;
    struct writer writer;
    writer_create(&writer, &(struct q2_shape){
                               .size = 32 * MIB, .cluster_bits = 9, .refcount_order_plus_1 = 7});
    uint64_t table = writer.image.refcount_table;
    writer_open(&writer, VD_FORMAT_WRITE);
    for (uint64_t at = 0; at < 12 * MIB; at += MIB) {
        assert_int_equal(fill(&writer, at, MIB, (uint8_t)(at / MIB + 1)), 0);
        if (at == 5 * MIB)
            writer_reopen(&writer);
    }
    writer_reopen(&writer);
    assert_int_not_equal(writer.image.refcount_table, table);
    for (uint64_t at = 0; at < 12 * MIB; at += MIB)
        expect(&writer, at, MIB, (uint8_t)(at / MIB + 1));
    writer_destroy(&writer);
}

/* Entries may lead behind the end of the file, where all is zero; it grows when they are written.
 */
static void test_behind_the_end(void **state)
{
    (void)state;
    struct writer writer;
    writer_create(&writer, &(struct q2_shape){.size = 16 * MIB});
    struct q2_image *image = &writer.image;
    (void)q2_table(image, 0);
    uint64_t host = q2_add_data(image, 0, 0);
    uint64_t other = q2_add_data(image, 65536, 0);
    VT_OK(vd_storage_resize(image->file, host, &vt_err));
    writer_open(&writer, VD_FORMAT_WRITE);
    assert_int_equal(fill(&writer, MIB, MIB, 3), 0); /* not there */
    assert_int_equal(fill(&writer, 65536 + 512, 512, 4), 0);
    assert_int_equal(fill(&writer, 2 * MIB, MIB, 5), 0);
    assert_int_equal(map(&writer, 65536 + 512, 512).host_offset, other + 512);
    writer_reopen(&writer);
    expect(&writer, 0, 65536 + 512, 0);
    expect(&writer, 65536 + 512, 512, 4);
    expect(&writer, 65536 + 1024, 65536 - 1024, 0);
    expect(&writer, MIB, MIB, 3);
    expect(&writer, 2 * MIB, MIB, 5);
    writer_destroy(&writer);
}

/* Who opens an image to check it does not write to it. */
static void test_opened_for_check(void **state)
{
    (void)state;
    struct writer writer;
    struct vd_mapping mapping;
    writer_create(&writer, &(struct q2_shape){.size = MIB});
    q2_add_data(&writer.image, 0, 1);
    writer_open(&writer, VD_FORMAT_WRITE | VD_FORMAT_CHECK);
    assert_int_equal(fill(&writer, 0, 512, 2), -EINVAL);
    VT_FAILS(EINVAL, vd_format_map_zero(writer.format, vd_range(0, 65536), 0, &mapping, &vt_err));
    flush(&writer);
    assert_int_equal(vt_trace_count(writer.file, VT_WRITE), 0);
    writer_destroy(&writer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_geometries),     cmocka_unit_test(test_contiguous),
        cmocka_unit_test(test_in_place),       cmocka_unit_test(test_give_back),
        cmocka_unit_test(test_shared),         cmocka_unit_test(test_overlap),
        cmocka_unit_test(test_free_metadata),  cmocka_unit_test(test_autoclear),
        cmocka_unit_test(test_full_disk),      cmocka_unit_test(test_fixed_length),
        cmocka_unit_test(test_reuse),          cmocka_unit_test(test_refcount_table_grows),
        cmocka_unit_test(test_behind_the_end), cmocka_unit_test(test_opened_for_check),
        cmocka_unit_test(test_uncounted_end),  cmocka_unit_test(test_given_up_metadata),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
