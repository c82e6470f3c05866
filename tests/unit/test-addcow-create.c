/* SPDX-License-Identifier: MIT */
/* New images: which size, which names, and that a raw file never loses anything.  add-cow §7. */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "addcow-fixture.h"

static char directory[] = "/tmp/vdisk-addcow-XXXXXX";

static const char *path_of(const char *name)
{
    static char paths[4][128];
    static unsigned next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof(paths[0]), "%s/%s", directory, name);
    return path;
}

/* A file of @hole bytes that nothing was written to, and then of @bytes of @byte. */
static void make_file(const char *name, uint64_t hole, size_t bytes, uint8_t byte)
{
    char *buf = vt_calloc(bytes + 1, 1);
    memset(buf, byte, bytes);
    int fd = open(path_of(name), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)hole), 0);
    assert_int_equal(pwrite(fd, buf, bytes, (off_t)hole), bytes);
    assert_int_equal(close(fd), 0);
    free(buf);
}

static int64_t length_of(const char *name)
{
    struct stat st;
    return stat(path_of(name), &st) == 0 ? st.st_size : -1;
}

static void remove_all(void)
{
    unlink(path_of("cow"));
    unlink(path_of("raw"));
    unlink(path_of("base"));
}

static int create(const char *backing, uint64_t size, struct vdisk_error *err)
{
    struct vdisk_create_options options = {.struct_bytes = sizeof(options),
                                           .size = size,
                                           .backing = backing,
                                           .backing_format = backing ? "raw" : NULL,
                                           .data_file = "raw"};
    return vdisk_image_create(path_of("cow"), "add-cow", &options, err);
}

static struct vdisk_image *open_cow(uint32_t flags)
{
    static const struct vdisk_gate gate = {.struct_bytes = sizeof(gate),
                                           .flags = VDISK_GATE_BESIDE};
    struct vdisk_open_options options = {
        .struct_bytes = sizeof(options), .flags = flags, .gate = &gate};
    struct vdisk_image *image;
    VT_OK(vdisk_image_open(path_of("cow"), &options, &image, &vt_err));
    return image;
}

static void expect_disk(uint64_t size, uint8_t byte)
{
    struct vdisk_image *image = open_cow(0);
    assert_int_equal(vdisk_image_size(image), size);
    uint8_t *buf = vt_calloc(size + 1, 1);
    VT_OK(vdisk_image_pread(image, buf, size, 0, &vt_err));
    vt_assert_filled(buf, size, byte);
    free(buf);
    VT_OK(vdisk_image_close(image, &vt_err));
}

#define NOT_THERE UINT64_MAX

/* The table of add-cow §7. */
static void test_sizes(void **state)
{
    (void)state;
    static const struct {
        uint64_t data_bytes; /* of STALE in the raw file before */
        uint64_t base_bytes; /* 0: no backing file */
        uint64_t size;       /* asked for */
        int expected;
        uint64_t disk; /* what there is then */
    } table[] = {
        {NOT_THERE, 0, 100000, 0, 100352},
        {NOT_THERE, 0, 0, -EINVAL, 0},
        {NOT_THERE, 70000, 0, 0, 70144},
        {NOT_THERE, 70000, 200704, 0, 200704},
        {NOT_THERE, 70000, 512, 0, 512},
        {0, 70000, 0, 0, 70144},
        {0, 0, 70144, 0, 70144},
        {100000, 70000, 0, 0, 100352},
        {100000, 300000, 0, 0, 100352},
        {100000, 70000, 100352, 0, 100352},
        {100000, 70000, 100000, 0, 100352},
        {100000, 70000, 1u << 20, 0, 1u << 20},
        {100000, 70000, 99840, -EINVAL, 0},
        {100000, 70000, 512, -EINVAL, 0},
        {100000, 0, 0, -EEXIST, 0},
        {100000, 0, 100352, -EEXIST, 0},
        {100000, 0, 1u << 20, -EEXIST, 0},
        {NOT_THERE, 0, (UINT64_C(1) << 56) + 1, -EINVAL, 0},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        bool is_there = table[i].data_bytes != NOT_THERE;
        if (is_there)
            make_file("raw", 0, table[i].data_bytes, STALE);
        if (table[i].base_bytes)
            make_file("base", 0, table[i].base_bytes, 0);
        struct vdisk_error err = {0};
        int ret = create(table[i].base_bytes ? "base" : NULL, table[i].size, &err);
        if (ret != table[i].expected)
            fail_msg("line %zu: %d: %s", i, ret, err.message);
        if (ret == 0) {
            expect_disk(table[i].disk, 0); /* and nothing of what the raw file held */
            if (is_there && vd_round_up(table[i].data_bytes, 512) == table[i].disk)
                assert_int_equal(length_of("raw"), table[i].data_bytes);
            else
                assert_int_equal(length_of("raw"), table[i].disk);
        } else { /* nothing is left behind, and nothing has changed */
            assert_int_equal(length_of("cow"), -1);
            assert_int_equal(length_of("raw"), is_there ? (int64_t)table[i].data_bytes : -1);
        }
        remove_all();
    }
}

/* One hole holds nothing that could be hidden. */
static void test_hole(void **state)
{
    (void)state;
    make_file("raw", 1u << 20, 0, 0);
    VT_OK(create(NULL, 0, &vt_err));
    expect_disk(1u << 20, 0);
    remove_all();
    make_file("raw", 1u << 20, 1, 7);
    VT_FAILS(EEXIST, create(NULL, 0, &vt_err));
    remove_all();
}

