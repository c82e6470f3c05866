/* SPDX-License-Identifier: MIT */
/* QED images with data, laid out at will, and a reader of them that shares no code with the driver.
 */
#ifndef QED_DISK_H
#define QED_DISK_H

#include <stdlib.h>

#include "drivers/alloc.h"
#include "drivers/random.h"
#include "drivers/snap.h"
#include "format/qed/qed_check.h"

#include "qed-image.h"

#define CLUSTER    UINT64_C(4096)
#define UNREADABLE 2 /* no tag has this value: what leads there is no offset of a cluster */

struct disk {
    struct vd_storage *file;
    uint32_t table_clusters;
    uint64_t table_entries;
    uint64_t clusters; /* of the disk */
};

static inline uint64_t l1_of(const struct disk *disk, struct vd_storage *file)
{
    (void)disk;
    return get_u64(file, 40);
}

/* Where the entry of L1 is, and where that of L2 would be in the table at @table. */
static inline uint64_t l1_entry(const struct disk *disk, struct vd_storage *file, uint64_t cluster)
{
    return l1_of(disk, file) + cluster / disk->table_entries * 8;
}

static inline uint64_t l2_entry(const struct disk *disk, uint64_t table, uint64_t cluster)
{
    return table + cluster % disk->table_entries * 8;
}

static inline bool is_place(struct vd_storage *file, uint64_t offset, uint64_t bytes)
{
    uint64_t length = length_of(file);
    return offset % CLUSTER == 0 && offset >= CLUSTER && offset < length &&
           bytes <= length - offset;
}

/* What a cluster of the disk reads as: 0: what is behind, 1: zeros, UNREADABLE, or a tag. */
static inline uint64_t tag_of(const struct disk *disk, struct vd_storage *file, uint64_t cluster)
{
    uint64_t table = get_u64(file, l1_entry(disk, file, cluster));
    if (table == 0)
        return 0;
    if (!is_place(file, table, disk->table_clusters * CLUSTER))
        return UNREADABLE;
    uint64_t data = get_u64(file, l2_entry(disk, table, cluster));
    if (data <= 1)
        return data;
    if (!is_place(file, data, CLUSTER))
        return UNREADABLE;
    uint64_t words[CLUSTER / 8];
    VT_OK(vd_storage_pread(file, words, sizeof(words), data, &vt_err));
    for (size_t i = 1; i < CLUSTER / 8; i++)
        if (words[i] != words[0])
            return UNREADABLE; /* not one cluster of data */
    return words[0];
}

static inline void put_tag(struct vd_storage *file, uint64_t offset, uint64_t tag)
{
    uint64_t words[CLUSTER / 8];
    for (size_t i = 0; i < CLUSTER / 8; i++)
        words[i] = tag;
    put_bytes(file, offset, words, sizeof(words));
}

static inline uint64_t *tags_of(const struct disk *disk, struct vd_storage *file)
{
    uint64_t *tags = vt_calloc(disk->clusters, sizeof(*tags));
    for (uint64_t i = 0; i < disk->clusters; i++)
        tags[i] = tag_of(disk, file, i);
    return tags;
}

/* An image without data: header, then L1. */
static inline void disk_create(struct disk *disk, uint32_t table_clusters, uint64_t clusters)
{
    uint8_t head[VD_QED_HEADER_BYTES];
    *disk = (struct disk){
        .table_clusters = table_clusters,
        .table_entries = table_clusters * CLUSTER / 8,
        .clusters = clusters,
    };
    VT_OK(vt_snap_open((1 + table_clusters) * CLUSTER, &disk->file, &vt_err));
    put_final(head, CLUSTER, table_clusters, clusters * CLUSTER);
    put_bytes(disk->file, 0, head, sizeof(head));
}

/* The end of the file, where the next thing goes. */
static inline uint64_t next_place(const struct disk *disk)
{
    return (length_of(disk->file) + CLUSTER - 1) / CLUSTER * CLUSTER;
}

/* Clusters that nothing leads to, with something in them. */
static inline void add_leaks(const struct disk *disk, unsigned count)
{
    while (count--)
        put_tag(disk->file, next_place(disk), UINT64_C(0x4c45414b4c45414b));
}

static inline uint64_t add_table(const struct disk *disk, uint64_t cluster)
{
    uint64_t table = next_place(disk);
    VT_OK(vd_storage_resize(disk->file, table + disk->table_clusters * CLUSTER, &vt_err));
    put_u64(disk->file, l1_entry(disk, disk->file, cluster), table);
    return table;
}

