/* SPDX-License-Identifier: MIT */
/* References that ended: W3. */
#include <stdlib.h>

#include "format/qcow2/qcow2_refs.h"
#include "util/mem.h"

/* So many runs are kept before a flush makes an end of them. */
#define RUNS_MANY 16384u

void vd_qcow2_batches_free(struct vd_qcow2_batch *batch)
{
    while (batch) {
        struct vd_qcow2_batch *next = batch->next;
        free(batch->runs);
        free(batch);
        batch = next;
    }
}

static int make_room(struct vd_qcow2_batch *batch, size_t wanted)
{
    size_t room = batch->room ? batch->room : 16;
    while (room < wanted)
        room *= 2;
    if (room == batch->room)
        return 0;
    struct vd_range *runs = reallocarray(batch->runs, room, sizeof(*runs));
    if (!runs)
        return -ENOMEM;
    batch->runs = runs;
    batch->room = room;
    return 0;
}

int vd_qcow2_reserve_releases_locked(struct vd_qcow2 *qcow2, size_t more, struct vdisk_error *err)
{
    struct vd_qcow2_writer *writer = qcow2->writer;
    if (!writer->releases)
        writer->releases = calloc(1, sizeof(*writer->releases));
    if (!writer->releases ||
        make_room(writer->releases, writer->releases->entries + writer->reserved + more) < 0)
        return vd_err_nomem(err, "a list of clusters that become free");
    writer->reserved += more;
    return 0;
}

void vd_qcow2_unreserve_locked(struct vd_qcow2 *qcow2, size_t less)
{
    assert(qcow2->writer->reserved >= less);
    qcow2->writer->reserved -= less;
}

void vd_qcow2_release_locked(struct vd_qcow2 *qcow2, uint64_t host, uint64_t clusters)
{
    struct vd_qcow2_batch *batch = qcow2->writer->releases;
    uint64_t first = host >> qcow2->geometry.cluster_bits;
    vd_qcow2_unreserve_locked(qcow2, 1);
    struct vd_range *last = batch->entries ? &batch->runs[batch->entries - 1] : NULL;
    if (last && vd_range_end(*last) == first)
        last->length += clusters;
    else
        batch->runs[batch->entries++] = vd_range(first, clusters);
}

int vd_qcow2_release(struct vd_qcow2 *qcow2, uint64_t host, uint64_t clusters,
                     struct vdisk_error *err)
{
    vd_mutex_lock(&qcow2->tables.lock);
    int ret = vd_qcow2_reserve_releases_locked(qcow2, 1, err);
    if (ret == 0)
        vd_qcow2_release_locked(qcow2, host, clusters);
    vd_mutex_unlock(&qcow2->tables.lock);
    return ret;
}

struct vd_qcow2_batch *vd_qcow2_take_releases_locked(struct vd_qcow2 *qcow2)
{
    struct vd_qcow2_writer *writer = qcow2->writer;
    struct vd_qcow2_batch *batch = writer->releases;
    if (!batch || !batch->entries)
        return NULL;
    /* What others have reserved needs room in the next one. */
    struct vd_qcow2_batch *next = calloc(1, sizeof(*next));
    if (!next || make_room(next, writer->reserved) < 0) {
        vd_qcow2_batches_free(next);
        return NULL; /* these wait for another flush */
    }
    writer->releases = next;
    return batch;
}

void vd_qcow2_releases_ended(struct vd_qcow2 *qcow2, struct vd_qcow2_batch *batch)
{
    if (!batch)
        return;
    vd_mutex_lock(&qcow2->writer->alloc_lock);
    struct vd_qcow2_batch **link = &qcow2->writer->ended;
    while (*link)
        link = &(*link)->next;
    *link = batch;
    batch->next = NULL;
    batch->point = vd_format_point(qcow2->format);
    vd_mutex_unlock(&qcow2->writer->alloc_lock);
}

bool vd_qcow2_releases_are_many_locked(const struct vd_qcow2 *qcow2)
{
    return qcow2->writer->releases && qcow2->writer->releases->entries > RUNS_MANY;
}

/* The oldest batch, if no request can see its clusters any more. */
static struct vd_qcow2_batch *pop_past(struct vd_qcow2 *qcow2)
    VD_REQUIRES(qcow2->writer->alloc_lock)
{
    struct vd_qcow2_batch *batch = qcow2->writer->ended;
    if (!batch || !vd_format_point_is_past(qcow2->format, batch->point))
        return NULL;
    qcow2->writer->ended = batch->next;
    batch->next = NULL;
    return batch;
}

static int compare_runs(const void *a, const void *b)
{
    const struct vd_range *left = a;
    const struct vd_range *right = b;
    return (left->offset > right->offset) - (left->offset < right->offset);
}

