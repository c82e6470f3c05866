/* SPDX-License-Identifier: MIT */
/* Headers of LUKS version 1 (luks.h, L1 to L3). */
#include <stdlib.h>
#include <string.h>

#include "drivers/check.h"
#include "drivers/crash.h"
#include "drivers/snap.h"
#include "format/luks.h"
#include "format/crypt/luks_split.h"

#define AREA_OFFSET 65536u
#define SECTOR      VD_CIPHER_SECTOR_BYTES

static const struct vd_crypt_bytes right = {"secret", 6};
static const struct vd_crypt_bytes other = {"another secret", 14};
static const struct vd_crypt_bytes wrong = {"Secret", 6};

static const struct vd_luks_options usual = {
    .spec = {VD_CRYPT_AES, VD_CRYPT_XTS, VD_CRYPT_PLAIN64, 0},
    .hash = VD_CRYPT_SHA256,
    .key_bytes = 64,
    .iter_time_ms = 1,
};

struct made {
    struct vd_storage *file;
    struct vd_luks_area area;
    struct vd_luks luks;
};

static void make(struct made *made, const struct vd_luks_options *options)
{
    uint64_t bytes = vd_luks_new_bytes(options);
    VT_OK(vd_storage_mem_open(AREA_OFFSET + bytes, &made->file, &vt_err));
    made->area = (struct vd_luks_area){made->file, vd_range(AREA_OFFSET, bytes)};
    VT_OK(vd_luks_create(&made->area, options, right, &vt_err));
    VT_OK(vd_luks_read(&made->area, &made->luks, &vt_err));
}

static void end(struct made *made)
{
    vd_storage_close(made->file);
}

static void assert_opens(const struct made *made, struct vd_crypt_bytes secret)
{
    struct vd_cipher *cipher;
    VT_OK(vd_luks_open(&made->area, &made->luks, secret, &cipher, &vt_err));
    vd_cipher_free(cipher);
}

static void assert_refuses(const struct made *made, struct vd_crypt_bytes secret)
{
    struct vd_cipher *cipher;
    VT_FAILS(EKEYREJECTED, vd_luks_open(&made->area, &made->luks, secret, &cipher, &vt_err));
}

static void test_create(void **state)
{
    static const struct vd_luks_options table[] = {
        {{VD_CRYPT_AES, VD_CRYPT_CBC, VD_CRYPT_ESSIV, VD_CRYPT_SHA256}, VD_CRYPT_SHA1, 16, 1},
        {{VD_CRYPT_AES, VD_CRYPT_CBC, VD_CRYPT_PLAIN, 0}, VD_CRYPT_SHA512, 24, 1},
        {{VD_CRYPT_SERPENT, VD_CRYPT_XTS, VD_CRYPT_PLAIN64, 0}, VD_CRYPT_RIPEMD160, 64, 1},
        {{VD_CRYPT_TWOFISH, VD_CRYPT_ECB, VD_CRYPT_PLAIN64, 0}, VD_CRYPT_SHA256, 32, 1},
        {{VD_CRYPT_CAST5, VD_CRYPT_CBC, VD_CRYPT_PLAIN64, 0}, VD_CRYPT_SHA256, 16, 1},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct made made;
        make(&made, &table[i]);
        assert_memory_equal(&made.luks.spec, &table[i].spec, sizeof(table[i].spec));
        assert_int_equal(made.luks.hash, table[i].hash);
        assert_int_equal(made.luks.key_bytes, table[i].key_bytes);
        assert_int_equal(strlen(made.luks.uuid), 36);
        assert_opens(&made, right);
        assert_refuses(&made, wrong);
        end(&made);
    }
}

/* As QEMU lays it out: 2,068,480 bytes, key material every 258,048. */
static void test_layout(void **state)
{
    struct made made;
    (void)state;
    make(&made, &usual);
    assert_int_equal(made.area.range.length, 2068480);
    assert_int_equal(made.luks.payload_offset, 2068480);
    for (unsigned i = 0; i < LUKS_SLOTS; i++) {
        assert_int_equal(made.luks.slots[i].key_offset, 4096 + i * 258048);
        assert_int_equal(made.luks.slots[i].stripes, 4000);
        assert_int_equal(made.luks.slots[i].is_active, i == 0);
    }
    end(&made);
}

