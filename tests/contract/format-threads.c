/* SPDX-License-Identifier: MIT */
/*
 * Threads at work on one image.  Each owns stripes of the disk whose borders are no borders of
 * blocks, so that blocks are shared, and changes only its own bytes; so it knows what they are.
 */
#include <inttypes.h>
#include <string.h>

#include "drivers/alloc.h"
#include "drivers/check.h"
#include "drivers/encode.h"
#include "format-run.h"
#include "util/err.h"
#include "util/iov.h"
#include "util/workers.h"

#define THREADS      4u
#define FLUSH_CHANCE 400u

/* Lengths, which go with the size of blocks. */
struct cut {
    uint64_t disk_bytes;
    uint64_t pair_bytes; /* a short stripe and a long one */
    uint64_t short_bytes;
    uint64_t request_max;
};

struct crew {
    struct vdisk_image *image;
    struct cut cut;
    uint8_t *bytes; /* what the disk holds; each byte used by its owner only */
    uint64_t ops;   /* of each thread */
    uint64_t seed;
};

struct member {
    struct crew *crew;
    struct vt_random random;
    unsigned index;
    uint8_t *buf; /* crew->cut.request_max */
};

static struct cut cut_for(uint64_t block)
{
    return (struct cut){.disk_bytes = 24 * block + 1024,
                        .pair_bytes = block * 29 / 10 + 3,
                        .short_bytes = block * 6 / 10 + 5,
                        .request_max = block * 9 / 4};
}

static struct vd_range stripe(const struct cut *cut, uint64_t number)
{
    uint64_t start = number / 2 * cut->pair_bytes + (number & 1) * cut->short_bytes;
    uint64_t end =
        number / 2 * cut->pair_bytes + ((number & 1) ? cut->pair_bytes : cut->short_bytes);
    if (start >= cut->disk_bytes)
        return vd_range(cut->disk_bytes, 0);
    return vd_range(start, vd_min(end, cut->disk_bytes) - start);
}

static struct vd_range draw(struct member *member)
{
    const struct cut *cut = &member->crew->cut;
    struct vd_range mine;
    do
        mine = stripe(cut, vt_random_below(&member->random, 8) * THREADS + member->index);
    while (mine.length == 0);
    uint64_t length = vt_random_below(&member->random, vd_min(mine.length, cut->request_max)) + 1;
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
    if (vt_random_chance(&member->random, 30) && vt_takes_encoded(member->crew->image)) {
        vt_encode_fill(&member->random, bytes, guest.length);
        return vt_write_encoded(member->crew->image, guest, bytes, err);
    }
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
    member->buf = vt_calloc(1, crew->cut.request_max);
    member->index = index;
    member->random.state = vt_mix(crew->seed + index);
    for (uint64_t i = 0; i < crew->ops && ret == 0; i++)
        ret = member_op(member, err);
    free(member->buf);
    free(member);
    return ret;
}

static void expect_bytes(const struct crew *crew)
{
    uint8_t *buf = vt_calloc(1, crew->cut.disk_bytes);
    VT_OK(vdisk_image_pread(crew->image, buf, crew->cut.disk_bytes, 0, &vt_err));
    assert_memory_equal(buf, crew->bytes, crew->cut.disk_bytes);
    free(buf);
}

void vt_run_threads(const char *name, enum vt_place place, uint64_t ops, uint64_t seed)
{
    struct vt_stack stack;
    struct vt_subject subject;
    struct crew crew = {.seed = seed};
    print_message("# %s on %s, %u threads: %" PRIu64 " operations, seed %" PRIu64 "\n", name,
                  vt_place_name(place), THREADS, ops, seed);
    vt_stack_init(&stack, name, 512, seed); /* for the size of its blocks */
    crew.cut = cut_for(vt_stack_block_bytes(&stack));
    vt_stack_init(&stack, name, crew.cut.disk_bytes, seed);
    struct vd_range all = vd_range(0, crew.cut.disk_bytes);
    crew.bytes = vt_calloc(1, all.length);
    vt_stack_read_backing(&stack, all, crew.bytes);
    vt_subject_create(&subject, &stack, place, &all, 1);

    unsigned sessions = 4;
    crew.ops = ops / THREADS / sessions + 1;
    for (unsigned i = 0; i < sessions; i++) {
        crew.seed = vt_mix(seed + i);
        crew.image = vt_subject_open(&subject, VDISK_OPEN_WRITE);
        VT_OK(vd_workers_run(THREADS, member_run, &crew, &vt_err));
        expect_bytes(&crew);
        VT_OK(vdisk_image_close(crew.image, &vt_err));
        vt_subject_expect_sound(&subject);
        crew.image = vt_subject_open(&subject, 0);
        expect_bytes(&crew);
        VT_OK(vdisk_image_close(crew.image, &vt_err));
    }
    vt_subject_destroy(&subject);
    free(crew.bytes);
}
