/* SPDX-License-Identifier: MIT */
/* The snapshot table of qcow2: every field, every limit, and what is not known. */
#include "drivers/check.h"
#include "format/qcow2/qcow2_snapshot_table.h"
#include "util/mem.h"

#define DISK_SIZE UINT64_C(0x123456789a00)

static const struct vd_qcow2_geometry geometry = {.cluster_bits = 16, .cluster_bytes = 65536};
static const struct vd_qcow2_snapshot_rules v3 = {&geometry, 3, DISK_SIZE};
static const struct vd_qcow2_snapshot_rules v2 = {&geometry, 2, DISK_SIZE};

/* An entry as it lies in the table. */
struct entry {
    uint8_t bytes[VD_QCOW2_SNAPSHOT_ENTRY_BYTES_MAX + 8];
    size_t length;
};

static void put(struct entry *entry, size_t offset, size_t bytes, uint64_t value)
{
    while (bytes--) {
        entry->bytes[offset + bytes] = (uint8_t)value;
        value >>= 8;
    }
}

static void make(struct entry *entry, uint32_t extra, const char *id, const char *name)
{
    size_t id_bytes = strlen(id), name_bytes = strlen(name);
    memset(entry, 0, sizeof(*entry));
    put(entry, 0, 8, 0x50000);
    put(entry, 8, 4, 7);
    put(entry, 12, 2, id_bytes);
    put(entry, 14, 2, name_bytes);
    put(entry, 16, 4, 0xfffffffe);
    put(entry, 20, 4, 123456789);
    put(entry, 24, 8, UINT64_C(0x1122334455667788));
    put(entry, 32, 4, 0x87654321);
    put(entry, 36, 4, extra);
    for (uint32_t i = 0; i < extra; i++)
        entry->bytes[40 + i] = (uint8_t)(i + 1);
    memcpy(entry->bytes + 40 + extra, id, id_bytes);
    memcpy(entry->bytes + 40 + extra + id_bytes, name, name_bytes);
    entry->length = (40 + extra + id_bytes + name_bytes + 7) & ~(size_t)7;
}

static int decode(struct vd_qcow2_snapshots *all, const struct vd_qcow2_snapshot_rules *rules,
                  const struct entry *entry)
{
    struct vdisk_error err = {0};
    size_t used;
    int ret = vd_qcow2_snapshots_decode(all, rules, entry->bytes, entry->length, &used, &err);
    assert_int_equal(err.code, -ret);
    if (ret == 0)
        assert_int_equal(used, entry->length);
    return ret;
}

static void test_fields(void **state)
{
    (void)state;
    struct vd_qcow2_snapshots all = {0};
    struct entry entry;
    make(&entry, 24, "17", "before the upgrade");
    assert_int_equal(decode(&all, &v3, &entry), 0);
    const struct vd_qcow2_snapshot *s = &all.entries[0];
    assert_int_equal(all.count, 1);
    assert_int_equal(all.table_bytes, entry.length);
    assert_int_equal(s->l1_offset, 0x50000);
    assert_int_equal(s->l1_entries, 7);
    assert_int_equal(s->date_sec, 0xfffffffe);
    assert_int_equal(s->date_nsec, 123456789);
    assert_int_equal(s->vm_clock_nsec, UINT64_C(0x1122334455667788));
    assert_int_equal(s->vm_state_bytes, UINT64_C(0x0102030405060708));
    assert_int_equal(s->disk_size, UINT64_C(0x090a0b0c0d0e0f10));
    assert_int_equal(s->icount, UINT64_C(0x1112131415161718));
    assert_string_equal(vd_qcow2_snapshot_id(s), "17");
    assert_string_equal(vd_qcow2_snapshot_name(s), "before the upgrade");
    vd_qcow2_snapshots_free(&all);
    assert_int_equal(all.count, 0);
}

/* Which fields are there follows from the length of the extra data. */
static void test_extra_lengths(void **state)
{
    (void)state;
    for (uint32_t extra = 0; extra <= 40; extra++) {
        struct vd_qcow2_snapshots all = {0};
        struct entry entry;
        make(&entry, extra, "1", "x");
        assert_int_equal(decode(&all, &v2, &entry), 0);
        const struct vd_qcow2_snapshot *s = &all.entries[0];
        assert_int_equal(s->vm_state_bytes, extra >= 8 ? UINT64_C(0x0102030405060708) : 0x87654321);
        assert_int_equal(s->disk_size, extra >= 16 ? UINT64_C(0x090a0b0c0d0e0f10) : DISK_SIZE);
        assert_int_equal(s->icount, extra >= 24 ? UINT64_C(0x1112131415161718) : UINT64_MAX);
        assert_string_equal(vd_qcow2_snapshot_id(s), "1");
        assert_string_equal(vd_qcow2_snapshot_name(s), "x");
        vd_qcow2_snapshots_free(&all);
    }
}

