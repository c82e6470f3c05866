/* SPDX-License-Identifier: MIT */
/*
 * The space of a file: holes, zeros without writing them, setting aside, size.
 *
 * Whatever makes a file longer here does so by calls that can not make it shorter, since other
 * threads may be writing behind the end meanwhile; only vd_file_resize() truncates.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "storage/file_priv.h"

#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif

/* So far behind the end, punching a byte tells whether holes can be made, and makes none. */
#define FAR_BYTES (1ull << 32)

/*
 * -EOPNOTSUPP, remembered as @missing, if the file system does not have it.  Some refuse one range
 * with EINVAL and take another: that is not remembered.
 */
static int space_call(struct file *file, enum file_missing missing, int mode, struct vd_range range,
                      const char *what, struct vdisk_error *err)
{
    if (atomic_load(&file->missing) & missing)
        return -EOPNOTSUPP;
    /* A device takes whole blocks only; the rest is written. */
    if (!vd_is_aligned(range.offset | range.length, file->block_bytes))
        return -EOPNOTSUPP;
    int ret;
    do
        ret = fallocate(file->fd, mode, (off_t)range.offset, (off_t)range.length);
    while (ret < 0 && errno == EINTR);
    if (ret == 0)
        return 0;
    if (errno == EINVAL)
        return -EOPNOTSUPP;
    if (errno != EOPNOTSUPP && errno != ENOSYS)
        return vd_err_errno(err, errno, "%s %" PRIu64 " bytes at offset %" PRIu64, what,
                            range.length, range.offset);
    atomic_fetch_or(&file->missing, missing);
    return -EOPNOTSUPP;
}

static int punch(struct file *file, struct vd_range range, struct vdisk_error *err)
{
    return space_call(file, FILE_NO_PUNCH, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, range,
                      "making a hole of", err);
}

static int set_aside(struct file *file, struct vd_range range, struct vdisk_error *err)
{
    return space_call(file, FILE_NO_ALLOCATE, 0, range, "setting aside", err);
}

/* Zeros that keep or get space, growing the file if need be. */
static int zero_in_place(struct file *file, struct vd_range range, struct vdisk_error *err)
{
    /* A device refuses the mode that could grow a file. */
    int mode = FALLOC_FL_ZERO_RANGE | (file->is_block ? FALLOC_FL_KEEP_SIZE : 0);
    int ret = space_call(file, FILE_NO_ZERO_RANGE, mode, range, "zeroing", err);
    if (ret != -EOPNOTSUPP || file->is_block ||
        (atomic_load(&file->missing) & (FILE_NO_PUNCH | FILE_NO_ALLOCATE)))
        return ret;
    ret = punch(file, range, err);
    return ret < 0 ? ret : set_aside(file, range, err);
}

/*
 * Makes the file at least @size long.  With direct I/O no byte can be written, but there align.c
 * lets nobody else grow the file meanwhile, so that truncating is safe.
 */
static int grow_to(struct vd_storage *storage, uint64_t size, struct vdisk_error *err)
{
    const struct file *file = storage->state;
    uint64_t present;
    int ret = vd_file_size(storage, &present, err);
    if (ret < 0 || present >= size)
        return ret;
    if (storage->align_bytes > 1)
        return vd_file_resize(storage, size, err);
    ssize_t put;
    do
        put = pwrite(file->fd, "", 1, (off_t)(size - 1));
    while (put < 0 && errno == EINTR);
    if (put != 1)
        return vd_err_errno(err, put < 0 ? errno : EIO, "growing it to %" PRIu64 " bytes", size);
    return 0;
}

static int check_device_end(struct vd_storage *storage, struct vd_range range,
                            struct vdisk_error *err)
{
    const struct file *file = storage->state;
    uint64_t size;
    if (!file->is_block)
        return 0;
    int ret = vd_file_size(storage, &size, err);
    if (ret < 0 || vd_range_is_within(range, size))
        return ret;
    return vd_err_set(err, ENOSPC,
                      "zeroing %" PRIu64 " bytes at offset %" PRIu64 ": the device has %" PRIu64
                      " bytes",
                      range.length, range.offset, size);
}

int vd_file_write_zeroes(struct vd_storage *storage, struct vd_range range, unsigned flags,
                         struct vdisk_error *err)
{
    struct file *file = storage->state;
    int ret = check_device_end(storage, range, err);
    if (ret < 0)
        return ret;
    ret = -EOPNOTSUPP;
    if (flags & VD_STORAGE_ZERO_MAY_PUNCH)
        ret = punch(file, range, err);
    if (ret == -EOPNOTSUPP)
        ret = zero_in_place(file, range, err);
    if (ret == 0)
        ret = grow_to(storage, vd_range_end(range), err);
    return ret < 0 ? ret : vd_file_settle(storage, err);
}

int vd_file_discard(struct vd_storage *storage, struct vd_range range, struct vdisk_error *err)
{
    int ret = punch(storage->state, range, err);
    return ret < 0 ? ret : vd_file_settle(storage, err);
}

int vd_file_preallocate(struct vd_storage *storage, struct vd_range range, struct vdisk_error *err)
{
    struct file *file = storage->state;
    if (file->is_block)
        return -EOPNOTSUPP;
    int ret = set_aside(file, range, err);
    return ret < 0 ? ret : vd_file_settle(storage, err);
}