/* Writes @tag to a cluster that has no data yet, QEMU's way: data first, then a table it needs. */
static inline void add_data(const struct disk *disk, uint64_t cluster, uint64_t tag)
{
    uint64_t data = next_place(disk);
    if (tag > 1)
        put_tag(disk->file, data, tag);
    uint64_t table = get_u64(disk->file, l1_entry(disk, disk->file, cluster));
    if (table == 0)
        table = add_table(disk, cluster);
    put_u64(disk->file, l2_entry(disk, table, cluster), tag > 1 ? data : tag);
}

/* Moves L1 to the end of the file. */
static inline void move_l1(const struct disk *disk)
{
    uint64_t bytes = disk->table_clusters * CLUSTER;
    uint8_t *table = vt_calloc(bytes, 1);
    uint64_t to = next_place(disk);
    VT_OK(vd_storage_pread(disk->file, table, bytes, l1_of(disk, disk->file), &vt_err));
    put_bytes(disk->file, to, table, bytes);
    put_u64(disk->file, 40, to);
    free(table);
}

static inline void disk_destroy(struct disk *disk)
{
    vd_storage_close(disk->file);
}

struct log {
    unsigned lines;
    char last[512];
};

static inline void note_line(void *opaque, const char *message)
{
    struct log *log = opaque;
    log->lines++;
    snprintf(log->last, sizeof(log->last), "%s", message);
}

static inline struct vdisk_check_result check_in(struct vd_storage *file, enum vdisk_repair repair,
                                                 uint32_t pass_clusters, struct log *log)
{
    struct vd_qed_header header;
    struct vdisk_check_result result = {.struct_bytes = sizeof(result)};
    struct vd_check check = {
        .repair = repair, .report = log ? note_line : NULL, .opaque = log, .result = &result};
    VT_OK(vd_qed_header_read(file, VD_QED_LOOK, &header, &vt_err));
    VT_OK(vd_qed_check_in_passes(file, &header, &check, pass_clusters, &vt_err));
    return result;
}

static inline struct vdisk_check_result check(struct vd_storage *file, enum vdisk_repair repair)
{
    return check_in(file, repair, VD_QED_PASS_CLUSTERS, NULL);
}

/* Counts by itself what leads to each cluster of the file; asserts that nothing does twice. */
static inline uint64_t expect_sound(const struct disk *disk, struct vd_storage *file)
{
    uint64_t count = length_of(file) / CLUSTER;
    uint8_t *users = vt_calloc(count, 1);
    uint64_t l1 = l1_of(disk, file), leaks = 0;
    users[0]++;
    for (uint64_t i = 0; i < disk->table_clusters; i++)
        users[l1 / CLUSTER + i]++;
    for (uint64_t i = 0; i < disk->table_entries; i++) {
        uint64_t table = get_u64(file, l1 + i * 8);
        if (table == 0)
            continue;
        assert_true(is_place(file, table, disk->table_clusters * CLUSTER));
        for (uint64_t k = 0; k < disk->table_clusters; k++)
            users[table / CLUSTER + k]++;
        for (uint64_t k = 0; k < disk->table_entries; k++) {
            uint64_t data = get_u64(file, table + k * 8);
            if (data <= 1)
                continue;
            assert_true(is_place(file, data, CLUSTER));
            users[data / CLUSTER]++;
        }
    }
    for (uint64_t i = 0; i < count; i++) {
        assert_true(users[i] <= 1);
        leaks += users[i] == 0;
    }
    free(users);
    return leaks;
}

/*
 * A random image: @objects pieces of data and zero clusters, tables where they are needed or before
 * that, L1 anywhere, and leaks between all of them.
 */
static inline void random_disk(struct disk *disk, struct vt_random *random, uint32_t table_clusters,
                               unsigned objects, unsigned leak_percent)
{
    disk_create(disk, table_clusters, 6 * table_clusters * CLUSTER / 8);
    unsigned l1_moves_at = (unsigned)vt_random_below(random, 2 * objects);
    for (unsigned i = 0; i < objects; i++) {
        uint64_t cluster = vt_random_below(random, disk->clusters);
        if (vt_random_chance(random, leak_percent))
            add_leaks(disk, 1 + (unsigned)vt_random_below(random, 3));
        if (i == l1_moves_at)
            move_l1(disk);
        if (tag_of(disk, disk->file, cluster) != 0)
            continue;
        add_data(disk, cluster, vt_random_chance(random, 10) ? 1 : 1000 + cluster);
    }
    if (vt_random_chance(random, leak_percent))
        add_leaks(disk, 1);
}

#endif