/* T1: what was decoded is encoded as it was, but version 3 gets the size of the disk. */
static void test_preserved(void **state)
{
    (void)state;
    static const uint32_t lengths[] = {0, 3, 8, 13, 16, 20, 24, 25, 40, 1000, 1024};
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        struct vd_qcow2_snapshots all = {0};
        struct vdisk_error err = {0};
        struct entry entry;
        uint8_t *bytes;
        size_t length;
        make(&entry, lengths[i], "12", "name");
        if (lengths[i] >= 8)
            put(&entry, 32, 4, 0); /* the length of the state is in the extra data only */
        assert_int_equal(decode(&all, &v2, &entry), 0);
        assert_int_equal(decode(&all, &v2, &entry), 0);
        assert_int_equal(vd_qcow2_snapshots_encode(&all, &v2, &bytes, &length, &err), 0);
        assert_int_equal(length, 2 * entry.length);
        assert_memory_equal(bytes, entry.bytes, entry.length);
        assert_memory_equal(bytes + entry.length, entry.bytes, entry.length);
        free(bytes);

        assert_int_equal(vd_qcow2_snapshots_encode(&all, &v3, &bytes, &length, &err), 0);
        struct vd_qcow2_snapshots again = {0};
        size_t used;
        assert_int_equal(vd_qcow2_snapshots_decode(&again, &v3, bytes, length, &used, &err), 0);
        const struct vd_qcow2_snapshot *s = &again.entries[0];
        assert_int_equal(s->extra_bytes, lengths[i] < 16 ? 16 : lengths[i]);
        assert_int_equal(s->vm_state_bytes, all.entries[0].vm_state_bytes);
        assert_int_equal(s->disk_size, all.entries[0].disk_size);
        assert_string_equal(vd_qcow2_snapshot_name(s), "name");
        free(bytes);
        vd_qcow2_snapshots_free(&again);
        vd_qcow2_snapshots_free(&all);
    }
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        size_t offset, bytes;
        uint64_t value;
    } cases[] = {
        {0, 8, 0x50200},             /* not at a cluster */
        {0, 8, 0},                   /* at the header */
        {0, 8, UINT64_C(1) << 63},   /* no offset of a file */
        {0, 8, UINT64_MAX - 0xffff}, /* the end of the table wraps */
        {8, 4, (32u << 20) / 8 + 1}, /* an L1 table of more than 32 MiB */
        {8, 4, UINT32_MAX},          /* of 32 GiB */
        {36, 4, 1025},               /* too much extra data */
        {36, 4, UINT32_MAX},         /* of 4 GiB */
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct vd_qcow2_snapshots all = {0};
        struct entry entry;
        make(&entry, 24, "1", "x");
        put(&entry, cases[i].offset, cases[i].bytes, cases[i].value);
        assert_int_equal(decode(&all, &v3, &entry), -EBADMSG);
        assert_int_equal(all.count, 0);
        vd_qcow2_snapshots_free(&all);
    }

    struct vd_qcow2_snapshots all = {0};
    struct entry entry;
    make(&entry, 24, "1", "x");
    put(&entry, 8, 4, (32u << 20) / 8);
    assert_int_equal(decode(&all, &v3, &entry), 0);
    put(&entry, 0, 8, 0); /* nothing at 0 is all right */
    put(&entry, 8, 4, 0);
    assert_int_equal(decode(&all, &v3, &entry), 0);
    vd_qcow2_snapshots_free(&all);
}

/* An entry that is not there as a whole asks for more, never for more than one can have. */
static void test_partial(void **state)
{
    (void)state;
    struct vd_qcow2_snapshots all = {0};
    struct entry entry;
    make(&entry, 24, "1", "some name");
    for (size_t length = 0; length < entry.length; length++) {
        CLEANUP_FREE uint8_t *copy = vd_alloc_array(length, 1); /* so that reading past is seen */
        assert_non_null(copy);
        memcpy(copy, entry.bytes, length);
        size_t used;
        assert_int_equal(vd_qcow2_snapshots_decode(&all, &v3, copy, length, &used, NULL), -ENODATA);
        assert_int_equal(used, length < 40 ? 40 : entry.length);
    }
    put(&entry, 12, 4, UINT32_MAX); /* the longest id and name */
    put(&entry, 36, 4, 1024);
    size_t used;
    assert_int_equal(vd_qcow2_snapshots_decode(&all, &v3, entry.bytes, 40, &used, NULL), -ENODATA);
    assert_int_equal(used, VD_QCOW2_SNAPSHOT_ENTRY_BYTES_MAX);
    entry.length = used;
    assert_int_equal(decode(&all, &v3, &entry), 0);
    assert_int_equal(all.entries[0].name_bytes, 65535);
    vd_qcow2_snapshots_free(&all);
}