int vd_file_resize(struct vd_storage *storage, uint64_t size, struct vdisk_error *err)
{
    const struct file *file = storage->state;
    if (file->is_block)
        return vd_err_set(err, EOPNOTSUPP, "a block device can not be resized");
    int ret;
    do
        ret = ftruncate(file->fd, (off_t)size);
    while (ret < 0 && errno == EINTR);
    if (ret < 0)
        return vd_err_errno(err, errno, "can not resize it to %" PRIu64 " bytes", size);
    return vd_file_settle(storage, err);
}

int vd_file_allocated(struct vd_storage *storage, uint64_t *bytes, struct vdisk_error *err)
{
    const struct file *file = storage->state;
    struct stat st;
    if (file->is_block)
        return vd_file_size(storage, bytes, err);
    if (fstat(file->fd, &st) < 0)
        return vd_err_errno(err, errno, "can not read how much space it takes");
    *bytes = (uint64_t)st.st_blocks * 512; /* the unit of st_blocks, whatever st_blksize says */
    return 0;
}

/* Is range.offset in the known run? */
static bool run_has(struct file *file, struct vd_range range, struct vd_storage_extent *extent)
{
    struct file_run *known = &file->known;
    if (!file->is_constant)
        return false;
    vd_mutex_lock(&known->lock);
    bool is_in = range.offset >= known->range.offset && range.offset < vd_range_end(known->range);
    if (is_in) {
        uint64_t left = vd_range_end(known->range) - range.offset;
        *extent =
            (struct vd_storage_extent){.kind = known->kind, .length = vd_min(range.length, left)};
    }
    vd_mutex_unlock(&known->lock);
    return is_in;
}

/* The run from range.offset on ends at @end, which is behind that. */
static void run_found(struct file *file, struct vd_range range, enum vd_storage_extent_kind kind,
                      uint64_t end, struct vd_storage_extent *extent)
{
    struct vd_range run = vd_range(range.offset, end - range.offset);
    *extent = (struct vd_storage_extent){.kind = kind, .length = vd_min(range.length, run.length)};
    if (!file->is_constant)
        return;
    vd_mutex_lock(&file->known.lock);
    file->known.range = run;
    file->known.kind = kind;
    vd_mutex_unlock(&file->known.lock);
}

int vd_file_extent(struct vd_storage *storage, struct vd_range range,
                   struct vd_storage_extent *extent, struct vdisk_error *err)
{
    (void)err;
    struct file *file = storage->state;
    *extent = (struct vd_storage_extent){.kind = VD_STORAGE_DATA, .length = range.length};
    if (file->is_block || (atomic_load(&file->missing) & FILE_NO_EXTENTS) ||
        run_has(file, range, extent))
        return 0;

    off_t offset = (off_t)range.offset;
    off_t data = lseek(file->fd, offset, SEEK_DATA);
    if (data < 0 && errno == ENXIO) { /* none up to the end */
        extent->kind = VD_STORAGE_HOLE;
        return 0;
    }
    if (data < 0) { /* "Data" is always a right answer. */
        atomic_fetch_or(&file->missing, FILE_NO_EXTENTS);
        return 0;
    }
    if (data > offset) {
        run_found(file, range, VD_STORAGE_HOLE, (uint64_t)data, extent);
        return 0;
    }
    off_t hole = lseek(file->fd, offset, SEEK_HOLE);
    if (hole > offset)
        run_found(file, range, VD_STORAGE_DATA, (uint64_t)hole, extent);
    return 0;
}

/* Can the queue of this device zero without being sent the zeros? */
static bool device_zeroes(const struct file *file)
{
    static const char *const places[] = {"queue", "../queue"}; /* a disk, a partition */
    struct stat st;
    if (fstat(file->fd, &st) < 0)
        return false;
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        char path[96];
        unsigned long long limit = 0;
        snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%s/write_zeroes_max_bytes",
                 major(st.st_rdev), minor(st.st_rdev), places[i]);
        FILE *attribute = fopen(path, "re");
        if (!attribute)
            continue;
        int fields = fscanf(attribute, "%llu", &limit);
        fclose(attribute);
        return fields == 1 && limit > 0;
    }
    return false;
}

/* Asking by punching a byte past the end would touch the time stamps of some: ask the unknown ones
 * only. */
static bool file_punches(struct file *file)
{
    struct statfs fs;
    struct stat st;
    if (fstatfs(file->fd, &fs) == 0)
        switch ((unsigned long)fs.f_type) {
        case EXT4_SUPER_MAGIC:
        case XFS_SUPER_MAGIC:
        case BTRFS_SUPER_MAGIC:
        case F2FS_SUPER_MAGIC:
        case TMPFS_MAGIC:
            return true;
        default:
            break;
        }
    return fstat(file->fd, &st) == 0 &&
           punch(file, vd_range((uint64_t)st.st_size + FAR_BYTES, 1), NULL) == 0;
}

uint32_t vd_file_space_caps(struct file *file, bool writable)
{
    uint32_t caps = file->is_block ? 0 : VD_STORAGE_CAN_EXTENTS;
    if (!file->is_block && lseek(file->fd, 0, SEEK_DATA) < 0 && errno != ENXIO)
        caps = 0;
    if (!writable)
        return caps;
    caps |= VD_STORAGE_CAN_WRITE;
    if (!file->is_block)
        caps |= VD_STORAGE_CAN_RESIZE;
    if (file->is_block ? device_zeroes(file) : file_punches(file))
        caps |= VD_STORAGE_CAN_DISCARD | VD_STORAGE_FAST_ZEROES;
    return caps;
}
