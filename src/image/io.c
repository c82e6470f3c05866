/* SPDX-License-Identifier: MIT */
/*
 * The one loop that moves guest data.
 *
 * I1  Every request is bracketed by vd_format_enter() and vd_format_leave(), so that no cluster it
 *     may still touch is used again for other data.
 * I2  An overwrite of allocated clusters takes no lock of the image, unless they are encrypted.
 * I3  A request that has to allocate holds the clusters by the guard from before the allocation
 *     until their data is written and vd_format_write_done() was called.
 * I4  What a request does not cover of a fresh cluster is filled before the cluster is published:
 *     with zeros where its storage does not read so, with what the images behind have there, or
 *     with what the disk reads as there.
 * I5  A request that makes clusters read as zero holds them by the guard as well: an allocation
 *     that had begun before would bring back what it filled the cluster with.
 *
 * Mappings with a cipher have rules of their own (image/encrypted.h).
 */
#include <assert.h>
#include <inttypes.h>
#include <limits.h>
#include <string.h>

#include "image/image_priv.h"
#include "util/iov.h"
#include "util/mem.h"

/* Edges of fresh clusters are filled with so much at a time. */
#define FILL_BYTES (UINT64_C(2) << 20)

/* Allocating requests wait no longer than zeroing so much takes; a multiple of all clusters. */
#define ZERO_BYTES (UINT64_C(1) << 30)

/* Disks end at multiples of this. */
#define END_BYTES 512u

/* A request of the caller: buffers, and where they go. */
struct request {
    struct vdisk_image *image;
    const struct iovec *iov;
    int iov_entries;
    struct vd_range guest;
    bool is_held; /* its clusters are, by the guard, for somebody who fills others with them */
};

int vd_image_check_request(const struct vdisk_image *image, uint64_t offset, uint64_t length,
                           struct vdisk_error *err)
{
    uint64_t size = vdisk_image_size(image);
    if (!vd_range_is_within(vd_range(offset, length), size))
        return vd_err_set(err, EINVAL,
                          "%s: request of %" PRIu64 " bytes at offset %" PRIu64
                          ": the disk ends at %" PRIu64,
                          vd_storage_name(image->file), length, offset, size);
    return 0;
}

static int make_request(struct vdisk_image *image, const struct iovec *iov, int iov_entries,
                        uint64_t offset, struct request *request, struct vdisk_error *err)
{
    size_t length = vd_iov_length(iov, iov_entries);
    if (length > VDISK_REQUEST_BYTES_MAX)
        return vd_err_set(err, EINVAL, "%s: request of %zu bytes: the limit is %u",
                          vd_storage_name(image->file), length, VDISK_REQUEST_BYTES_MAX);
    *request = (struct request){
        .image = image, .iov = iov, .iov_entries = iov_entries, .guest = vd_range(offset, length)};
    return vd_image_check_request(image, offset, length, err);
}

/* The buffers of a request that belong to a part of its range. */
struct part {
    const struct iovec *iov;
    int entries;
    struct iovec one;    /* the usual case needs no memory */
    struct iovec *owned; /* to be freed, or NULL */
};

static int make_part(const struct request *request, struct vd_range guest, struct part *part,
                     struct vdisk_error *err)
{
    *part = (struct part){.iov = request->iov, .entries = request->iov_entries};
    if (guest.length == request->guest.length)
        return 0;
    struct iovec *iov = &part->one;
    if (request->iov_entries > 1)
        iov = part->owned = vd_alloc_array((size_t)request->iov_entries, sizeof(*iov));
    if (!iov)
        return vd_err_nomem(err, "a request");
    part->iov = iov;
    part->entries =
        vd_iov_part(iov, request->iov, request->iov_entries,
                    (size_t)(guest.offset - request->guest.offset), (size_t)guest.length);
    return 0;
}

int vd_image_behind(const struct vdisk_image *image, struct vd_range guest, struct vd_range *shown,
                    struct vdisk_error *err)
{
    if (!image->backing)
        return vd_err_set(err, EINVAL,
                          "%s: what is at offset %" PRIu64
                          " is in its backing file, which has not been opened",
                          vd_storage_name(image->file), guest.offset);
    uint64_t backing_bytes = vdisk_image_size(image->backing);
    uint64_t start = vd_min(guest.offset, backing_bytes);
    *shown = vd_range(start, vd_min(guest.length, backing_bytes - start));
    return 0;
}