/* The whole table has a limit, which is met before the memory is taken. */
static void test_table_limit(void **state)
{
    (void)state;
    struct vd_qcow2_snapshots all = {0};
    struct entry entry;
    make(&entry, 24, "", "");
    all.table_bytes = VD_QCOW2_SNAPSHOT_BYTES_MAX - entry.length;
    assert_int_equal(decode(&all, &v3, &entry), 0);
    assert_int_equal(decode(&all, &v3, &entry), -EBADMSG);
    assert_int_equal(all.count, 1);

    struct vd_qcow2_snapshot *added;
    struct vdisk_error err = {0};
    CLEANUP_FREE char *name = vd_alloc_array(65537, 1);
    assert_non_null(name);
    memset(name, 'n', 65536);
    assert_int_equal(vd_qcow2_snapshots_add(&all, "1", name, &added, &err), -EINVAL);
    name[65535] = 0;
    vdisk_error_clear(&err);
    for (size_t i = 0; i < 1024; i++)
        assert_int_equal(vd_qcow2_snapshots_add(&all, "1", name, &added, &err), 0);
    uint8_t *bytes;
    size_t length;
    assert_int_equal(vd_qcow2_snapshots_encode(&all, &v3, &bytes, &length, &err), -E2BIG);
    vd_qcow2_snapshots_free(&all);
}

static void test_count_limit(void **state)
{
    (void)state;
    struct vd_qcow2_snapshots all = {0};
    struct vd_qcow2_snapshot *added;
    struct vdisk_error err = {0};
    for (size_t i = 0; i < VD_QCOW2_SNAPSHOTS_MAX; i++)
        assert_int_equal(vd_qcow2_snapshots_add(&all, "1", "", &added, &err), 0);
    assert_int_equal(vd_qcow2_snapshots_add(&all, "1", "", &added, &err), -E2BIG);
    vd_qcow2_snapshots_free(&all);
}

static void test_change(void **state)
{
    (void)state;
    static const char *const ids[] = {"3", "", "x9", "007", "12a", "10", "99999999999999999999"};
    struct vd_qcow2_snapshots all = {0};
    struct vd_qcow2_snapshot *added;
    struct vdisk_error err = {0};
    char id[VD_QCOW2_SNAPSHOT_ID_BYTES];
    vd_qcow2_snapshots_new_id(&all, id);
    assert_string_equal(id, "1");
    for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++)
        assert_int_equal(vd_qcow2_snapshots_add(&all, ids[i], "n", &added, &err), 0);
    vd_qcow2_snapshots_new_id(&all, id);
    assert_string_equal(id, "11");

    /* A long number that is taken is passed over. */
    assert_int_equal(vd_qcow2_snapshots_add(&all, "999999999999999999", "n", &added, &err), 0);
    assert_int_equal(vd_qcow2_snapshots_add(&all, "1000000000000000000", "n", &added, &err), 0);
    vd_qcow2_snapshots_new_id(&all, id);
    assert_string_equal(id, "1000000000000000001");

    vd_qcow2_snapshots_remove(&all, 1);
    vd_qcow2_snapshots_remove(&all, all.count - 1);
    assert_string_equal(vd_qcow2_snapshot_id(&all.entries[0]), "3");
    assert_string_equal(vd_qcow2_snapshot_id(&all.entries[1]), "x9");
    assert_int_equal(all.count, 7);
    vd_qcow2_snapshots_free(&all);
}

/* A new entry has all the fields, and the short length of a state that fits. */
static void test_new(void **state)
{
    (void)state;
    struct vd_qcow2_snapshots all = {0}, again = {0};
    struct vd_qcow2_snapshot *added;
    struct vdisk_error err = {0};
    uint8_t *bytes;
    size_t length, used;
    assert_int_equal(vd_qcow2_snapshots_add(&all, "1", "one", &added, &err), 0);
    added->l1_offset = 0x70000;
    added->l1_entries = 2;
    added->vm_state_bytes = UINT64_C(5) << 30;
    added->disk_size = 4096;
    assert_int_equal(vd_qcow2_snapshots_encode(&all, &v3, &bytes, &length, &err), 0);
    assert_int_equal(length, 72);
    assert_int_equal(bytes[32] | bytes[33] | bytes[34] | bytes[35], 0);
    assert_int_equal(vd_qcow2_snapshots_decode(&again, &v3, bytes, length, &used, &err), 0);
    assert_int_equal(again.entries[0].vm_state_bytes, UINT64_C(5) << 30);
    assert_int_equal(again.entries[0].disk_size, 4096);
    assert_int_equal(again.entries[0].icount, UINT64_MAX);
    free(bytes);
    vd_qcow2_snapshots_free(&all);
    vd_qcow2_snapshots_free(&again);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fields),      cmocka_unit_test(test_extra_lengths),
        cmocka_unit_test(test_preserved),   cmocka_unit_test(test_refused),
        cmocka_unit_test(test_partial),     cmocka_unit_test(test_table_limit),
        cmocka_unit_test(test_count_limit), cmocka_unit_test(test_change),
        cmocka_unit_test(test_new),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
