/* SPDX-License-Identifier: MIT */
/* util/digest: the published values, pieces, hexadecimal digits, and tables. */
#include "drivers/check.h"

#include <stdlib.h>

#include "drivers/alloc.h"
#include "drivers/random.h"
#include "util/digest.h"

static const enum vd_digest_kind both[] = {VD_DIGEST_XXH128, VD_DIGEST_SHA256};

static bool is_missing(enum vd_digest_kind kind)
{
    uint8_t digest[VD_DIGEST_BYTES_MAX];
    return vd_digest(kind, "", 0, digest, NULL) == -ENOTSUP;
}

static void assert_digest(enum vd_digest_kind kind, const void *data, size_t length,
                          const char *wanted)
{
    uint8_t digest[VD_DIGEST_BYTES_MAX];
    char hex[2 * VD_DIGEST_BYTES_MAX + 1];
    if (is_missing(kind))
        return;
    assert_int_equal(vd_digest(kind, data, length, digest, NULL), 0);
    vd_hex_write(digest, vd_digest_bytes(kind), hex);
    assert_string_equal(hex, wanted);
}

static void test_published_values(void **state)
{
    (void)state;
    uint8_t *zeros = vt_calloc(1, 1 << 20);
    assert_digest(VD_DIGEST_XXH128, "", 0, "99aa06d3014798d86001c324468d497f");
    assert_digest(VD_DIGEST_SHA256, "", 0,
                  "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert_digest(VD_DIGEST_SHA256, "abc", 3,
                  "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_digest(VD_DIGEST_SHA256, zeros, 1 << 20,
                  "30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58");
    free(zeros);
}

