/* SPDX-License-Identifier: MIT */
#include "format-subject.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "drivers/alloc.h"
#include "drivers/check.h"
#include "drivers/fault.h"
#include "util/endian.h"

/* Where the block versions lie in a GOW v3 file: docs/formats/gow.md. */
#define GOW3_VERSIONS_OFFSET (64u + 256u + 4u * (1u << 22))

const char *vt_place_name(enum vt_place place)
{
    static const char *const names[VT_PLACES] = {[VT_PLACE_MEM] = "mem",
                                                 [VT_PLACE_KEEP] = "keep",
                                                 [VT_PLACE_FILE] = "file",
                                                 [VT_PLACE_DIRECT] = "direct"};
    return names[place];
}

static void make_folder(char *folder, size_t room)
{
    const char *base = getenv("TMPDIR");
    snprintf(folder, room, "%s/vdisk-format-XXXXXX", base ? base : "/tmp");
    assert_non_null(mkdtemp(folder));
}

bool vt_place_works(enum vt_place place)
{
    char folder[128], path[160];
    if (place != VT_PLACE_DIRECT)
        return true;
    make_folder(folder, sizeof(folder));
    snprintf(path, sizeof(path), "%s/file", folder);
    int fd = open(path, O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);
    unlink(path);
    rmdir(folder);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

/* The memory stays when what is opened here is closed. */
static int open_mem(void *opaque, unsigned file, bool writable, struct vd_storage **storage,
                    struct vdisk_error *err)
{
    const struct vt_subject *subject = opaque;
    int ret = vt_fault_open(subject->mem[file], VT_BORROW, storage, err);
    if (ret < 0)
        return ret;
    if (!writable)
        (*storage)->flags &= ~(uint32_t)VD_STORAGE_WRITE;
    if (subject->place == VT_PLACE_KEEP) {
        (*storage)->caps &= ~(uint32_t)VD_STORAGE_CAN_DISCARD;
        vt_fault_set(*storage, (struct vt_fault_plan){.calls = VT_CALL_BIT(VT_DISCARD),
                                                      .nth = 1,
                                                      .error = EOPNOTSUPP,
                                                      .forever = true});
    }
    return 0;
}

static bool is_in_memory(const struct vt_subject *subject)
{
    return subject->place == VT_PLACE_MEM || subject->place == VT_PLACE_KEEP;
}

void vt_subject_create(struct vt_subject *subject, const struct vt_stack *stack,
                       enum vt_place place, const struct vd_range *windows, unsigned window_entries)
{
    *subject = (struct vt_subject){.stack = *stack, .place = place};
    if (is_in_memory(subject)) {
        struct vt_stack_files files = {.open = open_mem, .opaque = subject};
        for (unsigned i = 0; i < stack->file_entries; i++)
            VT_OK(vd_storage_mem_open(0, &subject->mem[i], &vt_err));
        vt_stack_create_on(stack, &files, windows, window_entries);
    } else {
        make_folder(subject->folder, sizeof(subject->folder));
        vt_stack_create_in(stack, subject->folder, windows, window_entries);
    }
}

void vt_subject_destroy(struct vt_subject *subject)
{
    for (unsigned i = 0; i < subject->stack.file_entries; i++) {
        char path[160];
        vd_storage_close(subject->mem[i]);
        if (is_in_memory(subject))
            continue;
        snprintf(path, sizeof(path), "%s/%s", subject->folder,
                 vt_stack_file_name(&subject->stack, i));
        unlink(path);
    }
    if (!is_in_memory(subject))
        rmdir(subject->folder);
}

struct vdisk_image *vt_subject_open(struct vt_subject *subject, uint32_t flags)
{
    struct vdisk_image *image = NULL;
    if (is_in_memory(subject)) {
        struct vt_stack_files files = {.open = open_mem, .opaque = subject};
        VT_OK(vt_stack_open_on(&subject->stack, &files, flags, &image, &vt_err));
    } else {
        if (subject->place == VT_PLACE_DIRECT)
            flags |= VDISK_OPEN_DIRECT;
        VT_OK(vt_stack_open_in(&subject->stack, subject->folder, flags, &image, &vt_err));
    }
    return image;
}

struct vdisk_image *vt_subject_open_snapshot(struct vt_subject *subject, const char *name)
{
    struct vt_stack_files files = {.open = open_mem, .opaque = subject};
    struct vdisk_image *image = NULL;
    assert_true(is_in_memory(subject));
    VT_OK(vt_stack_open_snapshot_on(&subject->stack, &files, name, &image, &vt_err));
    return image;
}

static void print_finding(void *opaque, const char *message)
{
    (void)opaque;
    print_message("# check: %s\n", message);
}

void vt_subject_expect_sound(struct vt_subject *subject)
{
    struct vdisk_image *image = vt_subject_open(subject, VDISK_OPEN_CHECK);
    struct vdisk_image_info info = {.struct_bytes = sizeof(info)};
    VT_OK(vdisk_image_info(image, &info, &vt_err));
    assert_false(info.flags & VDISK_INFO_DIRTY);

    struct vdisk_check_result result = {.struct_bytes = sizeof(result)};
    const char *format = subject->stack.levels[0].format;
    if (strcmp(format, "raw") != 0) {
        VT_OK(vdisk_image_check(image, VDISK_REPAIR_NONE, print_finding, NULL, &result, &vt_err));
        assert_int_equal(result.corruptions, 0);
        /* There freed blocks of GOW can not give their space back. */
        if (subject->place != VT_PLACE_KEEP || strncmp(format, "gow", 3) != 0)
            assert_int_equal(result.leaks, 0);
        assert_int_equal(result.check_errors, 0);
    } else {
        VT_FAILS(ENOTSUP, vdisk_image_check(image, VDISK_REPAIR_NONE, print_finding, NULL, &result,
                                            &vt_err));
    }
    VT_OK(vdisk_image_close(image, &vt_err));
}

void vt_subject_versions(struct vt_subject *subject, uint64_t first, uint32_t entries,
                         uint32_t *versions)
{
    struct vd_storage *file = subject->mem[0];
    struct le32 *raw = vt_calloc(entries, sizeof(*raw));
    if (!file) {
        char path[160];
        snprintf(path, sizeof(path), "%s/%s", subject->folder,
                 vt_stack_file_name(&subject->stack, 0));
        VT_OK(vd_storage_open(path, NULL, &file, &vt_err));
    }
    VT_OK(vd_storage_pread(file, raw, entries * sizeof(*raw), GOW3_VERSIONS_OFFSET + first * 4,
                           &vt_err));
    if (file != subject->mem[0])
        vd_storage_close(file);
    for (uint32_t i = 0; i < entries; i++)
        versions[i] = le32_get(raw[i]);
    free(raw);
}
