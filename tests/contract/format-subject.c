/* SPDX-License-Identifier: MIT */
#include "format-subject.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "drivers/alloc.h"
#include "drivers/check.h"
#include "drivers/fault.h"
#include "format/format.h"
#include "image/image.h"
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

bool vt_format_is_gow(const char *format)
{
    return strncmp(format, "gow", 3) == 0;
}

static void make_path(char *path, size_t room)
{
    const char *folder = getenv("TMPDIR");
    snprintf(path, room, "%s/vdisk-format-XXXXXX", folder ? folder : "/tmp");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
}

bool vt_place_works(enum vt_place place)
{
    char path[256];
    if (place != VT_PLACE_DIRECT)
        return true;
    make_path(path, sizeof(path));
    int fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
    unlink(path);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

void vt_subject_create(struct vt_subject *subject, const char *format, enum vt_place place,
                       uint64_t size)
{
    struct vdisk_create_options options = {.struct_bytes = sizeof(options), .size = size};
    *subject = (struct vt_subject){.format = format, .place = place};
    if (place == VT_PLACE_MEM || place == VT_PLACE_KEEP) {
        struct vdisk_error err = {0};
        const struct vd_format_driver *driver = vd_format_find(format, &err);
        assert_non_null(driver);
        VT_OK(vd_storage_mem_open(0, &subject->mem, &vt_err));
        VT_OK(vd_format_create(driver, subject->mem, NULL, &options, &vt_err));
    } else {
        make_path(subject->path, sizeof(subject->path));
        VT_OK(vdisk_image_create(subject->path, format, &options, &vt_err));
    }
}

void vt_subject_destroy(struct vt_subject *subject)
{
    vd_storage_close(subject->mem);
    if (subject->path[0])
        unlink(subject->path);
}

struct vdisk_image *vt_subject_open(struct vt_subject *subject, uint32_t flags)
{
    struct vdisk_open_options options = {
        .struct_bytes = sizeof(options), .flags = flags, .format = subject->format};
    struct vdisk_image *image = NULL;
    if (subject->mem) {
        struct vd_storage *borrowed;
        VT_OK(vt_fault_open(subject->mem, VT_BORROW, &borrowed, &vt_err));
        if (subject->place == VT_PLACE_KEEP) {
            borrowed->caps &= ~(uint32_t)VD_STORAGE_CAN_DISCARD;
            vt_fault_set(borrowed, (struct vt_fault_plan){.calls = VT_CALL_BIT(VT_DISCARD),
                                                          .nth = 1,
                                                          .error = EOPNOTSUPP,
                                                          .forever = true});
        }
        VT_OK(vd_image_open_on(borrowed, &options, &image, &vt_err));
    } else {
        if (subject->place == VT_PLACE_DIRECT)
            options.flags |= VDISK_OPEN_DIRECT;
        VT_OK(vdisk_image_open(subject->path, &options, &image, &vt_err));
    }
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
    if (vt_format_is_gow(subject->format)) {
        VT_OK(vdisk_image_check(image, VDISK_REPAIR_NONE, print_finding, NULL, &result, &vt_err));
        assert_int_equal(result.corruptions, 0);
        if (subject->place != VT_PLACE_KEEP) /* there freed blocks can not give their space back */
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
    struct vd_storage *file = subject->mem;
    struct le32 *raw = vt_calloc(entries, sizeof(*raw));
    if (!file)
        VT_OK(vd_storage_open(subject->path, NULL, &file, &vt_err));
    VT_OK(vd_storage_pread(file, raw, entries * sizeof(*raw), GOW3_VERSIONS_OFFSET + first * 4,
                           &vt_err));
    if (file != subject->mem)
        vd_storage_close(file);
    for (uint32_t i = 0; i < entries; i++)
        versions[i] = le32_get(raw[i]);
    free(raw);
}
