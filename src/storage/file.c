/* SPDX-License-Identifier: MIT */
/*
 * Storage in a local file or block device.  Opening is in file_open.c, locks in file_lock.c, bytes
 * in file_io.c, durability in file_flush.c, holes and size in file_space.c, copies in file_copy.c,
 * the page cache in file_cache.c.
 */
#include "storage/file.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "storage/file_priv.h"

static int file_open(struct vd_storage *storage, const char *name,
                     const struct vd_storage_options *options, struct vdisk_error *err)
{
    struct file *file = calloc(1, sizeof(*file));
    if (!file)
        return vd_err_nomem(err, "a file");
    struct file_opened opened;
    int ret = vd_file_open_fd(name, options->flags, &opened, err);
    if (ret < 0) {
        free(file);
        return ret;
    }
    file->fd = opened.fd;
    file->is_block = opened.is_block;
    file->block_bytes = opened.block_bytes;
    file->is_direct = (options->flags & VD_STORAGE_DIRECT) != 0;
    file->is_constant = !(options->flags & (VD_STORAGE_WRITE | VD_STORAGE_SHARE));
    file->is_sync = (options->flags & VD_STORAGE_SYNC) != 0;
    file->keeps_cache_small = (options->flags & VD_STORAGE_SEQUENTIAL) && !file->is_direct;
    file->sync.is_new = opened.is_new;
    file->sync.parent_fd = opened.parent_fd;
    vd_mutex_init(&file->known.lock);
    vd_mutex_init(&file->sync.lock);
    vd_cond_init(&file->sync.changed);
    if (file->keeps_cache_small)
        posix_fadvise(file->fd, 0, 0, POSIX_FADV_SEQUENTIAL);

    vd_file_try_init(file);
    storage->state = file;
    storage->align_bytes = opened.align_bytes;
    storage->identity = opened.identity;
    storage->caps = vd_file_space_caps(file, (options->flags & VD_STORAGE_WRITE) != 0);
    return 0;
}

static void file_close(struct vd_storage *storage)
{
    struct file *file = storage->state;
    vd_cond_destroy(&file->sync.changed);
    vd_mutex_destroy(&file->sync.lock);
    vd_mutex_destroy(&file->known.lock);
    if (file->sync.parent_fd >= 0)
        close(file->sync.parent_fd);
    close(file->fd);
    free(file);
}

const struct vd_storage_driver vd_storage_file_driver = {
    .name = "file",
    .open = file_open,
    .close = file_close,
    .identify = vd_file_identify,
    .size = vd_file_size,
    .allocated = vd_file_allocated,
    .preadv = vd_file_preadv,
    .pwritev = vd_file_pwritev,
    .try_pread = vd_file_try_pread,
    .try_pwrite = vd_file_try_pwrite,
    .write_zeroes = vd_file_write_zeroes,
    .discard = vd_file_discard,
    .flush = vd_file_flush,
    .resize = vd_file_resize,
    .preallocate = vd_file_preallocate,
    .extent = vd_file_extent,
    .copy = vd_file_copy,
    .can_copy = vd_file_can_copy,
    .write_behind = vd_file_write_behind,
};