/* Two openings make the same cipher, two headers never do. */
static void test_cipher(void **state)
{
    struct made a, b;
    struct vd_cipher *ciphers[3];
    uint8_t data[3][SECTOR] = {0};
    (void)state;
    make(&a, &usual);
    make(&b, &usual);
    VT_OK(vd_luks_open(&a.area, &a.luks, right, &ciphers[0], &vt_err));
    VT_OK(vd_luks_open(&a.area, &a.luks, right, &ciphers[1], &vt_err));
    VT_OK(vd_luks_open(&b.area, &b.luks, right, &ciphers[2], &vt_err));
    for (int i = 0; i < 3; i++) {
        VT_OK(vd_cipher_encrypt(ciphers[i], SECTOR, data[i], SECTOR, &vt_err));
        vd_cipher_free(ciphers[i]);
    }
    assert_memory_equal(data[0], data[1], SECTOR);
    assert_memory_not_equal(data[0], data[2], SECTOR);
    end(&a);
    end(&b);
}

static void test_slots(void **state)
{
    struct made made;
    struct vd_luks_key key;
    unsigned index;
    (void)state;
    make(&made, &usual);
    VT_OK(vd_luks_unlock(&made.area, &made.luks, right, &key, &index, &vt_err));
    assert_int_equal(index, 0);
    for (unsigned i = 1; i < LUKS_SLOTS; i++) {
        VT_OK(vd_luks_add_slot(&made.area, &made.luks, i, &key, other, 1, &vt_err));
        VT_OK(vd_luks_erase_slot(&made.area, &made.luks, i - 1, &vt_err));
        VT_OK(vd_luks_read(&made.area, &made.luks, &vt_err));
        VT_OK(vd_luks_unlock(&made.area, &made.luks, other, &key, &index, &vt_err));
        assert_int_equal(index, i);
        assert_refuses(&made, right);
        assert_int_equal(made.luks.slots[i - 1].iterations, 0);
    }
    VT_OK(vd_luks_erase_slot(&made.area, &made.luks, LUKS_SLOTS - 1, &vt_err));
    assert_refuses(&made, other);
    end(&made);
}

/* One whole and one empty passphrase, and one with every byte. */
static void test_passphrases(void **state)
{
    struct made made;
    struct vd_luks_key key;
    unsigned index;
    char bytes[256];
    (void)state;
    for (unsigned i = 0; i < sizeof(bytes); i++)
        bytes[i] = (char)i;
    make(&made, &usual);
    VT_OK(vd_luks_unlock(&made.area, &made.luks, right, &key, &index, &vt_err));
    const struct vd_crypt_bytes empty = {NULL, 0};
    const struct vd_crypt_bytes all = {bytes, sizeof(bytes)};
    VT_OK(vd_luks_add_slot(&made.area, &made.luks, 3, &key, empty, 1, &vt_err));
    VT_OK(vd_luks_add_slot(&made.area, &made.luks, 6, &key, all, 1, &vt_err));
    assert_opens(&made, empty);
    assert_opens(&made, all);
    assert_refuses(&made, (struct vd_crypt_bytes){bytes, 255});
    end(&made);
}

/* The header with one field changed. */
static void assert_bad(const struct made *made, int error, size_t offset, const void *bytes,
                       size_t length)
{
    struct vd_luks luks;
    uint8_t old[64];
    uint64_t at = AREA_OFFSET + offset;
    VT_OK(vd_storage_pread(made->file, old, length, at, &vt_err));
    VT_OK(vd_storage_pwrite(made->file, bytes, length, at, &vt_err));
    VT_FAILS(error, vd_luks_read(&made->area, &luks, &vt_err));
    VT_OK(vd_storage_pwrite(made->file, old, length, at, &vt_err));
    VT_OK(vd_luks_read(&made->area, &luks, &vt_err));
}

