/* SPDX-License-Identifier: MIT */
/*
 * Threads at work on one image.  Each owns stripes of the disk whose borders are no borders of
 * blocks, so that blocks are shared, and changes only its own bytes; so it knows what they are.
 */
#include <inttypes.h>
#include <string.h>

#include "drivers/alloc.h"
#include "drivers/check.h"
#include "format-run.h"
#include "util/err.h"
#include "util/iov.h"
#include "util/workers.h"

#define THREADS      4u
#define DISK_BYTES   (24u * VT_BLOCK_BYTES + 1024u)
#define PAIR_BYTES   190000u /* a short stripe and a long one */
#define SHORT_BYTES  40000u
#define REQUEST_MAX  150000u
#define FLUSH_CHANCE 400u

struct crew {
    struct vdisk_image *image;
    uint8_t *bytes; /* DISK_BYTES: what the disk holds; each byte used by its owner only */
    uint64_t ops;   /* of each thread */
    uint64_t seed;
};

struct member {
    struct crew *crew;
    struct vt_random random;
    unsigned index;
    uint8_t buf[REQUEST_MAX];
};

static struct vd_range stripe(uint64_t number)
{
    uint64_t start = number / 2 * PAIR_BYTES + (number & 1) * SHORT_BYTES;
    uint64_t end = number / 2 * PAIR_BYTES + ((number & 1) ? PAIR_BYTES : SHORT_BYTES);
    if (start >= DISK_BYTES)
        return vd_range(DISK_BYTES, 0);
    return vd_range(start, vd_min(end, DISK_BYTES) - start);
}

static struct vd_range draw(struct member *member)
{
    struct vd_range mine;
    do
        mine = stripe(vt_random_below(&member->random, 8) * THREADS + member->index);
    while (mine.length == 0);
    uint64_t length = vt_random_below(&member->random, vd_min(mine.length, REQUEST_MAX)) + 1;
    if (vt_random_chance(&member->random, 40))
        length = vd_min(length, 5000);
    return vd_range(mine.offset + vt_random_below(&member->random, mine.length - length + 1),
                    length);
}

static int fail_at(struct vdisk_error *err, struct vd_range guest, const char *what)
{
    return vd_err_set(err, EILSEQ, "%s at %" PRIu64 "+%" PRIu64, what, guest.offset, guest.length);
}

static int member_read(struct member *member, struct vd_range guest, struct vdisk_error *err)
{
    int ret = vdisk_image_pread(member->crew->image, member->buf, guest.length, guest.offset, err);
    if (ret == 0 && memcmp(member->buf, member->crew->bytes + guest.offset, guest.length) != 0)
        ret = fail_at(err, guest, "wrong data");
    return ret;
}

static int member_write(struct member *member, struct vd_range guest, struct vdisk_error *err)
{
    uint8_t *bytes = member->crew->bytes + guest.offset;
    vt_random_fill(&member->random, bytes, guest.length);
    return vdisk_image_pwrite(member->crew->image, bytes, guest.length, guest.offset, err);
}

static int member_zero(struct member *member, struct vd_range guest, struct vdisk_error *err)
{
    unsigned flags = vt_random_chance(&member->random, 30) ? VDISK_ZERO_NO_HOLE : 0;
    memset(member->crew->bytes + guest.offset, 0, guest.length);
    return vdisk_image_write_zeroes(member->crew->image, guest.offset, guest.length, flags, err);
}

static int member_discard(struct member *member, struct vd_range guest, struct vdisk_error *err)
{
    uint8_t *bytes = member->crew->bytes + guest.offset;
    int ret = vdisk_image_discard(member->crew->image, guest.offset, guest.length, err);
    if (ret == 0)
        ret = vdisk_image_pread(member->crew->image, member->buf, guest.length, guest.offset, err);
    for (uint64_t i = 0; ret == 0 && i < guest.length; i++)
        if (member->buf[i] != 0 && member->buf[i] != bytes[i])
            ret = fail_at(err, guest, "neither old nor zero after a discard");
    if (ret == 0)
        memcpy(bytes, member->buf, guest.length);
    return ret;
}

static int member_look(struct member *member, struct vd_range guest, struct vdisk_error *err)
{
    struct vdisk_extent extent;
    int ret = vdisk_image_extent(member->crew->image, guest.offset, guest.length, &extent, err);
    if (ret == 0 && (extent.flags & VDISK_EXTENT_ZERO) &&
        !vd_buffer_is_zero(member->crew->bytes + guest.offset, extent.length))
        ret = fail_at(err, guest, "an extent of zeros over data");
    return ret;
}

static int member_op(struct member *member, struct vdisk_error *err)
{
    struct vd_range guest = draw(member);
    if (vt_random_below(&member->random, FLUSH_CHANCE) == 0)
        return vdisk_image_flush(member->crew->image, err);
    switch (vt_random_below(&member->random, 10)) {
    case 0:
    case 1:
    case 2:
    case 3:
        return member_write(member, guest, err);
    case 4:
    case 5:
    case 6:
        return member_read(member, guest, err);
    case 7:
        return member_zero(member, guest, err);
    case 8:
        return member_discard(member, guest, err);
    default:
        return member_look(member, guest, err);
    }
}

static int member_run(void *work, unsigned index, struct vdisk_error *err)
{
    struct crew *crew = work;
    struct member *member = vt_calloc(1, sizeof(*member));
    int ret = 0;
    member->crew = crew;
    member->index = index;
    member->random.state = vt_mix(crew->seed + index);
    for (uint64_t i = 0; i < crew->ops && ret == 0; i++)
        ret = member_op(member, err);
    free(member);
    return ret;
}

static void expect_bytes(struct vdisk_image *image, const uint8_t *bytes)
{
    uint8_t *buf = vt_calloc(1, DISK_BYTES);
    VT_OK(vdisk_image_pread(image, buf, DISK_BYTES, 0, &vt_err));
    assert_memory_equal(buf, bytes, DISK_BYTES);
    free(buf);
}

void vt_run_threads(const char *format, enum vt_place place, uint64_t ops, uint64_t seed)
{
    struct vt_subject subject;
    struct crew crew = {.bytes = vt_calloc(1, DISK_BYTES), .seed = seed};
    print_message("# %s on %s, %u threads: %" PRIu64 " operations, seed %" PRIu64 "\n", format,
                  vt_place_name(place), THREADS, ops, seed);
    vt_subject_create(&subject, format, place, DISK_BYTES);

    unsigned sessions = 4;
    crew.ops = ops / THREADS / sessions + 1;
    for (unsigned i = 0; i < sessions; i++) {
        crew.seed = vt_mix(seed + i);
        crew.image = vt_subject_open(&subject, VDISK_OPEN_WRITE);
        VT_OK(vd_workers_run(THREADS, member_run, &crew, &vt_err));
        expect_bytes(crew.image, crew.bytes);
        VT_OK(vdisk_image_close(crew.image, &vt_err));
        vt_subject_expect_sound(&subject);
        crew.image = vt_subject_open(&subject, 0);
        expect_bytes(crew.image, crew.bytes);
        VT_OK(vdisk_image_close(crew.image, &vt_err));
    }
    vt_subject_destroy(&subject);
    free(crew.bytes);
}
