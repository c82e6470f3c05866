/* SPDX-License-Identifier: MIT */
#include "image/encrypted.h"

#include <assert.h>

#include "util/iov.h"
#include "util/mem.h"

#define SECTOR VD_CIPHER_SECTOR_BYTES

/* So much goes through a buffer at a time. */
#define PIECE_BYTES (UINT64_C(1) << 20)

/* Offsets of the mapping are of mapping->guest.offset; the sector may begin before that. */
static uint64_t host_of(const struct vd_mapping *mapping, uint64_t guest)
{
    return mapping->host_offset - mapping->guest.offset + guest;
}

static uint64_t cipher_of(const struct vd_mapping *mapping, uint64_t guest)
{
    return mapping->cipher_offset - mapping->guest.offset + guest;
}

static bool has_whole_sectors(struct vd_range guest, const struct iovec *iov, int iov_entries)
{
    bool is_whole = vd_is_aligned(guest.offset | guest.length, SECTOR);
    for (int i = 0; i < iov_entries && is_whole; i++)
        is_whole = vd_is_aligned(iov[i].iov_len, SECTOR);
    return is_whole;
}

/* Whole sectors, to buffers of whole sectors: decrypted where they are. */
static int read_whole(const struct vd_mapping *mapping, struct vd_range guest,
                      const struct iovec *iov, int iov_entries, struct vdisk_error *err)
{
    int ret =
        vd_storage_preadv(mapping->storage, iov, iov_entries, host_of(mapping, guest.offset), err);
    uint64_t at = cipher_of(mapping, guest.offset);
    for (int i = 0; i < iov_entries && ret == 0; i++) {
        ret = vd_cipher_decrypt(mapping->cipher, at, iov[i].iov_base, iov[i].iov_len, err);
        at += iov[i].iov_len;
    }
    return ret;
}

int vd_encrypted_read(const struct vd_mapping *mapping, struct vd_range guest,
                      const struct iovec *iov, int iov_entries, struct vdisk_error *err)
{
    if (has_whole_sectors(guest, iov, iov_entries))
        return read_whole(mapping, guest, iov, iov_entries, err);
    struct vd_range rest = vd_encrypted_sectors(guest);
    size_t buffer_bytes = (size_t)vd_min(rest.length, PIECE_BYTES);
    CLEANUP_FREE uint8_t *buffer = vd_alloc_io(buffer_bytes);
    if (!buffer)
        return vd_err_nomem(err, "an encrypted request");
    int ret = 0;
    size_t done = 0; /* of the buffers */
    while (rest.length && ret == 0) {
        struct vd_range piece = vd_range(rest.offset, vd_min(rest.length, buffer_bytes));
        struct iovec one = {.iov_base = buffer, .iov_len = (size_t)piece.length};
        uint64_t from = vd_max(piece.offset, guest.offset);
        uint64_t to = vd_min(vd_range_end(piece), vd_range_end(guest));
        ret = read_whole(mapping, piece, &one, 1, err);
        if (ret == 0)
            vd_iov_from_buffer(iov, done, buffer + (from - piece.offset), (size_t)(to - from));
        done += (size_t)(to - from);
        rest = vd_range(rest.offset + piece.length, rest.length - piece.length);
    }
    return ret;
}

int vd_encrypted_write(const struct vd_mapping *mapping, struct vd_range guest,
                       const struct vd_plaintext *plaintext, struct vdisk_error *err)
{
    size_t buffer_bytes = (size_t)vd_min(guest.length, PIECE_BYTES);
    assert(vd_is_aligned(guest.offset | guest.length, SECTOR));
    CLEANUP_FREE uint8_t *buffer = vd_alloc_io(buffer_bytes);
    if (!buffer)
        return vd_err_nomem(err, "an encrypted request");
    int ret = 0;
    while (guest.length && ret == 0) {
        struct vd_range piece = vd_range(guest.offset, vd_min(guest.length, buffer_bytes));
        ret = plaintext->get(plaintext->opaque, piece, buffer, err);
        if (ret == 0)
            ret = vd_cipher_encrypt(mapping->cipher, cipher_of(mapping, piece.offset), buffer,
                                    (size_t)piece.length, err);
        if (ret == 0)
            ret = vd_storage_pwrite(mapping->storage, buffer, (size_t)piece.length,
                                    host_of(mapping, piece.offset), err);
        guest = vd_range(guest.offset + piece.length, guest.length - piece.length);
    }
    return ret;
}
