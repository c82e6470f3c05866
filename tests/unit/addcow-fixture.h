/* SPDX-License-Identifier: MIT */
/*
 * add-cow images in memory: the file "cow", the raw file "raw", and behind them the raw image
 * "base".  Their power can be cut, their calls can fail, and what is done to them is in one log.
 */
#ifndef ADDCOW_FIXTURE_H
#define ADDCOW_FIXTURE_H

#include <stdio.h>
#include <string.h>

#include "drivers/alloc.h"
#include "drivers/check.h"
#include "drivers/crash.h"
#include "drivers/fault.h"
#include "drivers/random.h"
#include "drivers/snap.h"
#include "format/addcow/addcow_geometry.h"
#include "format/driver.h"
#include "image/chain.h"

#define KIB     UINT64_C(1024)
#define MIB     (UINT64_C(1) << 20)
#define CLUSTER ((uint64_t)VD_ADDCOW_CLUSTER_BYTES)

/* Distinct bytes, so that it shows where one comes from. */
#define STALE 0xEE /* what the raw file holds under clear bits */
#define BASE  0xBB

enum which {
    COW,
    RAW,
    BACKING,
    FILES
};

struct fixture;

struct hook {
    struct fixture *fix;
    enum which which;
};

struct fixture {
    struct vd_storage *stores[FILES]; /* the content between opens; NULL: it is not there */
    struct vd_storage *open[FILES];   /* over them, as the image has them open */
    struct vdisk_image *image;        /* NULL: closed */
    struct hook hooks[FILES];
    char log[8192];                       /* "Rw Rf Cw Cf ": which file, which call */
    void (*at_call)(struct fixture *fix); /* before each of them; or NULL */
};

static inline void fixture_hook(void *opaque, struct vd_storage *storage, enum vt_call call)
{
    struct hook *hook = opaque;
    static const char letters[FILES] = {[COW] = 'C', [RAW] = 'R', [BACKING] = 'B'};
    (void)storage;
    size_t used = strlen(hook->fix->log);
    assert_true(used + 4 < sizeof(hook->fix->log));
    snprintf(hook->fix->log + used, 4, "%c%c ", letters[hook->which], vt_call_name(call)[0]);
    if (hook->fix->at_call)
        hook->fix->at_call(hook->fix);
}

/* The content of @from becomes durable content of @which. */
static inline void fixture_put(struct fixture *fix, enum which which, struct vd_storage *from)
{
    vd_storage_close(fix->stores[which]);
    VT_OK(vt_crash_open(vt_snap_pages(from), &fix->stores[which], &vt_err));
    fix->hooks[which] = (struct hook){.fix = fix, .which = which};
    vt_crash_set_hook(fix->stores[which], fixture_hook, &fix->hooks[which]);
    vd_storage_close(from);
}

/* @size bytes of @byte.  0: a hole. */
static inline struct vd_storage *filled(uint64_t size, uint8_t byte)
{
    struct vd_storage *file;
    uint8_t buf[4096];
    VT_OK(vt_snap_open(size, &file, &vt_err));
    memset(buf, byte, sizeof(buf));
    for (uint64_t at = 0; byte && at < size; at += sizeof(buf))
        VT_OK(vd_storage_pwrite(file, buf, (size_t)vd_min(sizeof(buf), size - at), at, &vt_err));
    return file;
}

/* A v10 header with names "raw" and, if @has_backing, "base" (raw), as bytes, not by our encoder.
 */
static inline struct vd_storage *v10_header(bool has_backing)
{
    static const uint8_t head[] = {
        'A', 'D', 'D', '_', 'C', 'O', 'W', 0xFF, /* magic */
        1,   0,   0,   0,                        /* version */
        39,  0,   0,   0,   4,   0,   0,   0,    /* backing file: offset, size */
        36,  0,   0,   0,   3,   0,   0,   0,    /* image file */
        3,   0,   0,   0,   0,   0,   0,   0,    /* features */
        'r', 'a', 'w', 'b', 'a', 's', 'e',
    };
    static const uint8_t none[8] = {0};
    struct vd_storage *file;
    VT_OK(vt_snap_open(4096, &file, &vt_err));
    VT_OK(vd_storage_pwrite(file, head, sizeof(head), 0, &vt_err));
    if (!has_backing) {
        VT_OK(vd_storage_pwrite(file, none, 8, 12, &vt_err));
        VT_OK(vd_storage_pwrite(file, none, 8, 28, &vt_err));
        VT_OK(vd_storage_pwrite(file, none, 4, 39, &vt_err));
    }
    return file;
}

/*
 * An image of @size bytes whose raw file is full of STALE; over a base of @base_bytes of BASE, or
 * of none if that is 0.  Its bitmap is clear.
 */
static inline void fixture_init(struct fixture *fix, uint64_t size, uint64_t base_bytes)
{
    uint64_t clusters = vd_addcow_clusters(size, VD_ADDCOW_CLUSTER_BITS);
    struct vd_storage *cow = v10_header(base_bytes > 0);
    memset(fix, 0, sizeof(*fix));
    VT_OK(vd_storage_resize(cow, 4096 + vd_addcow_bitmap_bytes(clusters), &vt_err));
    fixture_put(fix, COW, cow);
    fixture_put(fix, RAW, filled(size, STALE));
    if (base_bytes)
        fixture_put(fix, BACKING, filled(base_bytes, BASE));
}

