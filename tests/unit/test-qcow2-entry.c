/* SPDX-License-Identifier: MIT */
/* L2 entries of qcow2 at every cluster size, against the tables of the specification. */
#include "drivers/check.h"
#include "drivers/random.h"
#include "format/qcow2/qcow2_entry.h"

#define COPIED     (UINT64_C(1) << 63)
#define COMPRESSED (UINT64_C(1) << 62)

struct setup {
    struct vd_qcow2_geometry geometry;
    struct vd_qcow2_entry_rules rules;
};

static void set_up(struct setup *setup, uint32_t cluster_bits, bool is_extended, bool has_zero,
                   bool has_data_file)
{
    setup->geometry = vd_qcow2_geometry_of(cluster_bits, 4, is_extended);
    setup->rules = (struct vd_qcow2_entry_rules){
        .geometry = &setup->geometry, .has_zero = has_zero, .has_data_file = has_data_file};
}

static vd_qcow2_wrong decode(const struct setup *setup, uint64_t value, uint64_t subclusters,
                             struct vd_qcow2_entry *entry)
{
    struct be64 words[2] = {be64_of(value), be64_of(subclusters)};
    return vd_qcow2_entry_decode(&setup->rules, words, entry);
}

/* What decode() accepts, encode() makes again. */
static void expect_same_again(const struct setup *setup, uint64_t value, uint64_t subclusters)
{
    struct vd_qcow2_entry entry;
    struct be64 words[2] = {be64_of(0), be64_of(0)};
    assert_null(decode(setup, value, subclusters, &entry));
    vd_qcow2_entry_encode(&setup->rules, &entry, words);
    assert_int_equal(be64_get(words[0]), value);
    if (setup->geometry.entry_bytes == 16)
        assert_int_equal(be64_get(words[1]), subclusters);
}

static void test_standard(void **state)
{
    (void)state;
    for (uint32_t bits = 9; bits <= 21; bits++) {
        struct setup setup;
        struct vd_qcow2_entry entry;
        set_up(&setup, bits, false, true, false);
        const uint64_t offsets[] = {UINT64_C(1) << bits, UINT64_C(7) << bits,
                                    (UINT64_C(1) << 56) - (UINT64_C(1) << bits)};
        for (size_t i = 0; i < 3; i++) {
            for (unsigned flags = 0; flags < 4; flags++) {
                uint64_t value = offsets[i] | (flags & 1 ? COPIED : 0) | (flags & 2 ? 1 : 0);
                assert_null(decode(&setup, value, 0, &entry));
                assert_true(entry.has_host && !entry.is_encoded);
                assert_int_equal(entry.host, offsets[i]);
                assert_int_equal(entry.is_copied, flags & 1);
                assert_int_equal(entry.zero, flags >> 1);
                assert_int_equal(entry.data, !(flags >> 1));
                expect_same_again(&setup, value, 0);
            }
        }
        assert_null(decode(&setup, 0, 0, &entry));
        assert_true(!entry.has_host && !entry.data && !entry.zero);
        expect_same_again(&setup, 0, 0);
        assert_null(decode(&setup, 1, 0, &entry));
        assert_true(!entry.has_host && !entry.data && entry.zero == 1);
        expect_same_again(&setup, 1, 0);
        for (uint32_t bit = 9; bit < bits; bit++)
            assert_non_null(decode(&setup, offsets[0] | UINT64_C(1) << bit, 0, &entry));
    }
}

static void test_reserved(void **state)
{
    (void)state;
    for (unsigned is_extended = 0; is_extended < 2; is_extended++) {
        struct setup setup;
        struct vd_qcow2_entry entry;
        set_up(&setup, 16, is_extended, true, false);
        for (unsigned bit = 1; bit < 9; bit++)
            assert_non_null(decode(&setup, 65536 | UINT64_C(1) << bit, 0, &entry));
        for (unsigned bit = 56; bit < 62; bit++)
            assert_non_null(decode(&setup, 65536 | UINT64_C(1) << bit, 0, &entry));
        /* QEMU reads this as nothing. */
        assert_null(decode(&setup, COPIED, 0, &entry));
        assert_true(!entry.has_host && !entry.is_copied && !entry.data && !entry.zero);
    }
}

static void test_zero_bit(void **state)
{
    (void)state;
    struct setup setup;
    struct vd_qcow2_entry entry;
    set_up(&setup, 16, false, false, false);
    assert_non_null(decode(&setup, 65537, 0, &entry));
    assert_non_null(decode(&setup, 1, 0, &entry));
    /* Extended entries have no such bit: QEMU does not look at it. */
    set_up(&setup, 16, true, true, false);
    assert_null(decode(&setup, 65537, UINT32_MAX, &entry));
    assert_true(entry.has_host && entry.data == UINT32_MAX && !entry.zero);
    assert_null(decode(&setup, 1, 0, &entry));
    assert_true(!entry.has_host && !entry.data && !entry.zero);
}