static void assert_bad_number(const struct made *made, size_t offset, uint32_t value)
{
    struct be32 disk = be32_of(value);
    assert_bad(made, EBADMSG, offset, &disk, sizeof(disk));
}

#define AT(field)      offsetof(struct luks_disk_header, field)
#define IN_SLOT(field) offsetof(struct luks_disk_slot, field)

static void test_hostile(void **state)
{
    char unended[LUKS_UUID_BYTES];
    struct made made;
    (void)state;
    memset(unended, 'a', sizeof(unended));
    make(&made, &usual);
    assert_bad(&made, EBADMSG, 0, "LUKT", 4);
    assert_bad(&made, ENOTSUP, AT(version), "\0\2", 2);
    assert_bad(&made, EBADMSG, AT(cipher_name), unended, LUKS_NAME_BYTES);
    assert_bad(&made, ENOTSUP, AT(cipher_name), "aet", 4);
    assert_bad(&made, EBADMSG, AT(cipher_mode), unended, LUKS_NAME_BYTES);
    assert_bad(&made, ENOTSUP, AT(cipher_mode), "xts", 4);
    assert_bad(&made, ENOTSUP, AT(cipher_mode), "xts-plain65", 12);
    assert_bad(&made, ENOTSUP, AT(cipher_mode), "cbc-essiv", 10);
    assert_bad(&made, ENOTSUP, AT(cipher_mode), "cbc-essiv:sha1", 15);
    assert_bad(&made, EBADMSG, AT(hash), unended, LUKS_NAME_BYTES);
    assert_bad(&made, ENOTSUP, AT(hash), "sha257", 7);
    assert_bad(&made, EBADMSG, AT(uuid), unended, sizeof(unended));
    assert_bad(&made, ENOTSUP, AT(key_bytes), "\377\377\377\377", 4);
    assert_bad(&made, ENOTSUP, AT(key_bytes), "\0\0\0\0", 4);
    assert_bad_number(&made, AT(digest_iterations), 0);
    assert_bad_number(&made, AT(digest_iterations), UINT32_MAX);
    for (size_t i = 0; i < LUKS_SLOTS; i++) {
        size_t slot = AT(slots) + i * sizeof(struct luks_disk_slot);
        assert_bad_number(&made, slot + IN_SLOT(state), 0);
        assert_bad_number(&made, slot + IN_SLOT(stripes), 0);
        assert_bad_number(&made, slot + IN_SLOT(stripes), LUKS_STRIPES + 100);
        assert_bad_number(&made, slot + IN_SLOT(stripes), UINT32_MAX);
        assert_bad_number(&made, slot + IN_SLOT(key_sector), 0);
        assert_bad_number(&made, slot + IN_SLOT(key_sector), 1);
        assert_bad_number(&made, slot + IN_SLOT(key_sector), UINT32_MAX);
        assert_bad_number(&made, slot + IN_SLOT(key_sector), i == 3 ? 8 : 8 + 3 * 504 + 1);
    }
    assert_bad_number(&made, AT(slots) + IN_SLOT(iterations), 0);
    assert_bad_number(&made, AT(slots) + IN_SLOT(iterations), UINT32_MAX);
    made.area.range.length -= 4096 + 512;
    VT_FAILS(EBADMSG, vd_luks_read(&made.area, &made.luks, &vt_err));
    made.area.range.length = sizeof(struct luks_disk_header) - 1;
    VT_FAILS(EBADMSG, vd_luks_read(&made.area, &made.luks, &vt_err));
    end(&made);
}

static void test_split(void **state)
{
    uint8_t key[48], split[7 * 48], merged[48];
    (void)state;
    for (unsigned hash = 0; hash <= VD_CRYPT_RIPEMD160; hash++)
        for (uint32_t stripes = 1; stripes <= 7; stripes++) {
            memset(key, (int)(hash * 8 + stripes), sizeof(key));
            VT_OK(vd_luks_split(hash, key, sizeof(key), stripes, split, &vt_err));
            VT_OK(vd_luks_merge(hash, split, sizeof(key), stripes, merged, &vt_err));
            assert_memory_equal(key, merged, sizeof(key));
            split[0] ^= 1;
            VT_OK(vd_luks_merge(hash, split, sizeof(key), stripes, merged, &vt_err));
            assert_memory_not_equal(key, merged, sizeof(key));
        }
}