/* RFC 4231, cases 2 and 6. */
static void test_hmac(void **state)
{
    (void)state;
    uint8_t digest[VD_SHA256_BYTES];
    char hex[2 * VD_SHA256_BYTES + 1];
    const char *data = "what do ya want for nothing?";
    int ret = vd_hmac_sha256("Jefe", 4, data, strlen(data), digest, NULL);
    if (ret == -ENOTSUP && is_missing(VD_DIGEST_SHA256))
        skip();
    assert_int_equal(ret, 0);
    vd_hex_write(digest, sizeof(digest), hex);
    assert_string_equal(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");

    uint8_t key[131];
    memset(key, 0xaa, sizeof(key));
    data = "Test Using Larger Than Block-Size Key - Hash Key First";
    assert_int_equal(vd_hmac_sha256(key, sizeof(key), data, strlen(data), digest, NULL), 0);
    vd_hex_write(digest, sizeof(digest), hex);
    assert_string_equal(hex, "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
}

static void add_in_pieces(struct vt_random *random, enum vd_digest_kind kind, const uint8_t *data,
                          size_t length, uint8_t *digest)
{
    struct vd_digest_run run;
    assert_int_equal(vd_digest_begin(&run, kind, NULL), 0);
    for (size_t done = 0; done < length;) {
        size_t piece = (size_t)vt_random_below(random, length - done + 1);
        assert_int_equal(vd_digest_add(&run, data + done, piece, NULL), 0);
        done += piece;
    }
    vd_digest_end(&run, digest);
}

/* Whatever pieces data comes in, and whatever byte of it changes. */
static void test_pieces_and_changes(void **state)
{
    (void)state;
    struct vt_random random = {.state = 20};
    enum {
        ROUNDS = 60,
        BYTES = 3000
    };
    uint8_t data[BYTES];
    vt_random_fill(&random, data, sizeof(data));
    for (size_t k = 0; k < 2; k++) {
        size_t bytes = vd_digest_bytes(both[k]);
        for (unsigned i = 0; i < ROUNDS && !is_missing(both[k]); i++) {
            uint8_t whole[VD_DIGEST_BYTES_MAX];
            uint8_t pieces[VD_DIGEST_BYTES_MAX];
            size_t length = 1 + (size_t)vt_random_below(&random, BYTES);
            assert_int_equal(vd_digest(both[k], data, length, whole, NULL), 0);
            add_in_pieces(&random, both[k], data, length, pieces);
            assert_memory_equal(whole, pieces, bytes);

            data[vt_random_below(&random, length)] ^= (uint8_t)(1u << vt_random_below(&random, 8));
            assert_int_equal(vd_digest(both[k], data, length, pieces, NULL), 0);
            assert_memory_not_equal(whole, pieces, bytes);
        }
    }
}

static void test_cancel(void **state)
{
    (void)state;
    for (size_t k = 0; k < 2; k++) {
        struct vd_digest_run run;
        int ret = vd_digest_begin(&run, both[k], NULL);
        assert_int_equal(ret, is_missing(both[k]) ? -ENOTSUP : 0);
        if (ret == 0) {
            assert_int_equal(vd_digest_add(&run, "x", 1, NULL), 0);
            vd_digest_cancel(&run); /* a sanitizer sees what is left */
            vd_digest_cancel(&run);
        }
    }
}

static void test_names(void **state)
{
    (void)state;
    for (size_t k = 0; k < 2; k++)
        assert_int_equal(vd_digest_find(vd_digest_name(both[k])), both[k]);
    assert_string_equal(vd_digest_name(VD_DIGEST_XXH128), "xxh128");
    assert_string_equal(vd_digest_name(VD_DIGEST_SHA256), "sha256");
    assert_int_equal(vd_digest_bytes(VD_DIGEST_XXH128), 16);
    assert_int_equal(vd_digest_bytes(VD_DIGEST_SHA256), 32);
    assert_int_equal(vd_digest_find(""), 0);
    assert_int_equal(vd_digest_find("sha25"), 0);
    assert_int_equal(vd_digest_find("sha2567"), 0);
    assert_int_equal(vd_digest_find("SHA256"), 0);
}

static void test_hex(void **state)
{
    (void)state;
    uint8_t bytes[256];
    uint8_t again[256];
    char text[2 * sizeof(bytes) + 1];
    for (unsigned i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)i;
    vd_hex_write(bytes, sizeof(bytes), text);
    assert_int_equal(strlen(text), 2 * sizeof(bytes));
    assert_true(vd_hex_read(text, again, sizeof(again)));
    assert_memory_equal(bytes, again, sizeof(bytes));

    assert_true(vd_hex_read("", again, 0));
    assert_true(vd_hex_read("aF", again, 1));
    assert_int_equal(again[0], 0xaf);
    static const char *const wrong[] = {"", "a", "aFa", "aFaF", "ag", "ga", "a ", " a", "a-", "0x"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        assert_false(vd_hex_read(wrong[i], again, 1));
    for (int c = 1; c < 256; c++) {
        const char digit[] = {'0', (char)c, '\0'};
        bool is_one = strchr("0123456789abcdefABCDEF", c) != NULL;
        assert_int_equal(vd_hex_read(digit, again, 1), is_one);
    }
}

static void test_table(void **state)
{
    (void)state;
    static const struct {
        uint64_t file_bytes;
        uint32_t extent_bytes;
        uint64_t entries;
    } cases[] = {
        {0, 65536, 0},
        {1, 65536, 1},
        {65536, 65536, 1},
        {65537, 65536, 2},
        {(1u << 20) - 1, VD_DIGEST_EXTENT_BYTES_MAX, 1},
        {UINT64_C(1) << 40, VD_DIGEST_EXTENT_BYTES_MAX, 1024},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct vd_digest_table table;
        assert_int_equal(vd_digest_table_init(&table, VD_DIGEST_SHA256, cases[i].extent_bytes,
                                              cases[i].file_bytes, NULL),
                         0);
        assert_int_equal(table.entries, cases[i].entries);
        if (table.entries)
            vt_assert_filled(table.digests, table.entries * VD_SHA256_BYTES, 0);
        assert_ptr_equal(vd_digest_at(&table, 1), table.digests + VD_SHA256_BYTES);
        vd_digest_table_free(&table);
        vd_digest_table_free(&table);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_values),
        cmocka_unit_test(test_hmac),
        cmocka_unit_test(test_pieces_and_changes),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_hex),
        cmocka_unit_test(test_table),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
