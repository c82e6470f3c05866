/* SPDX-License-Identifier: MIT */
/*
 * The storage contract for memory and local files: buffered, direct, and on whatever folder
 * VD_TEST_DIRS names besides (colon-separated; the folders must be there).
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "drivers/alloc.h"
#include "drivers/check.h"
#include "storage.h"

#define FACTORIES_MAX 32

struct place {
    struct vt_storage_factory factory;
    uint32_t flags; /* of enum vd_storage_open_flag, to open with */
    char path[512];
    char name[640];
};

static struct vd_storage *make_mem(struct vt_storage_factory *factory, const uint8_t *content,
                                   size_t bytes)
{
    (void)factory;
    struct vd_storage *storage = NULL;
    VT_OK(vd_storage_mem_open(bytes, &storage, &vt_err));
    VT_OK(vd_storage_pwrite(storage, content, bytes, 0, &vt_err));
    return storage;
}

static struct vd_storage *open_file(struct vt_storage_factory *factory, bool writable)
{
    const struct place *place = factory->state;
    struct vd_storage_options options = {.flags = place->flags | (writable ? VD_STORAGE_WRITE : 0)};
    struct vd_storage *storage = NULL;
    VT_OK(vd_storage_open(place->path, &options, &storage, &vt_err));
    return storage;
}

static struct vd_storage *make_file(struct vt_storage_factory *factory, const uint8_t *content,
                                    size_t bytes)
{
    const struct place *place = factory->state;
    struct vd_storage_options options = {.flags =
                                             place->flags | VD_STORAGE_WRITE | VD_STORAGE_CREATE};
    struct vd_storage *storage = NULL;
    unlink(place->path);
    VT_OK(vd_storage_open(place->path, &options, &storage, &vt_err));
    VT_OK(vd_storage_pwrite(storage, content, bytes, 0, &vt_err));
    return storage;
}

static void destroy_file(struct vt_storage_factory *factory)
{
    const struct place *place = factory->state;
    unlink(place->path);
}

static bool direct_works(const char *folder)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/vdisk-direct-%d", folder, (int)getpid());
    int fd = open(path, O_CREAT | O_RDWR | O_DIRECT | O_CLOEXEC, 0600);
    unlink(path);
    if (fd < 0)
        return false;
    close(fd);
    return true;
}

static void add(struct vt_storage_factory **list, size_t *count, const char *folder,
                const char *kind, uint32_t flags)
{
    if (*count == FACTORIES_MAX)
        return;
    struct place *place = vt_calloc(1, sizeof(*place));
    place->flags = flags;
    snprintf(place->path, sizeof(place->path), "%s/vdisk-storage-%d-%zu", folder, (int)getpid(),
             *count);
    snprintf(place->name, sizeof(place->name), "%s in %s", kind, folder);
    place->factory = (struct vt_storage_factory){.name = place->name,
                                                 .state = place,
                                                 .make = make_file,
                                                 .reopen = open_file,
                                                 .destroy = destroy_file};
    list[(*count)++] = &place->factory;
}

static void add_folder(struct vt_storage_factory **list, size_t *count, const char *folder)
{
    add(list, count, folder, "file", 0);
    add(list, count, folder, "synchronous file", VD_STORAGE_SYNC | VD_STORAGE_SEQUENTIAL);
    if (direct_works(folder))
        add(list, count, folder, "direct file", VD_STORAGE_DIRECT);
    else
        print_message("# no direct I/O in %s\n", folder);
}

int main(void)
{
    static struct vt_storage_factory mem = {.name = "mem", .make = make_mem};
    struct vt_storage_factory *list[FACTORIES_MAX] = {&mem};
    size_t count = 1;
    const char *folder = getenv("TMPDIR");
    add_folder(list, &count, folder ? folder : "/tmp");

    const char *more = getenv("VD_TEST_DIRS");
    char *folders = more ? strdup(more) : NULL;
    char *rest = folders;
    while (rest && *rest)
        add_folder(list, &count, strsep(&rest, ":"));
    int failed = vt_storage_contract(list, count);

    for (size_t i = 1; i < count; i++)
        free(list[i]->state);
    free(folders);
    return failed;
}
