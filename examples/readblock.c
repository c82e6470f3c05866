/* SPDX-License-Identifier: MIT */
/*
 * Says what a disk image is, and prints the first bytes of its disk:
 *
 *     cc readblock.c $(pkg-config --cflags --libs vdisk) -o readblock && ./readblock disk.gow
 */
#include <inttypes.h>
#include <stdio.h>
#include <vdisk.h>

int main(int argc, char **argv)
{
    struct vdisk_error err = {0, ""};
    struct vdisk_image *image = NULL;
    unsigned char block[16];

    if (argc != 2) {
        fprintf(stderr, "usage: readblock IMAGE\n");
        return 1;
    }
    if (vdisk_image_open(argv[1], NULL, &image, &err) < 0) {
        fprintf(stderr, "readblock: %s\n", err.message);
        return 1;
    }
    int ret = vdisk_image_pread(image, block, sizeof(block), 0, &err);
    if (ret == 0) {
        printf("%" PRIu64 " bytes:", vdisk_image_size(image));
        for (size_t i = 0; i < sizeof(block); i++)
            printf(" %02x", block[i]);
        printf("\n");
    } else {
        fprintf(stderr, "readblock: %s\n", err.message);
    }
    vdisk_image_close(image, NULL);
    return ret < 0;
}