/* X3: again, while nobody can rewrite it, if somebody may have done so meanwhile. */
static int read_encrypted(const struct request *request, const struct vd_mapping *mapping,
                          struct vd_range guest, const struct part *part, struct vdisk_error *err)
{
    struct vdisk_image *image = request->image;
    /* What had been done before the reading is all that had begun after it. */
    unsigned long done = atomic_load(&image->rewrites.done);
    int ret = vd_encrypted_read(mapping, guest, part->iov, part->entries, err);
    if (ret < 0 || request->is_held || atomic_load(&image->rewrites.begun) == done)
        return ret;
    struct vd_guard_range mine;
    vd_guard_hold(&image->guard, &mine, vd_encrypted_sectors(guest));
    ret = vd_encrypted_read(mapping, guest, part->iov, part->entries, err);
    vd_guard_release(&image->guard, &mine);
    return ret;
}

/* Zeros, or what a storage or the backing image has: @guest goes to the buffers it belongs to. */
static int read_part(const struct request *request, const struct vd_mapping *mapping,
                     struct vd_range guest, struct vdisk_error *err)
{
    struct part part;
    if (guest.length == 0)
        return 0;
    int ret = make_part(request, guest, &part, err);
    if (ret < 0)
        return ret;
    if (mapping->kind == VD_MAP_ZERO)
        vd_iov_zero(part.iov, part.entries);
    else if (mapping->cipher)
        ret = read_encrypted(request, mapping, guest, &part, err);
    else if (mapping->kind == VD_MAP_DATA)
        ret =
            vd_storage_preadv(mapping->storage, part.iov, part.entries, mapping->host_offset, err);
    else
        ret =
            vdisk_image_preadv(request->image->backing, part.iov, part.entries, guest.offset, err);
    free(part.owned);
    return ret;
}

/* Reads the start of @rest, which is @mapping, and perhaps more of it; *done gets the length. */
static int read_mapping(const struct request *request, const struct vd_mapping *mapping,
                        struct vd_range rest, uint64_t *done, struct vdisk_error *err)
{
    static const struct vd_mapping zero = {.kind = VD_MAP_ZERO};
    if (mapping->kind == VD_MAP_ENCODED) {
        struct vd_encoded_target target = {.iov = request->iov,
                                           .iov_entries = request->iov_entries,
                                           .offset = request->guest.offset};
        struct vdisk_image *image = request->image;
        return vd_encoded_read(&image->encoded, image->format, mapping, rest, &target, done, err);
    }
    *done = mapping->guest.length;
    struct vd_range guest = mapping->guest;
    struct vd_range shown = guest;
    int ret = 0;
    if (mapping->kind == VD_MAP_BACKING)
        ret = vd_image_behind(request->image, guest, &shown, err);
    if (ret == 0)
        ret = read_part(request, mapping, shown, err);
    guest = vd_range(guest.offset + shown.length, guest.length - shown.length);
    return ret < 0 ? ret : read_part(request, &zero, guest, err);
}

static int read_all(const struct request *request, struct vdisk_error *err)
{
    int ret = 0;
    struct vd_range rest = request->guest;
    while (rest.length && ret == 0) {
        struct vd_mapping mapping;
        uint64_t done;
        ret = vd_format_map(request->image->format, rest, &mapping, err);
        if (ret == 0)
            ret = read_mapping(request, &mapping, rest, &done, err);
        if (ret == 0)
            rest = vd_range(rest.offset + done, rest.length - done);
    }
    return ret;
}

static int read_request(struct vdisk_image *image, const struct iovec *iov, int iov_entries,
                        uint64_t offset, bool is_held, struct vdisk_error *err)
{
    struct request request;
    int ret = make_request(image, iov, iov_entries, offset, &request, err);
    if (ret == 0) {
        request.is_held = is_held;
        unsigned ticket = vd_format_enter(image->format); /* I1 */
        ret = read_all(&request, err);
        vd_format_leave(image->format, ticket);
    }
    if (ret < 0)
        vd_iov_zero(iov, iov_entries);
    return ret;
}

int vdisk_image_preadv(struct vdisk_image *image, const struct iovec *iov, int iov_entries,
                       uint64_t offset, struct vdisk_error *err)
{
    return read_request(image, iov, iov_entries, offset, false, err);
}

