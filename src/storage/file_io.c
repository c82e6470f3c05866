/* SPDX-License-Identifier: MIT */
/* The bytes of a file: reading and writing them, and how many there are. */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "storage/file_priv.h"
#include "util/iov.h"

/* Entries of the list that is made when a transfer stops in the middle of a buffer. */
#define PART_ENTRIES 64

/* Direct reads of a part of a unit, not at the end of the file, before that is an error. */
#define ODD_READS_MAX 1000u

/* What is left of a request. */
struct rest {
    const struct iovec *iov;
    int iov_entries;
    size_t skip; /* bytes of the first buffer that are done */
    size_t left;
    uint64_t offset;
};

/* Moves on by @done bytes, and to a buffer that has room if any byte is left. */
static void rest_advance(struct rest *rest, size_t done)
{
    rest->left -= done;
    rest->offset += done;
    rest->skip += done;
    while (rest->left && rest->skip >= rest->iov->iov_len) {
        rest->skip -= rest->iov->iov_len;
        rest->iov++;
        rest->iov_entries--;
    }
}

static struct rest rest_of(const struct iovec *iov, int iov_entries, uint64_t offset)
{
    struct rest rest = {.iov = iov,
                        .iov_entries = iov_entries,
                        .left = vd_iov_length(iov, iov_entries),
                        .offset = offset};
    rest_advance(&rest, 0);
    return rest;
}

/* The list to hand to the kernel: the caller's, or @part when its first buffer is begun. */
static const struct iovec *rest_list(const struct rest *rest, struct iovec part[PART_ENTRIES],
                                     int *entries)
{
    if (rest->skip == 0) {
        *entries = rest->iov_entries < IOV_MAX ? rest->iov_entries : IOV_MAX;
        return rest->iov;
    }
    *entries = rest->iov_entries < PART_ENTRIES ? rest->iov_entries : PART_ENTRIES;
    memcpy(part, rest->iov, (size_t)*entries * sizeof(*part));
    part[0].iov_base = (uint8_t *)part[0].iov_base + rest->skip;
    part[0].iov_len -= rest->skip;
    return part;
}

int vd_file_size(struct vd_storage *storage, uint64_t *size, struct vdisk_error *err)
{
    const struct file *file = storage->state;
    if (file->is_block) {
        if (ioctl(file->fd, BLKGETSIZE64, size) < 0)
            return vd_err_errno(err, errno, "can not read the size of the device");
        return 0;
    }
    struct stat st;
    if (fstat(file->fd, &st) < 0)
        return vd_err_errno(err, errno, "can not read its size");
    *size = (uint64_t)st.st_size;
    return 0;
}

/*
 * Direct I/O gave @got bytes, which is no whole number of units.  At the end of the file the rest
 * of the unit is zeros; anywhere else only the whole units count.
 * Returns the bytes that are good now, 0 if that is none, or a negative errno.
 */
static int64_t whole_units(struct vd_storage *storage, const struct rest *rest, size_t got,
                           struct vdisk_error *err)
{
    uint64_t size;
    int ret = vd_file_size(storage, &size, err);
    if (ret < 0)
        return ret;
    if (rest->offset + got != size)
        return (int64_t)vd_round_down(got, storage->align_bytes);
    struct rest tail = *rest;
    rest_advance(&tail, got);
    size_t missing = (size_t)vd_round_up(got, storage->align_bytes) - got;
    memset((uint8_t *)tail.iov->iov_base + tail.skip, 0, missing);
    return (int64_t)(got + missing);
}

int vd_file_preadv(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                   uint64_t offset, struct vdisk_error *err)
{
    struct file *file = storage->state;
    struct rest rest = rest_of(iov, iov_entries, offset);
    size_t length = rest.left;
    unsigned odd_reads = 0;

    while (rest.left) {
        struct iovec part[PART_ENTRIES];
        int entries;
        const struct iovec *list = rest_list(&rest, part, &entries);
        ssize_t got = preadv(file->fd, list, entries, (off_t)rest.offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return vd_err_errno(err, errno, "reading %zu bytes at offset %" PRIu64, length, offset);
        if (got == 0)
            return vd_err_set(err, EIO,
                              "reading %zu bytes at offset %" PRIu64
                              ": it ends at or before offset %" PRIu64,
                              length, offset, rest.offset);
        int64_t good = got;
        if (!vd_is_aligned((uint64_t)got, storage->align_bytes)) {
            good = whole_units(storage, &rest, (size_t)got, err);
            if (good < 0)
                return (int)good;
            /* The end moved meanwhile: look again, within reason. */
            if (good == 0 && ++odd_reads == ODD_READS_MAX)
                return vd_err_set(err, EIO,
                                  "direct read at offset %" PRIu64 " gave %zd bytes of a unit of "
                                  "%" PRIu32,
                                  rest.offset, got, storage->align_bytes);
        }
        rest_advance(&rest, (size_t)good);
    }
    if (file->keeps_cache_small)
        vd_file_read_behind(file, offset + length);
    return 0;
}

int vd_file_pwritev(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                    uint64_t offset, struct vdisk_error *err)
{
    struct file *file = storage->state;
    struct rest rest = rest_of(iov, iov_entries, offset);
    size_t length = rest.left;

    while (rest.left) {
        struct iovec part[PART_ENTRIES];
        int entries;
        const struct iovec *list = rest_list(&rest, part, &entries);
        ssize_t put = pwritev(file->fd, list, entries, (off_t)rest.offset);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0) {
            int code = errno;
            if (code == EIO && file->is_sync)
                vd_file_note_lost_write(file, code);
            return vd_err_errno(err, code, "writing %zu bytes at offset %" PRIu64, length, offset);
        }
        /* A unit that was begun is written again: the same bytes. */
        size_t good = (size_t)vd_round_down((uint64_t)put, storage->align_bytes);
        if (good == 0)
            return vd_err_set(err, EIO,
                              "writing %zu bytes at offset %" PRIu64 ": only %zd bytes of a unit "
                              "of %" PRIu32 " were taken at offset %" PRIu64,
                              length, offset, put, storage->align_bytes, rest.offset);
        rest_advance(&rest, good);
    }
    return 0;
}
