/* SPDX-License-Identifier: MIT */
/* In what order the changes of a qcow2 image reach its file: W1 to W3. */
#include "qcow2-writer.h"

#define CLUSTER UINT64_C(65536)

/* What kind of place is @offset?  D: none of those that are known. */
struct place {
    uint64_t offset;
    char kind;
};

/*
 * Which calls on the file: writes by the kind of place, with neighbours of one kind as one, flushes
 * (F), discards (P) and changes of the length (none of interest).
 */
static void expect_calls(struct writer *writer, const struct place *places, const char *calls)
{
    size_t entries;
    const struct vt_record *records = vt_trace_records(writer->file, &entries);
    char seen[64] = "";
    size_t used = 0;
    for (size_t i = 0; i < entries && used + 1 < sizeof(seen); i++) {
        char kind = 0;
        if (records[i].call == VT_WRITE) {
            kind = 'D';
            for (const struct place *place = places; place->kind; place++)
                if (vd_round_down(records[i].range.offset, CLUSTER) == place->offset)
                    kind = place->kind;
        } else if (records[i].call == VT_FLUSH) {
            kind = 'F';
        } else if (records[i].call == VT_DISCARD) {
            kind = 'P';
        }
        if (kind && (used == 0 || seen[used - 1] != kind || kind == 'F'))
            seen[used++] = kind;
    }
    assert_string_equal(seen, calls);
    vt_trace_reset(writer->file);
}

static void test_order(void **state)
{
    (void)state;
    struct writer writer;
    writer_create(&writer, &(struct q2_shape){.size = 4 * GIB});
    struct q2_image *image = &writer.image;
    uint64_t old = q2_table(image, 512 * MIB);
    uint64_t end = image->end;
    /* Places that the writer takes: the table, then data. */
    struct place places[] = {
        {image->l1, '1'}, {old, '2'}, {end, 'n'}, {q2_block_of(image, 0), 'B'}, {0, 0}};
    writer_open(&writer, VD_FORMAT_WRITE);
    flush(&writer);
    expect_calls(&writer, places, "F");
    assert_int_equal(fill(&writer, 0, 512, 1), 0); /* a new table */
    expect_calls(&writer, places, "D");
    flush(&writer);
    expect_calls(&writer, places, "BnF1F");
    assert_int_equal(fill(&writer, 0, 512, 2), 0); /* in place */
    vt_trace_reset(writer.file);
    flush(&writer);
    expect_calls(&writer, places, "F");
    assert_int_equal(fill(&writer, 512 * MIB, 512, 3), 0); /* in a table that is there */
    vt_trace_reset(writer.file);
    flush(&writer);
    expect_calls(&writer, places, "BF2F");
    zero(&writer, 512 * MIB, CLUSTER, VD_MAP_ZERO_MAY_UNMAP);
    expect_calls(&writer, places, "");
    flush(&writer); /* the reference first; then the space goes, and the refcount with the next */
    expect_calls(&writer, places, "F2FP");
    flush(&writer);
    expect_calls(&writer, places, "BF");
    writer_destroy(&writer);
}

/* A new refcount block costs one flush more. */
static void test_new_block(void **state)
{
    (void)state;
    struct writer writer;
    writer_create(&writer, &(struct q2_shape){.size = 4 * GIB});
    struct q2_image *image = &writer.image;
    (void)q2_table(image, 0);
    image->end = 2 * GIB; /* as much as the block counts */
    VT_OK(vd_storage_resize(image->file, image->end, &vt_err));
    for (uint64_t at = 1; at < 32768; at++)
        if (q2_refcount(image, at * CLUSTER) == 0)
            q2_set_refcount(image, at * CLUSTER, 1);
    struct place places[] = {{image->refcount_table, 'T'},
                             {q2_table(image, 0), '2'},
                             {2 * GIB, 'N'},
                             {q2_block_of(image, 0), 'B'},
                             {0, 0}};
    writer_open(&writer, VD_FORMAT_WRITE);
    assert_int_equal(fill(&writer, 0, 512, 1), 0);
    vt_trace_reset(writer.file);
    flush(&writer);
    expect_calls(&writer, places, "NFTF2F");
    assert_int_equal(q2_get(image->file, image->refcount_table + 8, 8), 2 * GIB);
    VT_OK(vd_format_close(writer.format, &vt_err));
    writer.format = NULL;
    writer_destroy(&writer);
}

/* Changes do not outgrow the memory for tables: they are written when they take half of it. */
static void test_bounded_memory(void **state)
{
    (void)state;
    struct writer writer;
    struct vd_format_options options = {.flags = VD_FORMAT_WRITE, .cache_bytes = 1};
    writer_create(&writer, &(struct q2_shape){.size = GIB, .cluster_bits = 12});
    VT_OK(vd_format_open(vd_format_find("qcow2", NULL), writer.file, &options, &writer.format,
                         &vt_err));
    vt_trace_reset(writer.file);
    for (uint64_t offset = 0; offset < GIB; offset += 2 * MIB) /* each in a table of its own */
        assert_int_equal(fill(&writer, offset, 4096, 9), 0);
    assert_in_range(flushes(&writer), 2 * 512 / 36, 3 * 512 / 26);
    for (uint64_t offset = 0; offset < GIB; offset += 2 * MIB)
        expect(&writer, offset, 4096, 9);
    writer_destroy(&writer);
}

/* A flush that fails ends all changes, and says so. */
static void test_failure(void **state)
{
    (void)state;
    for (unsigned nth = 1; nth <= 4; nth++) {
        struct writer writer;
        writer_create(&writer, &(struct q2_shape){.size = MIB});
        writer_open(&writer, VD_FORMAT_WRITE);
        assert_int_equal(fill(&writer, 0, 512, 1), 0);
        vt_fault_set(writer.fault,
                     (struct vt_fault_plan){.calls = VT_CALL_BIT(VT_WRITE) | VT_CALL_BIT(VT_FLUSH),
                                            .nth = nth,
                                            .error = EIO});
        VT_FAILS(EIO, vd_format_flush(writer.format, &vt_err));
        assert_int_equal(fill(&writer, 65536, 512, 1), -EIO);
        writer_fail(&writer, EIO);
        writer_destroy(&writer);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_new_block),
        cmocka_unit_test(test_bounded_memory),
        cmocka_unit_test(test_failure),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