int vdisk_image_pread(struct vdisk_image *image, void *buf, size_t length, uint64_t offset,
                      struct vdisk_error *err)
{
    struct iovec iov = {.iov_base = buf, .iov_len = length};
    return vdisk_image_preadv(image, &iov, 1, offset, err);
}

int vd_image_read_padded(struct vdisk_image *image, void *buf, struct vd_range guest,
                         struct vdisk_error *err)
{
    uint64_t size = vdisk_image_size(image);
    size_t there = guest.offset < size ? (size_t)vd_min(guest.length, size - guest.offset) : 0;
    memset((uint8_t *)buf + there, 0, (size_t)guest.length - there);
    return there ? vdisk_image_pread(image, buf, there, guest.offset, err) : 0;
}

/* What a change writes: the buffers of a request, or zeros if @request is NULL. */
struct change {
    struct vdisk_image *image;
    const struct request *request;
    bool may_punch; /* zeros in clusters that were there may lose their space */
};

static int write_zero_mapping(const struct change *change, const struct vd_mapping *mapping,
                              struct vdisk_error *err)
{
    unsigned flags = change->may_punch ? VD_STORAGE_ZERO_MAY_PUNCH : 0;
    return vd_storage_write_zeroes(
        mapping->storage, vd_range(mapping->host_offset, mapping->guest.length), flags, err);
}

static int write_data_mapping(const struct change *change, const struct vd_mapping *mapping,
                              struct vdisk_error *err)
{
    struct part part;
    int ret = make_part(change->request, mapping->guest, &part, err);
    if (ret == 0)
        ret =
            vd_storage_pwritev(mapping->storage, part.iov, part.entries, mapping->host_offset, err);
    free(part.owned);
    return ret;
}

/* What a fresh mapping leaves of its clusters, before and behind what is written. */
struct edges {
    struct vd_range head;
    struct vd_range tail;
};

static struct edges edges_of(const struct vd_mapping *mapping)
{
    uint64_t end = vd_range_end(mapping->guest);
    return (struct edges){.head = vd_range(mapping->clusters.offset,
                                           mapping->guest.offset - mapping->clusters.offset),
                          .tail = vd_range(end, vd_range_end(mapping->clusters) - end)};
}

/* Where in the storage of @mapping is @guest, which is in its clusters? */
static uint64_t host_offset_of(const struct vd_mapping *mapping, struct vd_range guest)
{
    return mapping->host_offset - mapping->guest.offset + guest.offset;
}

/* What the bytes of @guest were before: zeros, or those of the backing image, or of the disk. */
static int read_fill(const struct change *change, const struct vd_mapping *mapping,
                     struct vd_range guest, uint8_t *bytes, struct vdisk_error *err)
{
    struct vdisk_image *image = change->image;
    struct vd_range shown = vd_range(guest.offset, 0);
    uint64_t size = vdisk_image_size(image);
    int ret = 0;
    bool is_old = mapping->fill == VD_FILL_OLD;
    struct vdisk_image *from = is_old ? image : image->backing;
    /* The last cluster may reach behind the end of the disk, where nothing ever shows. */
    if ((is_old || mapping->fill == VD_FILL_BACKING) && guest.offset < size)
        shown.length = vd_min(guest.length, size - guest.offset);
    if (mapping->fill == VD_FILL_BACKING && shown.length)
        ret = vd_image_behind(image, shown, &shown, err);
    struct iovec iov = {.iov_base = bytes, .iov_len = (size_t)shown.length};
    if (ret == 0 && shown.length)
        ret = read_request(from, &iov, 1, shown.offset, is_old, err);
    memset(bytes + shown.length, 0, (size_t)(guest.length - shown.length));
    return ret;
}

/* Edges of small clusters: one write of head, data and tail. */
static int write_whole(const struct change *change, const struct vd_mapping *mapping,
                       const struct edges *edges, struct vdisk_error *err)
{
    size_t head = (size_t)edges->head.length;
    size_t tail = (size_t)edges->tail.length;
    CLEANUP_FREE uint8_t *fill = vd_alloc_io(head + tail);
    size_t entries = (size_t)change->request->iov_entries + 2;
    CLEANUP_FREE struct iovec *iov = vd_alloc_array(entries, sizeof(*iov));
    if (!fill || !iov)
        return vd_err_nomem(err, "a request");
    int ret = read_fill(change, mapping, edges->head, fill, err);
    if (ret == 0)
        ret = read_fill(change, mapping, edges->tail, fill + head, err);
    if (ret < 0)
        return ret;

    int used = 0;
    if (head)
        iov[used++] = (struct iovec){.iov_base = fill, .iov_len = head};
    used += vd_iov_part(iov + used, change->request->iov, change->request->iov_entries,
                        (size_t)(mapping->guest.offset - change->request->guest.offset),
                        (size_t)mapping->guest.length);
    if (tail)
        iov[used++] = (struct iovec){.iov_base = fill + head, .iov_len = tail};
    return vd_storage_pwritev(mapping->storage, iov, used, mapping->host_offset - head, err);
}

