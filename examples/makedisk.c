/* SPDX-License-Identifier: MIT */
/*
 * Makes a disk image of 1 GiB and writes a line of text to the start of the disk:
 *
 *     cc makedisk.c $(pkg-config --cflags --libs vdisk) -o makedisk && ./makedisk disk.gow gow3
 * hello
 */
#include <stdio.h>
#include <string.h>
#include <vdisk.h>

static int make(const char *name, const char *format, const char *text, struct vdisk_error *err)
{
    struct vdisk_create_options create;
    memset(&create, 0, sizeof(create));
    create.struct_bytes = sizeof(create);
    create.size = 1024 * 1024 * 1024;
    int ret = vdisk_image_create(name, format, &create, err);
    if (ret < 0)
        return ret;

    struct vdisk_open_options open;
    memset(&open, 0, sizeof(open));
    open.struct_bytes = sizeof(open);
    open.flags = VDISK_OPEN_WRITE;
    open.format = format;
    struct vdisk_image *image = NULL;
    ret = vdisk_image_open(name, &open, &image, err);
    if (ret < 0)
        return ret;

    ret = vdisk_image_pwrite(image, text, strlen(text), 0, err);

    /* Only a close that returned 0 promises that the text is on the disk. */
    int closed = vdisk_image_close(image, err);
    return ret < 0 ? ret : closed;
}

int main(int argc, char **argv)
{
    struct vdisk_error err = {0, ""};

    if (argc != 4) {
        fprintf(stderr, "usage: makedisk IMAGE FORMAT TEXT\n");
        return 1;
    }
    if (make(argv[1], argv[2], argv[3], &err) < 0) {
        fprintf(stderr, "makedisk: %s\n", err.message);
        return 1;
    }
    return 0;
}