static inline int fixture_open_file(void *opaque, const char *bearer, const char *name,
                                    const struct vd_storage_options *options,
                                    struct vd_storage **storage, struct vdisk_error *err)
{
    struct fixture *fix = opaque;
    enum which which = strcmp(name, "raw") == 0 ? RAW : strcmp(name, "cow") == 0 ? COW : BACKING;
    (void)bearer;
    if (!fix->stores[which])
        return vd_err_errno(err, ENOENT, "%s", name);
    int ret = vt_fault_open(fix->stores[which], VT_BORROW, storage, err);
    if (ret < 0)
        return ret;
    struct vd_storage *st = *storage;
    fix->open[which] = st;
    free(st->name);
    st->name = vt_must(strdup(name));
    if (!(options->flags & VD_STORAGE_WRITE))
        st->flags &= ~(uint32_t)VD_STORAGE_WRITE;
    return 0;
}

static inline int fixture_try_open(struct fixture *fix, uint32_t flags, struct vdisk_error *err)
{
    struct vdisk_open_options open = {.struct_bytes = sizeof(open), .flags = flags};
    struct vd_image_files files = {.open = fixture_open_file, .opaque = fix};
    struct vd_chain_options chain = {.open = &open, .files = &files};
    struct vd_storage_options options = {.flags = flags & VDISK_OPEN_WRITE ? VD_STORAGE_WRITE : 0};
    struct vd_storage *file;
    VT_OK(fixture_open_file(fix, "", "cow", &options, &file, &vt_err));
    open.format = "add-cow";
    int ret = vd_image_open_chain_on(file, &chain, &fix->image, err);
    if (ret < 0)
        fix->image = NULL;
    fix->log[0] = '\0';
    return ret;
}

static inline void fixture_open(struct fixture *fix, uint32_t flags)
{
    VT_OK(fixture_try_open(fix, flags, &vt_err));
}

static inline void fixture_close(struct fixture *fix)
{
    VT_OK(vdisk_image_close(fix->image, &vt_err));
    fix->image = NULL;
}

static inline void fixture_destroy(struct fixture *fix)
{
    if (fix->image)
        fixture_close(fix);
    for (enum which i = 0; i < FILES; i++)
        vd_storage_close(fix->stores[i]);
}

/* What may be left after a power cut now, as an image of its own.  @cuts: of COW and RAW. */
static inline void fixture_cut(struct fixture *fix, const enum vt_cut cuts[2], uint64_t seed,
                               struct fixture *left)
{
    memset(left, 0, sizeof(*left));
    for (enum which i = 0; i < BACKING; i++) {
        struct vd_storage *state;
        VT_OK(vt_crash_cut(fix->stores[i], cuts[i], seed + i, &state, &vt_err));
        fixture_put(left, i, state);
    }
    if (fix->stores[BACKING]) {
        struct vd_storage *state;
        VT_OK(vt_crash_cut(fix->stores[BACKING], VT_CUT_KEEP_ALL, 0, &state, &vt_err));
        fixture_put(left, BACKING, state);
    }
}

/* The kinds of cuts worth a look for each of the two files: 25 pairs. */
static const enum vt_cut both_cuts[] = {VT_CUT_DROP_ALL, VT_CUT_KEEP_ALL, VT_CUT_TORN,
                                        VT_CUT_REORDERED, VT_CUT_SUBSET};
#define BOTH_CUTS (sizeof(both_cuts) / sizeof(both_cuts[0]))

static inline void write_bytes(struct fixture *fix, uint64_t offset, uint64_t length, uint8_t byte)
{
    uint8_t *buf = vt_calloc(length, 1);
    memset(buf, byte, length);
    VT_OK(vdisk_image_pwrite(fix->image, buf, length, offset, &vt_err));
    free(buf);
}

static inline void expect_bytes(struct fixture *fix, uint64_t offset, uint64_t length, uint8_t byte)
{
    uint8_t *buf = vt_calloc(length, 1);
    VT_OK(vdisk_image_pread(fix->image, buf, length, offset, &vt_err));
    vt_assert_filled(buf, length, byte);
    free(buf);
}

/* What the files hold, not what the driver knows. */
static inline uint8_t byte_in_file(struct fixture *fix, enum which which, uint64_t offset)
{
    uint8_t byte;
    VT_OK(vd_storage_pread(fix->stores[which], &byte, 1, offset, &vt_err));
    return byte;
}

static inline void set_byte_in_file(struct fixture *fix, enum which which, uint64_t offset,
                                    uint8_t byte)
{
    VT_OK(vd_storage_pwrite(fix->stores[which], &byte, 1, offset, &vt_err));
}

static inline void set_u32_in_file(struct fixture *fix, uint64_t offset, uint32_t value)
{
    for (unsigned i = 0; i < 4; i++)
        set_byte_in_file(fix, COW, offset + i, (uint8_t)(value >> (8 * i)));
}

static inline bool bit_in_file(struct fixture *fix, uint64_t cluster)
{
    return (byte_in_file(fix, COW, 4096 + cluster / 8) >> (cluster % 8)) & 1;
}

static inline void set_bit_in_file(struct fixture *fix, uint64_t cluster)
{
    uint8_t byte = byte_in_file(fix, COW, 4096 + cluster / 8);
    set_byte_in_file(fix, COW, 4096 + cluster / 8, (uint8_t)(byte | 1u << (cluster % 8)));
}

static inline uint64_t bytes_of(struct fixture *fix, enum which which)
{
    uint64_t bytes = 0;
    VT_OK(vd_storage_size(fix->stores[which], &bytes, &vt_err));
    return bytes;
}

static inline void set_length(struct fixture *fix, enum which which, uint64_t bytes)
{
    VT_OK(vd_storage_resize(fix->stores[which], bytes, &vt_err));
}

#endif