static int write_edge(const struct change *change, const struct vd_mapping *mapping,
                      struct vd_range edge, struct vdisk_error *err)
{
    if (edge.length == 0)
        return 0;
    if (mapping->fill == VD_FILL_ZERO)
        return vd_storage_write_zeroes(
            mapping->storage, vd_range(host_offset_of(mapping, edge), edge.length), 0, err);
    size_t piece_bytes = (size_t)vd_min(edge.length, FILL_BYTES);
    CLEANUP_FREE uint8_t *fill = vd_alloc_io(piece_bytes);
    if (!fill)
        return vd_err_nomem(err, "a request");
    int ret = 0;
    while (edge.length && ret == 0) {
        struct vd_range piece = vd_range(edge.offset, vd_min(edge.length, piece_bytes));
        ret = read_fill(change, mapping, piece, fill, err);
        if (ret == 0)
            ret = vd_storage_pwrite(mapping->storage, fill, (size_t)piece.length,
                                    host_offset_of(mapping, piece), err);
        edge = vd_range(edge.offset + piece.length, edge.length - piece.length);
    }
    return ret;
}

/* I4 */
static int write_fresh(const struct change *change, const struct vd_mapping *mapping,
                       struct vdisk_error *err)
{
    struct edges edges = edges_of(mapping);
    if (mapping->fill != VD_FILL_NONE && edges.head.length + edges.tail.length > 0) {
        if (change->request && edges.head.length + edges.tail.length <= FILL_BYTES)
            return write_whole(change, mapping, &edges, err);
        int ret = write_edge(change, mapping, edges.head, err);
        if (ret == 0)
            ret = write_edge(change, mapping, edges.tail, err);
        if (ret < 0)
            return ret;
    }
    return change->request ? write_data_mapping(change, mapping, err)
                           : write_zero_mapping(change, mapping, err);
}

/* What goes to an encrypted mapping. */
struct plaintext {
    const struct change *change;
    const struct vd_mapping *mapping;
};

/* Around what the change writes: what the cluster is to be filled with, or what is there already.
 */
static int get_around(const struct plaintext *plain, struct vd_range guest, uint8_t *bytes,
                      struct vdisk_error *err)
{
    struct iovec iov = {.iov_base = bytes, .iov_len = (size_t)guest.length};
    if (guest.length == 0)
        return 0;
    return plain->mapping->fresh ? read_fill(plain->change, plain->mapping, guest, bytes, err)
                                 : vd_encrypted_read(plain->mapping, guest, &iov, 1, err);
}

static int get_plaintext(void *opaque, struct vd_range guest, uint8_t *bytes,
                         struct vdisk_error *err)
{
    const struct plaintext *plain = opaque;
    const struct request *request = plain->change->request;
    struct vd_range written = plain->mapping->guest;
    uint64_t end = vd_range_end(guest);
    uint64_t from = vd_min(vd_max(guest.offset, written.offset), end);
    uint64_t to = vd_max(vd_min(end, vd_range_end(written)), from);
    int ret = get_around(plain, vd_range(guest.offset, from - guest.offset), bytes, err);
    if (ret == 0)
        ret = get_around(plain, vd_range(to, end - to), bytes + (to - guest.offset), err);
    uint8_t *at = bytes + (from - guest.offset);
    if (ret == 0 && !request)
        memset(at, 0, (size_t)(to - from));
    else if (ret == 0 && to > from)
        vd_iov_to_buffer(at, (size_t)(to - from), request->iov,
                         (size_t)(from - request->guest.offset));
    return ret;
}

