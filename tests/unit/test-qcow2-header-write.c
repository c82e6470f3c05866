/* SPDX-License-Identifier: MIT */
/* The header of qcow2 is rewritten: nothing is lost, and a power cut leaves the old or the new. */
#include <stdio.h>
#include <stdlib.h>

#include "drivers/crash.h"
#include "drivers/random.h"
#include "drivers/trace.h"
#include "format/qcow2/qcow2_header.h"

#include "qcow2-fixture.h"

static void read_header(struct vd_storage *file, struct vd_qcow2_header *header)
{
    VT_OK(vd_qcow2_header_read(file, 0, header, &vt_err));
}

static void set_name(char **name, const char *text)
{
    free(*name);
    *name = text ? strdup(text) : NULL;
    assert_true(!text || *name);
}

static bool same_text(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

/* All but where the name lies, and, unless @with_others, the extensions that may wait. */
static bool is_same(const struct vd_qcow2_header *a, const struct vd_qcow2_header *b,
                    bool with_others)
{
    struct vd_qcow2_fields fields = a->fields;
    fields.backing_offset = b->fields.backing_offset;
    fields.backing_bytes = b->fields.backing_bytes;
    fields.header_bytes = b->fields.header_bytes;
    if (memcmp(&fields, &b->fields, sizeof(fields)) != 0 ||
        !same_text(a->backing_name, b->backing_name) ||
        !same_text(a->backing_format, b->backing_format) || !same_text(a->data_file, b->data_file))
        return false;
    if (a->bitmaps.is_present != b->bitmaps.is_present ||
        a->bitmaps.entries != b->bitmaps.entries ||
        a->bitmaps.directory_offset != b->bitmaps.directory_offset)
        return false;
    if (!with_others)
        return true;
    if (a->other_entries != b->other_entries)
        return false;
    for (size_t i = 0; i < a->other_entries; i++)
        if (a->others[i].type != b->others[i].type || a->others[i].length != b->others[i].length ||
            memcmp(a->others[i].bytes, b->others[i].bytes, a->others[i].length) != 0)
            return false;
    return true;
}

/* The order in which QEMU has them: bitmaps behind the names of features, out of the first sector.
 */
static void put_as_qemu(struct q2_image *image, const char *name, uint32_t features_bytes)
{
    uint8_t bitmaps[24] = {0};
    uint8_t *features = calloc(1, features_bytes);
    uint64_t at = 112;
    assert_non_null(features);
    memset(features, 'x', features_bytes);
    q2_store(bitmaps, 0, 3, 4);
    q2_store(bitmaps, 8, 96, 8);
    q2_store(bitmaps, 16, 4 * image->cluster, 8);
    q2_put(image->file, 88, 1, 8);
    q2_put_extension(image, &at, 0xe2792aca, "qcow2", 5);
    q2_put_extension(image, &at, 0x6803f857, features, features_bytes);
    q2_put_extension(image, &at, 0x23852875, bitmaps, sizeof(bitmaps));
    q2_put_extension(image, &at, 0x12345678, "unknown", 7);
    at += 8;
    if (name)
        q2_put_backing(image, at, name);
    free(features);
}

static void test_same_again(void **state)
{
    (void)state;
    static const uint32_t bits[] = {11, 12, 16, 21};
    for (size_t i = 0; i < 4; i++) {
        for (unsigned has_name = 0; has_name < 2; has_name++) {
            struct q2_image image;
            struct vd_qcow2_header header, again;
            q2_create(&image, &(struct q2_shape){.cluster_bits = bits[i], .size = MIB});
            put_as_qemu(&image, has_name ? "base.qcow2" : NULL, 384);
            read_header(image.file, &header);
            for (unsigned round = 0; round < 3; round++) {
                VT_OK(vd_qcow2_header_write(image.file, &header, &vt_err));
                read_header(image.file, &again);
                assert_true(is_same(&header, &again, true));
                assert_int_equal(again.fields.backing_offset, header.fields.backing_offset);
                vd_qcow2_header_free(&again);
            }
            vd_qcow2_header_free(&header);
            q2_destroy(&image);
        }
    }
}

/* Fields that are not known lie behind those that are. */
static void test_longer_header(void **state)
{
    (void)state;
    struct q2_image image;
    struct vd_qcow2_header header;
    uint8_t bytes[60];
    q2_create(&image, &(struct q2_shape){.size = MIB});
    q2_put(image.file, 100, 160, 4);
    q2_fill(image.file, 105, 55, 0xa5);
    read_header(image.file, &header);
    assert_int_equal(header.rest_bytes, 55);
    set_name(&header.backing_name, "b");
    set_name(&header.backing_format, "raw");
    VT_OK(vd_qcow2_header_write(image.file, &header, &vt_err));
    assert_int_equal(q2_get(image.file, 100, 4), 160);
    VT_OK(vd_storage_pread(image.file, bytes, 55, 105, &vt_err));
    for (size_t i = 0; i < 55; i++)
        assert_int_equal(bytes[i], 0xa5);
    vd_qcow2_header_free(&header);
    q2_destroy(&image);
}

/* What fits is switched by one write of one sector. */
static void test_one_sector(void **state)
{
    (void)state;
    struct q2_image image;
    struct vd_qcow2_header header;
    struct vd_storage *traced;
    q2_create(&image, &(struct q2_shape){.size = MIB});
    VT_OK(vt_trace_open(image.file, VT_BORROW, NULL, &traced, &vt_err));
    read_header(traced, &header);
    set_name(&header.backing_name, "base.qcow2");
    set_name(&header.backing_format, "qcow2");
    header.bitmaps = (struct vd_qcow2_bitmaps_extension){
        .is_present = true, .entries = 1, .directory_bytes = 32, .directory_offset = 0x50000};
    header.fields.autoclear |= VD_QCOW2_BITMAPS;
    vt_trace_reset(traced);
    VT_OK(vd_qcow2_header_write(traced, &header, &vt_err));
    assert_int_equal(vt_trace_count(traced, VT_WRITE), 1);
    assert_int_equal(vt_trace_count(traced, VT_FLUSH), 1);
    assert_true(vt_trace_bytes(traced, VT_WRITE) <= 512);
    header.fields.incompatible |= VD_QCOW2_DIRTY;
    vt_trace_reset(traced);
    VT_OK(vd_qcow2_header_write_fields(traced, &header, &vt_err));
    assert_int_equal(vt_trace_count(traced, VT_WRITE), 1);
    assert_int_equal(vt_trace_count(traced, VT_FLUSH), 0);
    vd_qcow2_header_free(&header);
    read_header(traced, &header);
    assert_int_equal(header.fields.incompatible, VD_QCOW2_DIRTY);
    assert_string_equal(header.backing_name, "base.qcow2");
    vd_qcow2_header_free(&header);
    vd_storage_close(traced);
    q2_destroy(&image);
}

static void test_no_room(void **state)
{
    (void)state;
    struct q2_image image;
    struct vd_qcow2_header header, again;
    uint8_t before[512], after[512];
    char name[1100];
    q2_create(&image, &(struct q2_shape){.cluster_bits = 9, .size = 64 * KIB});
    VT_OK(vd_storage_pread(image.file, before, sizeof(before), 0, &vt_err));
    read_header(image.file, &header);
    memset(name, 'n', sizeof(name));
    name[400] = '\0';
    set_name(&header.backing_name, name); /* 112 + 400 bytes: just not, with the end of the list */
    assert_int_equal(vd_qcow2_header_write(image.file, &header, NULL), -ENOSPC);
    name[392] = '\0';
    set_name(&header.backing_name, name);
    VT_OK(vd_qcow2_header_write(image.file, &header, &vt_err));
    read_header(image.file, &again);
    assert_true(is_same(&header, &again, true));
    vd_qcow2_header_free(&again);
    set_name(&header.backing_name, NULL);
    VT_OK(vd_qcow2_header_write(image.file, &header, &vt_err));
    VT_OK(vd_storage_pread(image.file, after, sizeof(after), 0, &vt_err));
    assert_memory_equal(before, after, sizeof(before));
    memset(name, 'n', sizeof(name));
    name[1024] = '\0';
    set_name(&header.backing_name, name);
    assert_int_equal(vd_qcow2_header_write(image.file, &header, NULL), -ENAMETOOLONG);
    set_name(&header.backing_name, NULL);
    name[420] = '\0';
    set_name(&header.data_file, name);
    assert_int_equal(vd_qcow2_header_write(image.file, &header, NULL), -ENOSPC);
    VT_OK(vd_storage_pread(image.file, after, sizeof(after), 0, &vt_err));
    assert_memory_equal(before, after, sizeof(before));
    vd_qcow2_header_free(&header);
    q2_destroy(&image);
}

/* ---- Power cuts ---- */

struct cuts {
    const struct vd_qcow2_header *old, *next;
    unsigned states;
    uint64_t seed;
};

static void look(void *opaque, struct vd_storage *storage, enum vt_call call)
{
    struct cuts *cuts = opaque;
    (void)call;
    for (int cut = 0; cut < VT_CUTS; cut++) {
        struct vd_storage *state;
        struct vd_qcow2_header header;
        VT_OK(vt_crash_cut(storage, (enum vt_cut)cut, ++cuts->seed, &state, &vt_err));
        read_header(state, &header);
        if (!is_same(&header, cuts->old, false) && !is_same(&header, cuts->next, false))
            fail_msg("state %u after %s is neither", cuts->states, vt_cut_name((enum vt_cut)cut));
        cuts->states++;
        vd_qcow2_header_free(&header);
        vd_storage_close(state);
    }
}

static void random_name(struct vt_random *random, char **name, unsigned most)
{
    char text[1024];
    size_t length = 1 + (size_t)vt_random_below(random, most);
    memset(text, 'a' + (int)vt_random_below(random, 26), length);
    text[length] = '\0';
    set_name(name, vt_random_chance(random, 15) ? NULL : text);
}

static void change(struct vt_random *random, struct vd_qcow2_header *header)
{
    random_name(random, &header->backing_name, vt_random_chance(random, 50) ? 1023 : 60);
    if (header->backing_name)
        set_name(&header->backing_format, vt_random_chance(random, 50) ? "qcow2" : "raw");
    header->bitmaps.is_present = vt_random_chance(random, 50);
    header->bitmaps.entries =
        header->bitmaps.is_present ? 1 + (uint32_t)vt_random_below(random, 9) : 0;
    header->bitmaps.directory_bytes = header->bitmaps.entries * 32;
    header->bitmaps.directory_offset =
        header->bitmaps.is_present ? (1 + vt_random_below(random, 9)) << 16 : 0;
    header->fields.autoclear = header->bitmaps.is_present;
    header->fields.compatible = vt_random_next(random);
    if (header->other_entries > 1 && vt_random_chance(random, 30)) {
        header->other_entries--;
        free(header->others[header->other_entries].bytes);
    }
}

/* Each state has the old or the new: name, format, bitmaps and fields that belong together. */
static void test_cuts(void **state)
{
    (void)state;
    struct vt_random random = {3};
    unsigned states = 0, refused = 0;
    for (unsigned round = 0; round < VT_ROUNDS(60); round++) {
        struct q2_image image;
        struct vd_storage *crash;
        struct vd_qcow2_header header, old;
        char name[300];
        uint32_t bits = 11 + (uint32_t)vt_random_below(&random, 6);
        q2_create(&image, &(struct q2_shape){.cluster_bits = bits, .size = MIB});
        memset(name, 'n', sizeof(name));
        name[vt_random_below(&random, 300)] = '\0';
        name[299] = '\0';
        put_as_qemu(&image, name, 48 * (uint32_t)(1 + vt_random_below(&random, 9)));
        VT_OK(vt_crash_open(vt_snap_pages(image.file), &crash, &vt_err));
        struct cuts cuts = {.seed = round * UINT64_C(1000003)};
        read_header(crash, &header);
        for (unsigned i = 0; i < 6; i++) {
            VT_OK(vd_qcow2_header_copy(&header, &old, &vt_err));
            change(&random, &header);
            cuts.old = &old;
            cuts.next = &header;
            vt_crash_set_hook(crash, look, &cuts);
            int ret = vd_qcow2_header_write(crash, &header, NULL);
            vt_crash_set_hook(crash, NULL, NULL);
            assert_true(ret == 0 || ret == -ENOSPC);
            refused += ret != 0;
            vd_qcow2_header_free(ret ? &header : &old);
            if (ret)
                header = old;
            look(&(struct cuts){.old = &header, .next = &header}, crash, VT_FLUSH);
        }
        struct vd_qcow2_header again;
        read_header(crash, &again);
        assert_true(is_same(&header, &again, true));
        vd_qcow2_header_free(&again);
        vd_qcow2_header_free(&header);
        states += cuts.states;
        vd_storage_close(crash);
        q2_destroy(&image);
    }
    printf("# %u states, %u changes refused for lack of room\n", states, refused);
    assert_true(states > VT_ROUNDS(1000));
    assert_true(refused < 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_again), cmocka_unit_test(test_longer_header),
        cmocka_unit_test(test_one_sector), cmocka_unit_test(test_no_room),
        cmocka_unit_test(test_cuts),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
