/* SPDX-License-Identifier: MIT */
/*
 * Chains of images in files, with a plain array for what each of them should show.
 *
 * Random, from a seed that is printed.  VDISK_TEST_SEED sets it, VDISK_TEST_ROUNDS the count of
 * random rounds.
 */
#ifndef CHAIN_FIXTURE_H
#define CHAIN_FIXTURE_H

#include "drivers/alloc.h"
#include "drivers/check.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "drivers/random.h"
#include "image/image.h"
#include "util/mem.h"

#define DISK_BYTES_MAX ((size_t)8 << 20)
#define SIZE_BYTES_MAX ((size_t)3 << 20) /* of random disks, if the test does not say */
#define LEVELS_MAX     32u
#define NAME_BYTES     512u

/* An image, and what it shows: zeros behind the end of its disk. */
struct level {
    char file[32]; /* within the directory */
    char path[NAME_BYTES];
    const char *format;
    size_t size;
    uint8_t *bytes; /* DISK_BYTES_MAX */
};

struct chain {
    struct vt_random random;
    char directory[64];
    size_t size_max;                 /* of random disks, in bytes */
    struct level levels[LEVELS_MAX]; /* from the base up */
    unsigned level_entries;
};

static const struct vdisk_gate beside = {.struct_bytes = sizeof(beside),
                                         .flags = VDISK_GATE_BESIDE};

static inline uint64_t below(struct chain *chain, uint64_t limit)
{
    return vt_random_below(&chain->random, limit);
}

/* The path of a file of the directory; eight are good at a time. */
static inline const char *path_of(const struct chain *chain, const char *file)
{
    static char paths[8][NAME_BYTES];
    static unsigned next;
    char *path = paths[next++ % 8];
    snprintf(path, NAME_BYTES, "%s/%s", chain->directory, file);
    return path;
}

/* ---- Making ---- */

static inline void chain_init(struct chain *chain, uint64_t seed)
{
    *chain = (struct chain){.random = {.state = seed}, .size_max = SIZE_BYTES_MAX};
    const char *folder = getenv("TMPDIR");
    snprintf(chain->directory, sizeof(chain->directory), "%s/vdisk-chain-XXXXXX",
             folder && strlen(folder) < 40 ? folder : "/tmp");
    assert_non_null(mkdtemp(chain->directory));
}

static inline void chain_destroy(struct chain *chain)
{
    DIR *folder = opendir(chain->directory);
    assert_non_null(folder);
    for (struct dirent *entry; (entry = readdir(folder));)
        if (entry->d_name[0] != '.')
            unlink(path_of(chain, entry->d_name));
    closedir(folder);
    assert_int_equal(rmdir(chain->directory), 0);
    for (unsigned i = 0; i < chain->level_entries; i++)
        free(chain->levels[i].bytes);
    *chain = (struct chain){0};
}

static inline struct vdisk_image *level_open(const struct level *level, uint32_t flags)
{
    struct vdisk_open_options open = {
        .struct_bytes = sizeof(open), .flags = flags, .format = level->format, .gate = &beside};
    struct vdisk_image *image;
    VT_OK(vdisk_image_open(level->path, &open, &image, &vt_err));
    return image;
}

/* Data, or zeros, somewhere; at bytes of any number. */
static inline void write_somewhere(struct chain *chain, struct level *level,
                                   struct vdisk_image *image)
{
    size_t offset = (size_t)below(chain, level->size);
    size_t length = 1 + (size_t)below(chain, UINT64_C(1) << (4 + below(chain, 16)));
    length = length < level->size - offset ? length : level->size - offset;
    if (vt_random_chance(&chain->random, 25)) {
        offset = offset / 512 * 512;
        memset(level->bytes + offset, 0, length);
        VT_OK(vdisk_image_write_zeroes(image, offset, length, 0, &vt_err));
        return;
    }
    if (vt_random_chance(&chain->random, 85))
        vt_random_fill(&chain->random, level->bytes + offset, length);
    else
        memset(level->bytes + offset, 0, length);
    VT_OK(vdisk_image_pwrite(image, level->bytes + offset, length, offset, &vt_err));
}

static inline void level_scribble(struct chain *chain, struct level *level, unsigned writes)
{
    struct vdisk_image *image = level_open(level, VDISK_OPEN_WRITE);
    while (writes--)
        write_somewhere(chain, level, image);
    VT_OK(vdisk_image_close(image, &vt_err));
}

/* Nothing but data. */
static inline void level_fill(struct chain *chain, struct level *level)
{
    struct vdisk_image *image = level_open(level, VDISK_OPEN_WRITE);
    vt_random_fill(&chain->random, level->bytes, level->size);
    VT_OK(vdisk_image_pwrite(image, level->bytes, level->size, 0, &vt_err));
    VT_OK(vdisk_image_close(image, &vt_err));
}

static inline size_t random_size(struct chain *chain)
{
    return 512 * (1 + (size_t)below(chain, chain->size_max / 512 - 1));
}

/* It has got another name. */
static inline void level_rename(const struct chain *chain, struct level *level, const char *file)
{
    snprintf(level->file, sizeof(level->file), "%s", file);
    snprintf(level->path, sizeof(level->path), "%s", path_of(chain, file));
}