/* X2: the clusters, or at least the sectors, are held. */
static int write_encrypted(const struct change *change, const struct vd_mapping *mapping,
                           struct vdisk_error *err)
{
    struct vdisk_image *image = change->image;
    struct plaintext plain = {.change = change, .mapping = mapping};
    struct vd_plaintext source = {.get = get_plaintext, .opaque = &plain};
    struct vd_range sectors =
        mapping->fresh ? mapping->clusters : vd_encrypted_sectors(mapping->guest);
    bool rewrites = !mapping->fresh && sectors.length != mapping->guest.length;
    if (rewrites)
        atomic_fetch_add(&image->rewrites.begun, 1);
    int ret = vd_encrypted_write(mapping, sectors, &source, err);
    if (rewrites)
        atomic_fetch_add(&image->rewrites.done, 1);
    return ret;
}

static int write_mapping(const struct change *change, const struct vd_mapping *mapping,
                         struct vdisk_error *err)
{
    if (!mapping->fresh && mapping->cipher)
        return write_encrypted(change, mapping, err);
    if (!mapping->fresh)
        return change->request ? write_data_mapping(change, mapping, err)
                               : write_zero_mapping(change, mapping, err);
    int ret =
        mapping->cipher ? write_encrypted(change, mapping, err) : write_fresh(change, mapping, err);
    vd_format_write_done(change->image->format, mapping, ret == 0);
    return ret;
}

/* The clusters are held; *done gets the length that was dealt with. */
static int allocate_and_write(const struct change *change, struct vd_range guest, uint64_t *done,
                              struct vdisk_error *err)
{
    struct vd_mapping mapping;
    int ret = vd_format_map_for_write(change->image->format, guest, true, &mapping, err);
    if (ret == 0) {
        *done = mapping.guest.length;
        ret = write_mapping(change, &mapping, err);
    }
    return ret;
}

/* I3 */
static int write_allocating(const struct change *change, struct vd_range guest, uint64_t *done,
                            struct vdisk_error *err)
{
    struct vdisk_image *image = change->image;
    struct vd_guard_range mine;
    vd_guard_hold(&image->guard, &mine, vd_range_expand(guest, image->cluster_bytes));
    int ret = allocate_and_write(change, guest, done, err);
    vd_guard_release(&image->guard, &mine);
    return ret;
}

/* I2, X2 */
static int overwrite(const struct change *change, const struct vd_mapping *mapping,
                     struct vdisk_error *err)
{
    struct vd_guard_range mine;
    if (!mapping->cipher)
        return write_mapping(change, mapping, err);
    vd_guard_hold(&change->image->guard, &mine, vd_encrypted_sectors(mapping->guest));
    int ret = write_mapping(change, mapping, err);
    vd_guard_release(&change->image->guard, &mine);
    return ret;
}

static int write_all(const struct change *change, struct vd_range rest, struct vdisk_error *err)
{
    while (rest.length) {
        struct vd_mapping mapping;
        uint64_t done;
        int ret = vd_format_map_for_write(change->image->format, rest, false, &mapping, err);
        if (ret < 0)
            return ret;
        done = mapping.guest.length;
        if (mapping.kind == VD_MAP_DATA)
            ret = overwrite(change, &mapping, err);
        else
            ret = write_allocating(change, mapping.guest, &done, err);
        if (ret < 0)
            return ret;
        rest = vd_range(rest.offset + done, rest.length - done);
    }
    return 0;
}

int vdisk_image_pwritev(struct vdisk_image *image, const struct iovec *iov, int iov_entries,
                        uint64_t offset, struct vdisk_error *err)
{
    struct request request;
    int ret = make_request(image, iov, iov_entries, offset, &request, err);
    if (ret < 0)
        return ret;
    struct change change = {.image = image, .request = &request};
    unsigned ticket = vd_format_enter(image->format); /* I1 */
    ret = write_all(&change, request.guest, err);
    vd_format_leave(image->format, ticket);
    return ret;
}

int vdisk_image_pwrite(struct vdisk_image *image, const void *buf, size_t length, uint64_t offset,
                       struct vdisk_error *err)
{
    struct iovec iov = vd_iov_const(buf, length);
    return vdisk_image_pwritev(image, &iov, 1, offset, err);
}

/* Zeroes or discards as the format's map_zero() leads.  The clusters are held. */
static int zero_held(const struct change *change, struct vd_range rest, unsigned flags,
                     struct vdisk_error *err)
{
    while (rest.length) {
        struct vd_mapping mapping;
        int ret = vd_format_map_zero(change->image->format, rest, flags, &mapping, err);
        if (ret < 0)
            return ret;
        uint64_t done = mapping.guest.length;
        if (mapping.kind == VD_MAP_DATA)
            ret = write_mapping(change, &mapping, err);
        else if (mapping.kind == VD_MAP_BACKING)
            ret = allocate_and_write(change, mapping.guest, &done, err);
        if (ret < 0)
            return ret;
        rest = vd_range(rest.offset + done, rest.length - done);
    }
    return 0;
}