/* With a data file, 0 is an offset like others, if the COPIED bit says so. */
static void test_data_file(void **state)
{
    (void)state;
    struct setup setup;
    struct vd_qcow2_entry entry;
    set_up(&setup, 16, false, true, true);
    assert_null(decode(&setup, COPIED, 0, &entry));
    assert_true(entry.has_host && entry.is_copied && entry.host == 0 && entry.data == 1);
    expect_same_again(&setup, COPIED, 0);
    assert_null(decode(&setup, COPIED | 1, 0, &entry));
    assert_true(entry.has_host && entry.zero == 1 && entry.data == 0);
    expect_same_again(&setup, COPIED | 1, 0);
    assert_null(decode(&setup, 0, 0, &entry));
    assert_true(!entry.has_host && entry.data == 0);
    assert_non_null(decode(&setup, COMPRESSED | 65536, 0, &entry));
    set_up(&setup, 16, true, true, true);
    assert_null(decode(&setup, COPIED, UINT64_C(0xf00000000f), &entry));
    assert_non_null(decode(&setup, COPIED, UINT64_C(0x100000001), &entry));
    expect_same_again(&setup, COPIED, UINT64_C(0xfffffff000000001));
}

/* The split of the descriptor moves with the cluster size: bits from the specification's formula.
 */
static void test_compressed(void **state)
{
    (void)state;
    for (uint32_t bits = 9; bits <= 21; bits++) {
        struct setup setup;
        struct vd_qcow2_entry entry;
        unsigned x = 62 - (bits - 8);
        uint64_t most = (UINT64_C(1) << (62 - x)) - 1;
        set_up(&setup, bits, false, true, false);
        for (uint64_t sectors = 0; sectors <= most; sectors++) {
            uint64_t offset = (UINT64_C(1) << bits) + 513 * sectors + 1;
            uint64_t value = COMPRESSED | sectors << x | offset;
            assert_null(decode(&setup, value, 0, &entry));
            assert_true(entry.is_encoded && !entry.has_host && !entry.is_copied);
            assert_int_equal(entry.host, offset);
            assert_int_equal(entry.encoded_bytes, (sectors + 1) * 512 - offset % 512);
            assert_int_equal(entry.data, 1);
            expect_same_again(&setup, value, 0);
        }
        /* The largest offset there can be, and the bits behind bit 55. */
        uint64_t largest = (UINT64_C(1) << (x < 56 ? x : 56)) - 1;
        assert_null(decode(&setup, COMPRESSED | largest, 0, &entry));
        assert_int_equal(entry.host, largest);
        assert_int_equal(entry.encoded_bytes, 1);
        for (unsigned bit = 56; bit < x; bit++)
            assert_non_null(decode(&setup, COMPRESSED | UINT64_C(1) << bit | 65536, 0, &entry));
        assert_non_null(decode(&setup, COMPRESSED | ((UINT64_C(1) << bits) - 1), 0, &entry));
        assert_null(decode(&setup, COMPRESSED | COPIED | largest, 0, &entry));
        assert_false(entry.is_copied);
    }
    struct setup setup;
    struct vd_qcow2_entry entry;
    set_up(&setup, 16, true, true, false);
    assert_null(decode(&setup, COMPRESSED | 70000, 0, &entry));
    assert_int_equal(entry.data, UINT32_MAX);
    expect_same_again(&setup, COMPRESSED | 70000, 0);
    assert_non_null(decode(&setup, COMPRESSED | 70000, 1, &entry));
}

static void test_subclusters(void **state)
{
    (void)state;
    struct vt_random random = {42};
    for (uint32_t bits = 14; bits <= 21; bits++) {
        struct setup setup;
        struct vd_qcow2_entry entry;
        uint64_t host = UINT64_C(3) << bits;
        set_up(&setup, bits, true, true, false);
        for (unsigned i = 0; i < 32; i++) {
            assert_null(decode(&setup, host | COPIED, UINT64_C(1) << i, &entry));
            assert_int_equal(entry.data, UINT32_C(1) << i);
            assert_int_equal(entry.zero, 0);
            assert_null(decode(&setup, 0, UINT64_C(1) << (i + 32), &entry));
            assert_int_equal(entry.data, 0);
            assert_int_equal(entry.zero, UINT32_C(1) << i);
            assert_non_null(decode(&setup, 0, UINT64_C(1) << i, &entry));
            assert_non_null(decode(&setup, host, UINT64_C(0x100000001) << i, &entry));
        }
        for (unsigned i = 0; i < 1000; i++) {
            uint64_t subclusters = vt_random_next(&random);
            bool is_good = ((uint32_t)subclusters & (uint32_t)(subclusters >> 32)) == 0;
            assert_int_equal(decode(&setup, host, subclusters, &entry) == NULL, is_good);
            subclusters &= ~(subclusters << 32);
            expect_same_again(&setup, host | COPIED, subclusters);
            expect_same_again(&setup, 0, subclusters & ~(uint64_t)UINT32_MAX);
        }
    }
}

/* The lengths that a writer has are not those of whole sectors. */
static void test_encode_length(void **state)
{
    (void)state;
    struct setup setup;
    set_up(&setup, 16, false, true, false);
    for (uint64_t host = 65536; host < 65536 + 1030; host += 3) {
        for (uint32_t length = 1; length < 65536; length += 311) {
            struct vd_qcow2_entry entry = {
                .is_encoded = true, .host = host, .encoded_bytes = length, .data = 1};
            struct vd_qcow2_entry again;
            struct be64 word;
            vd_qcow2_entry_encode(&setup.rules, &entry, &word);
            assert_null(vd_qcow2_entry_decode(&setup.rules, &word, &again));
            assert_int_equal(again.host, host);
            assert_true(again.encoded_bytes >= length && again.encoded_bytes < length + 512);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_standard),      cmocka_unit_test(test_reserved),
        cmocka_unit_test(test_zero_bit),      cmocka_unit_test(test_data_file),
        cmocka_unit_test(test_compressed),    cmocka_unit_test(test_subclusters),
        cmocka_unit_test(test_encode_length),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
