/* SPDX-License-Identifier: MIT */
/* Digests of bytes, and tables of them. */
#include "util/digest.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>
#include <xxhash.h>

#include "util/mem.h"
#include "util/range.h"
#include "util/sha256.h"

#define XXH128_BYTES 16u

_Static_assert(sizeof(XXH128_canonical_t) == XXH128_BYTES, "the canonical form is the bytes");

static const struct {
    enum vd_digest_kind kind;
    size_t bytes;
    const char *name;
} kinds[] = {
    {VD_DIGEST_XXH128, XXH128_BYTES, "xxh128"},
    {VD_DIGEST_SHA256, VD_SHA256_BYTES, "sha256"},
};

#define KIND_ENTRIES (sizeof(kinds) / sizeof(kinds[0]))

size_t vd_digest_bytes(enum vd_digest_kind kind)
{
    assert(kind == VD_DIGEST_XXH128 || kind == VD_DIGEST_SHA256);
    return kinds[kind - 1].bytes;
}

const char *vd_digest_name(enum vd_digest_kind kind)
{
    assert(kind == VD_DIGEST_XXH128 || kind == VD_DIGEST_SHA256);
    return kinds[kind - 1].name;
}

enum vd_digest_kind vd_digest_find(const char *name)
{
    for (size_t i = 0; i < KIND_ENTRIES; i++)
        if (strcmp(name, kinds[i].name) == 0)
            return kinds[i].kind;
    return (enum vd_digest_kind)0;
}

static void write_xxh128(XXH128_hash_t hash, uint8_t *digest)
{
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, hash);
    memcpy(digest, canonical.digest, XXH128_BYTES);
}

int vd_digest(enum vd_digest_kind kind, const void *data, size_t length, uint8_t *digest,
              struct vdisk_error *err)
{
    if (kind == VD_DIGEST_SHA256)
        return vd_sha256(data, length, digest, err);
    assert(kind == VD_DIGEST_XXH128);
    write_xxh128(XXH3_128bits(data, length), digest);
    return 0;
}

int vd_digest_begin(struct vd_digest_run *run, enum vd_digest_kind kind, struct vdisk_error *err)
{
    *run = (struct vd_digest_run){.kind = kind};
    if (kind == VD_DIGEST_SHA256)
        return vd_sha256_begin(&run->state, err);
    assert(kind == VD_DIGEST_XXH128);
    run->state = XXH3_createState();
    if (!run->state || XXH3_128bits_reset(run->state) != XXH_OK) {
        vd_digest_cancel(run);
        return vd_err_nomem(err, "a digest");
    }
    return 0;
}

int vd_digest_add(struct vd_digest_run *run, const void *data, size_t length,
                  struct vdisk_error *err)
{
    if (run->kind == VD_DIGEST_SHA256)
        return vd_sha256_add(run->state, data, length, err);
    if (XXH3_128bits_update(run->state, data, length) != XXH_OK)
        return vd_err_set(err, EIO, "xxh128: the library refuses its input");
    return 0;
}

void vd_digest_end(struct vd_digest_run *run, uint8_t *digest)
{
    if (run->kind == VD_DIGEST_SHA256) {
        vd_sha256_end(run->state, digest);
    } else {
        write_xxh128(XXH3_128bits_digest(run->state), digest);
        XXH3_freeState(run->state);
    }
    run->state = NULL;
}

void vd_digest_cancel(struct vd_digest_run *run)
{
    if (!run->state)
        return;
    if (run->kind == VD_DIGEST_SHA256)
        vd_sha256_end(run->state, NULL);
    else
        XXH3_freeState(run->state);
    run->state = NULL;
}

void vd_hex_write(const uint8_t *bytes, size_t length, char *text)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < length; i++) {
        *text++ = digits[bytes[i] >> 4];
        *text++ = digits[bytes[i] & 15];
    }
    *text = '\0';
}

/* -1: it is none. */
static int digit_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

bool vd_hex_read(const char *text, uint8_t *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        int high = digit_value(*text);
        int low = high < 0 ? -1 : digit_value(text[1]);
        if (low < 0)
            return false;
        bytes[i] = (uint8_t)(high << 4 | low);
        text += 2;
    }
    return *text == '\0';
}

int vd_digest_table_init(struct vd_digest_table *table, enum vd_digest_kind kind,
                         uint32_t extent_bytes, uint64_t file_bytes, struct vdisk_error *err)
{
    assert(extent_bytes >= VD_DIGEST_EXTENT_BYTES_MIN &&
           extent_bytes <= VD_DIGEST_EXTENT_BYTES_MAX &&
           vd_is_aligned(extent_bytes, VD_DIGEST_EXTENT_BYTES_MIN) &&
           (extent_bytes & (extent_bytes - 1)) == 0);
    *table = (struct vd_digest_table){
        .kind = kind,
        .extent_bytes = extent_bytes,
        .file_bytes = file_bytes,
        .entries = vd_div_up(file_bytes, extent_bytes),
    };
    if (table->entries <= SIZE_MAX / VD_DIGEST_BYTES_MAX)
        table->digests = vd_alloc_array((size_t)table->entries, vd_digest_bytes(kind));
    if (!table->digests) {
        uint64_t entries = table->entries;
        *table = (struct vd_digest_table){0};
        return vd_err_set(err, ENOMEM, "out of memory for the digests of %" PRIu64 " extents",
                          entries);
    }
    return 0;
}

void vd_digest_table_free(struct vd_digest_table *table)
{
    free(table->digests);
    *table = (struct vd_digest_table){0};
}