/* Is the place where compressed clusters are put among them? */
static bool has_pack(const struct vd_qcow2 *qcow2, const struct vd_qcow2_runs *runs)
    VD_REQUIRES(qcow2->writer->alloc_lock)
{
    const struct vd_qcow2_pack *pack = &qcow2->writer->pack;
    uint64_t first = pack->next >> qcow2->geometry.cluster_bits;
    for (size_t i = 0; pack->next && i < runs->entries; i++)
        if (vd_ranges_overlap(runs->runs[i], vd_range(first, pack->end - first)))
            return true;
    return false;
}

/* All references but the last ones of *last, whose clusters nobody else takes or refers to. */
static int end_references(struct vd_qcow2 *qcow2, struct vd_qcow2_batch *batch,
                          struct vd_qcow2_runs *last, struct vdisk_error *err)
    VD_REQUIRES(qcow2->writer->alloc_lock)
{
    int ret = 0;
    qsort(batch->runs, batch->entries, sizeof(*batch->runs), compare_runs);
    for (size_t i = 0; i < batch->entries && ret == 0; i++)
        ret = vd_qcow2_refs_down(qcow2, batch->runs[i], last, err);
    if (ret == 0 && has_pack(qcow2, last))
        vd_qcow2_pack_close_alone(qcow2);
    return ret;
}

/* W10: metadata never becomes free by what leads to it as well. */
static int check_no_metadata(struct vd_qcow2 *qcow2, const struct vd_qcow2_runs *runs,
                             struct vdisk_error *err)
{
    int ret = 0;
    for (size_t i = 0; i < runs->entries && ret == 0; i++)
        ret = vd_qcow2_check_place(qcow2, runs->runs[i].offset << qcow2->geometry.cluster_bits,
                                   runs->runs[i].length, "a cluster that is given up,", err);
    return ret;
}

static void punch(struct vd_qcow2 *qcow2, const struct vd_qcow2_runs *runs)
{
    unsigned bits = qcow2->geometry.cluster_bits;
    if (!(vd_storage_caps(qcow2->file) & VD_STORAGE_CAN_DISCARD))
        return;
    for (size_t i = 0; i < runs->entries; i++) {
        uint64_t start = runs->runs[i].offset << bits;
        uint64_t size;
        if (vd_storage_size(qcow2->file, &size, NULL) < 0 || start >= size)
            return;
        /* It is free whether or not it gives its space back. */
        (void)vd_storage_discard(
            qcow2->file, vd_range(start, vd_min(runs->runs[i].length << bits, size - start)), NULL);
    }
}

static int free_clusters(struct vd_qcow2 *qcow2, const struct vd_qcow2_runs *runs,
                         struct vdisk_error *err) VD_REQUIRES(qcow2->writer->alloc_lock)
{
    struct vd_qcow2_writer *writer = qcow2->writer;
    int ret = 0;
    for (size_t i = 0; i < runs->entries && ret == 0; i++) {
        ret = vd_qcow2_refs_down(qcow2, runs->runs[i], NULL, err);
        writer->hint = vd_min(writer->hint, runs->runs[i].offset);
    }
    for (size_t i = runs->entries; i-- > 0 && ret == 0;) /* from the end of the file */
        if (vd_range_end(runs->runs[i]) >= writer->kept_end)
            writer->kept_end = vd_min(writer->kept_end, runs->runs[i].offset);
    writer->aside = vd_range(0, 0);
    return ret;
}

static int apply_batch(struct vd_qcow2 *qcow2, struct vd_qcow2_batch *batch,
                       struct vdisk_error *err) VD_REQUIRES(qcow2->writer->flush_lock)
    VD_EXCLUDES(qcow2->writer->alloc_lock)
{
    struct vd_qcow2_runs last = {0};
    vd_mutex_lock(&qcow2->writer->alloc_lock);
    int ret = end_references(qcow2, batch, &last, err);
    vd_mutex_unlock(&qcow2->writer->alloc_lock);
    if (ret == 0)
        ret = check_no_metadata(qcow2, &last, err);
    if (ret == 0) {
        punch(qcow2, &last);
        vd_mutex_lock(&qcow2->writer->alloc_lock);
        ret = free_clusters(qcow2, &last, err);
        vd_mutex_unlock(&qcow2->writer->alloc_lock);
    }
    free(last.runs);
    return ret;
}

int vd_qcow2_apply_releases(struct vd_qcow2 *qcow2, struct vdisk_error *err)
{
    int ret = 0;
    for (;;) {
        vd_mutex_lock(&qcow2->writer->alloc_lock);
        struct vd_qcow2_batch *batch = pop_past(qcow2);
        vd_mutex_unlock(&qcow2->writer->alloc_lock);
        if (!batch)
            return 0;
        ret = apply_batch(qcow2, batch, err);
        vd_qcow2_batches_free(batch);
        if (ret < 0)
            return ret;
    }
}