/* An image with nothing of its own in it; @backing: NULL for none, else it shows its content. */
static inline struct level *chain_add(struct chain *chain, const char *file, const char *format,
                                      const struct level *backing, size_t size)
{
    assert_true(chain->level_entries < LEVELS_MAX);
    struct level *level = &chain->levels[chain->level_entries++];
    *level = (struct level){.format = format, .size = size};
    level_rename(chain, level, file);
    level->bytes = vt_calloc(DISK_BYTES_MAX, 1);
    if (backing)
        memcpy(level->bytes, backing->bytes, size < backing->size ? size : backing->size);

    char raw[48];
    snprintf(raw, sizeof(raw), "%s.raw", file);
    struct vdisk_create_options create = {.struct_bytes = sizeof(create), .size = size};
    if (backing) {
        create.backing = backing->file;
        create.backing_format = backing->format;
    }
    if (strcmp(format, "add-cow") == 0)
        create.data_file = raw;
    if (strcmp(format, "qed") == 0) {
        create.cluster_bytes = 4096u << (2 * below(chain, 3));
        create.table_clusters = 1u << below(chain, 3);
    }
    VT_OK(vdisk_image_create(path_of(chain, file), format, &create, &vt_err));
    return level;
}

static inline const char *random_overlay(struct chain *chain)
{
    static const char *const formats[] = {"qed", "add-cow"};
    return formats[below(chain, 2)];
}

static inline const char *random_base(struct chain *chain)
{
    static const char *const formats[] = {"raw", "gow3", "qed"};
    return formats[below(chain, 3)];
}

/* "base", and on it "mid", and on it "top", all with something in them. */
static inline void chain_make(struct chain *chain)
{
    struct level *base = chain_add(chain, "base", random_base(chain), NULL, random_size(chain));
    level_scribble(chain, base, 12);
    struct level *mid = chain_add(chain, "mid", random_overlay(chain), base, random_size(chain));
    level_scribble(chain, mid, 8);
    struct level *top = chain_add(chain, "top", random_overlay(chain), mid, random_size(chain));
    level_scribble(chain, top, 8);
}

/* Nobody needs @entries images from @first on any more. */
static inline void chain_drop(struct chain *chain, unsigned first, unsigned entries)
{
    struct level *gone = &chain->levels[first];
    for (unsigned i = 0; i < entries; i++) {
        assert_int_equal(unlink(gone[i].path), 0);
        free(gone[i].bytes);
    }
    chain->level_entries -= entries;
    memmove(gone, gone + entries, (chain->level_entries - first) * sizeof(*gone));
}

/* What @base shows after a commit has brought it all of @top. */
static inline void level_give(struct level *base, const struct level *top)
{
    memcpy(base->bytes, top->bytes, top->size);
    if (base->size < top->size)
        base->size = top->size;
}

/* ---- Looking ---- */

static inline void image_shows(struct vdisk_image *image, const uint8_t *bytes, size_t size)
{
    uint8_t *read = vt_calloc(size ? size : 1, 1);
    assert_int_equal(vdisk_image_size(image), size);
    VT_OK(vdisk_image_pread(image, read, size, 0, &vt_err));
    bool is_same = memcmp(read, bytes, size) == 0;
    for (size_t i = 0; i < size && !is_same; i++) {
        if (read[i] != bytes[i]) {
            print_error("%s: byte %zu of %zu is %u and should be %u\n",
                        vd_storage_name(vd_format_file(vd_image_format(image))), i, size, read[i],
                        bytes[i]);
            fail();
        }
    }
    free(read);
}

/* The image shows what it should, and its metadata is sound. */
static inline void level_check(const struct level *level)
{
    struct vdisk_image *image = level_open(level, 0);
    image_shows(image, level->bytes, level->size);
    VT_OK(vdisk_image_close(image, &vt_err));
    if (strcmp(level->format, "raw") == 0)
        return;
    struct vdisk_check_result result = {.struct_bytes = sizeof(result)};
    image = level_open(level, VDISK_OPEN_CHECK | VDISK_OPEN_NO_BACKING);
    VT_OK(vdisk_image_check(image, VDISK_REPAIR_NONE, NULL, NULL, &result, &vt_err));
    assert_int_equal(result.corruptions, 0);
    assert_int_equal(result.leaks, 0);
    assert_int_equal(result.check_errors, 0);
    VT_OK(vdisk_image_close(image, &vt_err));
}

/* The backing file that is recorded is @file, or none if it is NULL. */
static inline void level_names(const struct level *level, const char *file)
{
    struct vdisk_image_info info = {.struct_bytes = sizeof(info)};
    struct vdisk_image *image = level_open(level, VDISK_OPEN_NO_BACKING);
    VT_OK(vdisk_image_info(image, &info, &vt_err));
    if (file)
        assert_string_equal(info.backing_name, file);
    else
        assert_null(info.backing_name);
    VT_OK(vdisk_image_close(image, &vt_err));
}

/* Bytes of the disk that the image itself holds, by its word. */
static inline uint64_t level_holds(const struct level *level)
{
    struct vdisk_image *image = level_open(level, 0);
    uint64_t held = 0;
    for (uint64_t at = 0; at < level->size;) {
        struct vdisk_extent extent;
        VT_OK(vdisk_image_extent(image, at, level->size - at, &extent, &vt_err));
        if (extent.depth == 0 && (extent.flags & VDISK_EXTENT_PRESENT))
            held += extent.length;
        at += extent.length;
    }
    VT_OK(vdisk_image_close(image, &vt_err));
    return held;
}

/* ---- The frame of a test ---- */

/* A vdisk_progress_fn that cancels the call after so many. */
static inline int cancel_after(void *opaque, const struct vdisk_progress *progress)
{
    unsigned *calls = opaque;
    (void)progress;
    return (*calls)-- == 0;
}

static inline unsigned test_rounds(unsigned usual)
{
    const char *wanted = getenv("VDISK_TEST_ROUNDS");
    return wanted ? (unsigned)strtoul(wanted, NULL, 0) : usual;
}

static inline uint64_t test_seed(void)
{
    const char *wanted = getenv("VDISK_TEST_SEED");
    return wanted ? strtoull(wanted, NULL, 0) : (uint64_t)time(NULL);
}

#endif