/* I5 */
static int zero_all(const struct change *change, struct vd_range rest, unsigned flags,
                    struct vdisk_error *err)
{
    struct vdisk_image *image = change->image;
    int ret = 0;
    while (rest.length && ret == 0) {
        uint64_t length = vd_min(rest.length, ZERO_BYTES - rest.offset % ZERO_BYTES);
        struct vd_range piece = vd_range(rest.offset, length);
        struct vd_guard_range mine;
        vd_guard_hold(&image->guard, &mine, vd_range_expand(piece, image->cluster_bytes));
        ret = zero_held(change, piece, flags, err);
        vd_guard_release(&image->guard, &mine);
        rest = vd_range(rest.offset + length, rest.length - length);
    }
    return ret;
}

int vdisk_image_write_zeroes(struct vdisk_image *image, uint64_t offset, uint64_t length,
                             unsigned flags, struct vdisk_error *err)
{
    int ret = vd_image_check_request(image, offset, length, err);
    if (ret == 0 && (flags & ~(unsigned)VDISK_ZERO_NO_HOLE))
        ret = vd_err_set(err, EINVAL, "write zeroes: unknown flags 0x%x", flags);
    if (ret < 0)
        return ret;

    bool no_hole = (flags & VDISK_ZERO_NO_HOLE) != 0;
    struct change change = {.image = image, .may_punch = !no_hole};
    unsigned ticket = vd_format_enter(image->format); /* I1 */
    if (no_hole)
        ret = write_all(&change, vd_range(offset, length), err);
    else
        ret = zero_all(&change, vd_range(offset, length), VD_MAP_ZERO_MAY_UNMAP, err);
    vd_format_leave(image->format, ticket);
    return ret;
}

int vdisk_image_discard(struct vdisk_image *image, uint64_t offset, uint64_t length,
                        struct vdisk_error *err)
{
    int ret = vd_image_check_request(image, offset, length, err);
    if (ret < 0)
        return ret;
    struct change change = {.image = image, .may_punch = true};
    unsigned ticket = vd_format_enter(image->format); /* I1 */
    ret = zero_all(&change, vd_range(offset, length), VD_MAP_ZERO_MAY_UNMAP | VD_MAP_ZERO_DISCARD,
                   err);
    vd_format_leave(image->format, ticket);
    return ret;
}

int vdisk_image_flush(struct vdisk_image *image, struct vdisk_error *err)
{
    return vd_format_flush(image->format, err);
}

/*
 * What the end of the disk hid of the backing image stays hidden when the disk grows: if the last
 * cluster is not whole, and not of this image yet, it becomes so.
 */
static int take_last_cluster(struct vdisk_image *image, struct vdisk_error *err)
{
    uint64_t size = vdisk_image_size(image);
    if (vd_is_aligned(size, image->cluster_bytes) || vdisk_image_size(image->backing) <= size)
        return 0;
    struct vd_range last = vd_range(size - END_BYTES, END_BYTES);
    uint8_t bytes[END_BYTES];
    int ret = vdisk_image_pread(image, bytes, sizeof(bytes), last.offset, err);
    if (ret == 0)
        ret = vdisk_image_pwrite(image, bytes, sizeof(bytes), last.offset, err);
    /* A power cut must not leave the new size with the old cluster. */
    return ret < 0 ? ret : vdisk_image_flush(image, err);
}

int vdisk_image_resize(struct vdisk_image *image, uint64_t size,
                       enum vdisk_preallocation preallocation, struct vdisk_error *err)
{
    struct vd_format_info info;
    struct vd_resize resize = {.size = size, .preallocation = preallocation};
    int ret = vd_format_info(image->format, &info, err);
    if (ret == 0 && info.backing_name && !image->backing)
        ret = vd_err_set(err, EINVAL, "%s: can not be resized while its backing file is not open",
                         vd_storage_name(image->file));
    if (ret == 0 && image->backing) {
        resize.backing_bytes = vdisk_image_size(image->backing);
        if (size > vdisk_image_size(image))
            ret = take_last_cluster(image, err);
    }
    return ret < 0 ? ret : vd_format_resize(image->format, &resize, err);
}