/* What the raw file held stays where nothing is written. */
static void test_content_stays(void **state)
{
    (void)state;
    uint8_t byte = 0;
    make_file("raw", 0, 5 * 512, STALE);
    make_file("base", 0, 7 * 512, BASE);
    VT_OK(create("base", 0, &vt_err));
    expect_disk(5 * 512, BASE);
    int fd = open(path_of("raw"), O_RDONLY);
    assert_int_equal(pread(fd, &byte, 1, 5 * 512 - 1), 1);
    assert_int_equal(byte, STALE);
    close(fd);
    remove_all();
}

/* Byte by byte: the header that we write. */
static void test_bytes(void **state)
{
    (void)state;
    static const uint8_t expected[48] = {
        'A', 'D', 'D', '_', 'C', 'O', 'W', 0xFF, 1,   0,   0,   0, 39, 0, 0, 0,
        4,   0,   0,   0,   36,  0,   0,   0,    3,   0,   0,   0, 3,  0, 0, 0,
        0,   0,   0,   0,   'r', 'a', 'w', 'b',  'a', 's', 'e', 0, 0,  0, 0, 0,
    };
    uint8_t head[48];
    make_file("base", 0, 9 * CLUSTER, BASE);
    VT_OK(create("base", 0, &vt_err));
    assert_int_equal(length_of("cow"), 4096 + 2);
    int fd = open(path_of("cow"), O_RDONLY);
    assert_int_equal(pread(fd, head, sizeof(head), 0), sizeof(head));
    close(fd);
    assert_memory_equal(head, expected, sizeof(head));
    remove_all();
}

static int measure(const struct vdisk_create_options *options, uint64_t *bytes,
                   struct vdisk_error *err)
{
    struct vdisk_measure_result result;
    int ret =
        vd_format_measure(vd_format_find("add-cow", NULL), options, options->size, &result, err);
    if (ret == 0)
        assert_int_equal(result.required_bytes, result.fully_allocated_bytes);
    *bytes = ret == 0 ? result.required_bytes : 0;
    return ret;
}

/* Whatever can not be is found before anything is touched. */
static void test_options(void **state)
{
    (void)state;
    char name[5000];
    uint64_t bytes;
    struct vdisk_create_options options = {.struct_bytes = sizeof(options), .data_file = name};
    memset(name, 'n', sizeof(name));
    name[4059] = '\0';
    VT_OK(measure(&options, &bytes, &vt_err));
    assert_int_equal(bytes, 4096);
    name[4059] = 'n';
    name[4060] = '\0';
    VT_FAILS(ENAMETOOLONG, measure(&options, &bytes, &vt_err));
    name[4058] = '\0';
    options.backing = "ab";
    options.backing_format = "raw";
    VT_OK(measure(&options, &bytes, &vt_err));
    options.backing = "abc";
    VT_FAILS(ENAMETOOLONG, measure(&options, &bytes, &vt_err));
    options.data_file = "abc";
    VT_FAILS(EINVAL, measure(&options, &bytes, &vt_err));
    options.data_file = "";
    VT_FAILS(EINVAL, measure(&options, &bytes, &vt_err));
    options.data_file = "raw";
    options.preallocation = VDISK_PREALLOCATION_FALLOC;
    VT_FAILS(EINVAL, measure(&options, &bytes, &vt_err));
    options.preallocation = VDISK_PREALLOCATION_OFF;
    options.cluster_bytes = 4096;
    VT_FAILS(EINVAL, measure(&options, &bytes, &vt_err));
    options.cluster_bytes = 65536;
    options.size = UINT64_C(8) << 30;
    VT_OK(measure(&options, &bytes, &vt_err));
    assert_int_equal(bytes, 4096 + 16384);
    options.table_clusters = 4;
    VT_FAILS(EINVAL, measure(&options, &bytes, &vt_err));
}

/* A device is as long as it is, and may hold anything. */
static void test_fixed_storage(void **state)
{
    (void)state;
    struct vdisk_create_options options = {
        .struct_bytes = sizeof(options), .size = 20 * CLUSTER, .data_file = "raw"};
    const struct vd_format_driver *driver = vd_format_find("add-cow", NULL);
    struct vd_storage *file = filled(8192, 0xFF), *data = filled(0, 0);
    file->caps &= ~(uint32_t)VD_STORAGE_CAN_RESIZE;
    VT_OK(vd_format_create(driver, file, data, &options, &vt_err));
    uint8_t bits[3];
    VT_OK(vd_storage_pread(file, bits, 3, 4096, &vt_err));
    assert_int_equal(bits[0] | bits[1] | bits[2], 0);
    options.size = UINT64_C(40000) * CLUSTER;
    VT_FAILS(ENOSPC, vd_format_create(driver, file, data, &options, &vt_err));
    uint64_t bytes;
    VT_OK(vd_storage_size(data, &bytes, &vt_err));
    assert_int_equal(bytes, 20 * CLUSTER); /* as it was */
    data->caps &= ~(uint32_t)VD_STORAGE_CAN_RESIZE;
    options.size = 21 * CLUSTER;
    VT_FAILS(ENOSPC, vd_format_create(driver, file, data, &options, &vt_err));
    vd_storage_close(file);
    vd_storage_close(data);
}

static int make_directory(void **state)
{
    (void)state;
    return mkdtemp(directory) ? 0 : -1;
}

static int remove_directory(void **state)
{
    (void)state;
    remove_all();
    return rmdir(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),         cmocka_unit_test(test_hole),
        cmocka_unit_test(test_content_stays), cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_options),       cmocka_unit_test(test_fixed_storage),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
