/* SPDX-License-Identifier: MIT */
/* A line of text that stays with an unfinished backup. */
#include <string.h>
#include <unistd.h>

#include "backup/tracker_priv.h"
#include "util/mem.h"

int vd_tracker_note_write(const struct vd_tracker *tracker, const char *text,
                          struct vdisk_error *err)
{
    struct vd_storage_options options = {.flags = VD_STORAGE_WRITE | VD_STORAGE_CREATE};
    struct vd_storage *storage;
    CLEANUP_FREE char *path =
        vd_repository_path(tracker->context.repository, VD_PARTIAL_VERSIONS_NAME, err);
    int ret = path ? vd_storage_open(path, &options, &storage, err) : -ENOMEM;
    if (ret < 0)
        return ret;
    if (*text)
        ret = vd_storage_pwrite(storage, text, strlen(text), 0, err);
    if (ret == 0)
        ret = vd_storage_flush(storage, err);
    vd_storage_close(storage);
    return ret;
}

int vd_tracker_note_read(const struct vd_tracker *tracker, char text[VD_TRACKER_NOTE_BYTES],
                         struct vdisk_error *err)
{
    struct vd_storage *storage;
    uint64_t bytes = 0;
    text[0] = '\0';
    CLEANUP_FREE char *path =
        vd_repository_path(tracker->context.repository, VD_PARTIAL_VERSIONS_NAME, err);
    if (!path)
        return -ENOMEM;
    if (access(path, F_OK) < 0)
        return 0;
    int ret = vd_storage_open(path, NULL, &storage, err);
    if (ret < 0)
        return ret;
    ret = vd_storage_size(storage, &bytes, err);
    if (ret == 0 && bytes && bytes < VD_TRACKER_NOTE_BYTES) {
        ret = vd_storage_pread(storage, text, (size_t)bytes, 0, err);
        text[bytes] = '\0';
    }
    vd_storage_close(storage);
    return ret;
}