static void test_iter_time(void **state)
{
    struct vd_luks_options options = usual;
    struct made made;
    uint32_t few, many;
    (void)state;
    make(&made, &usual);
    options.iter_time_ms = VD_LUKS_ITER_TIME_MS_MAX + 1;
    VT_FAILS(EINVAL, vd_luks_create(&made.area, &options, right, &vt_err));
    VT_OK(vd_luks_measure(VD_CRYPT_SHA256, 64, 0, &few, &vt_err));
    VT_OK(vd_luks_measure(VD_CRYPT_SHA256, 64, 60000, &many, &vt_err));
    assert_int_equal(few, 1000);
    assert_true(many > few);
    end(&made);
}

/* L1: what is found after a cut opens with the passphrase that no change was about, and each slot
 * that is active opens with one of them. */
struct judge {
    struct vd_range area;
    unsigned states;
};

static void judge_cut(void *opaque, struct vd_storage *storage, enum vt_call call)
{
    struct judge *judge = opaque;
    (void)call;
    for (int cut = 0; cut < VT_CUTS; cut++)
        for (uint64_t seed = 0; seed < 3; seed++) {
            struct made found;
            struct vd_luks_key key;
            VT_OK(vt_crash_cut(storage, (enum vt_cut)cut, seed, &found.file, &vt_err));
            found.area = (struct vd_luks_area){found.file, judge->area};
            VT_OK(vd_luks_read(&found.area, &found.luks, &vt_err));
            assert_opens(&found, right);
            for (unsigned i = 0; i < LUKS_SLOTS; i++)
                if (found.luks.slots[i].is_active)
                    VT_OK(vd_luks_unlock_slot(&found.area, &found.luks, i, i == 1 ? right : other,
                                              &key, &vt_err));
            end(&found);
            judge->states++;
        }
}

static void test_power_cuts(void **state)
{
    struct made made, snap;
    struct vd_luks_key key;
    unsigned index;
    (void)state;
    make(&made, &usual);
    VT_OK(vd_luks_unlock(&made.area, &made.luks, right, &key, &index, &vt_err));
    VT_OK(vd_luks_add_slot(&made.area, &made.luks, 1, &key, right, 1, &vt_err));
    VT_OK(vd_luks_erase_slot(&made.area, &made.luks, 0, &vt_err));

    /* The same bytes, in a storage whose power can be cut. */
    size_t bytes = (size_t)(AREA_OFFSET + made.area.range.length);
    uint8_t *content = malloc(bytes);
    assert_non_null(content);
    VT_OK(vd_storage_pread(made.file, content, bytes, 0, &vt_err));
    VT_OK(vt_snap_open(bytes, &snap.file, &vt_err));
    VT_OK(vd_storage_pwrite(snap.file, content, bytes, 0, &vt_err));
    free(content);
    struct judge judge = {.area = made.area.range};
    end(&made);
    VT_OK(vt_crash_open(vt_snap_pages(snap.file), &made.file, &vt_err));
    end(&snap);
    made.area.file = made.file;
    vt_crash_set_hook(made.file, judge_cut, &judge);

    /* Slot 6 lies across two sectors. */
    VT_OK(vd_luks_add_slot(&made.area, &made.luks, 6, &key, other, 1, &vt_err));
    VT_OK(vd_luks_erase_slot(&made.area, &made.luks, 6, &vt_err));
    vt_crash_set_hook(made.file, NULL, NULL);
    assert_true(judge.states > 100);
    assert_opens(&made, right);
    assert_refuses(&made, other);
    end(&made);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_create),      cmocka_unit_test(test_layout),
        cmocka_unit_test(test_cipher),      cmocka_unit_test(test_slots),
        cmocka_unit_test(test_passphrases), cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_split),       cmocka_unit_test(test_iter_time),
        cmocka_unit_test(test_power_cuts),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
