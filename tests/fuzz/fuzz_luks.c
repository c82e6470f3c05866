/* SPDX-License-Identifier: MIT */
/*
 * Any bytes as a LUKS header: read, and unlocked if that is not much work.
 *
 *     bytes 0-3  length of the area, modulo 3 MiB
 *     the rest   what it begins with; zeros behind that
 *
 * What holds for any input: nothing outside the area is read, a header that was accepted has its
 * key material within it, and it encodes to what it was decoded from.
 */
#include <stdio.h>
#include <stdlib.h>

#include "format/luks.h"
#include "input.h"

#define AREA_OFFSET    512u
#define AREA_BYTES_MAX (UINT32_C(3) << 20)
#define WORK_MAX       20000u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);

static void insist(bool holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "%s\n", what);
    abort();
}

static void check_places(const struct vd_luks_area *area, const struct vd_luks *luks)
{
    for (unsigned i = 0; i < LUKS_SLOTS; i++) {
        uint64_t end = luks->slots[i].key_offset + vd_luks_material_bytes(luks, &luks->slots[i]);
        insist(end <= area->range.length, "key material outside of the area");
    }
    insist(vd_luks_work(luks) <= VD_LUKS_WORK_MAX, "unlocking takes too much work");
}

static void check_encoding(const struct vd_luks_area *area, const struct vd_luks *luks)
{
    struct luks_disk_header disk;
    struct vd_luks again;
    vd_luks_encode(luks, &disk);
    insist(vd_storage_pwrite(area->file, &disk, sizeof(disk), AREA_OFFSET, NULL) == 0, "a write");
    insist(vd_luks_read(area, &again, NULL) == 0, "what was encoded is not accepted");
    insist(again.key_bytes == luks->key_bytes && again.hash == luks->hash &&
               again.spec.mode == luks->spec.mode && again.spec.algorithm == luks->spec.algorithm,
           "what was encoded is something else");
}

static void look(struct vd_storage *file, uint64_t area_bytes)
{
    const struct vd_luks_area area = {file, vd_range(AREA_OFFSET, area_bytes)};
    struct vd_cipher *cipher = NULL;
    struct vd_luks luks;
    if (vd_luks_read(&area, &luks, NULL) < 0)
        return;
    check_places(&area, &luks);
    if (vd_luks_work(&luks) <= WORK_MAX &&
        vd_luks_open(&area, &luks, (struct vd_crypt_bytes){"secret", 6}, &cipher, NULL) == 0)
        vd_cipher_free(cipher);
    check_encoding(&area, &luks);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    struct input in = {.data = data, .left = length};
    struct vd_storage *file;
    uint64_t area_bytes = input_take(&in, 4) % AREA_BYTES_MAX;
    if (vd_storage_mem_open(AREA_OFFSET + area_bytes, &file, NULL) < 0)
        return 0;
    size_t bytes = (size_t)vd_min(in.left, area_bytes);
    if (bytes == 0 || vd_storage_pwrite(file, in.data, bytes, AREA_OFFSET, NULL) == 0)
        look(file, area_bytes);
    vd_storage_close(file);
    return 0;
}
