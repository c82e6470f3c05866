/* SPDX-License-Identifier: MIT */
#include "real-sync.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "drivers/alloc.h"
#include "drivers/check.h"
#include "vdisk.h"

#define PART_BYTES (1u << 20)

static void path_of(const struct vt_real_sync *sync, const char *name, char *path, size_t room)
{
    snprintf(path, room, "%s/%s", sync->folder, name);
}

/* Holes stay holes. */
static void copy(struct vd_storage *from, const char *path)
{
    struct vd_storage_options options = {.flags = VD_STORAGE_WRITE | VD_STORAGE_CREATE};
    struct vd_storage *to;
    uint8_t *buf = vt_calloc(1, PART_BYTES);
    uint64_t size;
    VT_OK(vd_storage_size(from, &size, &vt_err));
    VT_OK(vd_storage_open(path, &options, &to, &vt_err));
    VT_OK(vd_storage_resize(to, size, &vt_err));
    for (uint64_t at = 0; at < size;) {
        struct vd_storage_extent extent;
        VT_OK(
            vd_storage_extent(from, vd_range(at, vd_min(size - at, PART_BYTES)), &extent, &vt_err));
        if (extent.kind == VD_STORAGE_DATA) {
            VT_OK(vd_storage_pread(from, buf, extent.length, at, &vt_err));
            VT_OK(vd_storage_pwrite(to, buf, extent.length, at, &vt_err));
        }
        at += extent.length;
    }
    vd_storage_close(to);
    free(buf);
}

static int sync_file(struct vt_real_sync *sync, struct vd_storage *master, const char *name,
                     struct vdisk_error *err)
{
    char source[300], replica[300];
    path_of(sync, "master", source, sizeof(source));
    path_of(sync, name, replica, sizeof(replica));
    copy(master, source);
    struct vdisk_sync_options options = {
        .struct_bytes = sizeof(options), .source = source, .replica = replica};
    return vdisk_sync(&options, NULL, err);
}

void vt_real_sync_begin(struct vt_real_sync *sync, struct vd_storage *master)
{
    const char *base = getenv("TMPDIR");
    if (!base) /* memory is faster than a disk that flushes for real */
        base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(sync->folder, sizeof(sync->folder), "%s/vdisk-crash-XXXXXX", base);
    assert_non_null(mkdtemp(sync->folder));
    VT_OK(sync_file(sync, master, "first", &vt_err));
}

void vt_real_sync_end(struct vt_real_sync *sync)
{
    static const char *const names[] = {"master", "first", "replica"};
    if (!sync->folder[0])
        return;
    for (size_t i = 0; i < 3; i++) {
        char path[300];
        path_of(sync, names[i], path, sizeof(path));
        unlink(path);
    }
    rmdir(sync->folder);
}

int vt_real_sync_again(struct vt_real_sync *sync, struct vd_storage *master,
                       struct vdisk_image **replica, struct vdisk_error *err)
{
    char first[300], path[300];
    struct vd_storage *before;
    path_of(sync, "first", first, sizeof(first));
    path_of(sync, "replica", path, sizeof(path));
    unlink(path);
    VT_OK(vd_storage_open(first, NULL, &before, &vt_err));
    copy(before, path);
    vd_storage_close(before);

    int ret = sync_file(sync, master, "replica", err);
    struct vdisk_open_options options = {.struct_bytes = sizeof(options), .format = "gow3"};
    return ret < 0 ? ret : vdisk_image_open(path, &options, replica, err);
}
