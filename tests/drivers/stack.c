/* SPDX-License-Identifier: MIT */
#include "drivers/stack.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "drivers/alloc.h"
#include "drivers/check.h"
#include "drivers/random.h"
#include "image/chain.h"

#define CHUNK_BYTES 4096u /* images behind have data, or not, in such pieces */
#define NAME_BYTES  256u
#define GIB         (UINT64_C(1) << 30)

/* ---- Names --------------------------------------------------------------------------------- */

static const char *const file_names[VT_STACK_FILES_MAX] = {
    "disk0", "disk0.data", "disk1", "disk1.data", "disk2", "disk2.data", "disk3", "disk3.data"};

const char *vt_stack_file_name(const struct vt_stack *stack, unsigned file)
{
    for (unsigned i = 0; i < stack->level_entries; i++) {
        if (stack->levels[i].file == file)
            return file_names[2 * i];
        if (stack->levels[i].data_file == file)
            return file_names[2 * i + 1];
    }
    fail_msg("no file %u", file);
    return NULL;
}

/* A number with k or m behind it. */
static uint32_t parse_size(const char *text)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    return (uint32_t)(value << (*end == 'k' ? 10 : *end == 'm' ? 20 : 0));
}

/* What is behind the geometry of qcow2: ".r64", ".ext.lazy". */
static void parse_features(struct vt_stack *stack, struct vt_stack_level *level, char *text)
{
    for (char *part = text, *next; part; part = next) {
        next = strchr(part, '.');
        if (next)
            *next++ = '\0';
        if (part[0] == 'r' && part[1] >= '0' && part[1] <= '9')
            level->refcount_bits = parse_size(part + 1);
        else if (strcmp(part, "v2") == 0)
            level->compat = "0.10";
        else if (strcmp(part, "ext") == 0)
            level->flags |= VDISK_CREATE_EXTENDED_L2;
        else if (strcmp(part, "lazy") == 0)
            level->flags |= VDISK_CREATE_LAZY_REFCOUNTS;
        else if (strcmp(part, "luks") == 0)
            level->is_encrypted = true;
        else if (strcmp(part, "zstd") == 0)
            level->compression = "zstd";
        else if (strcmp(part, "rawdata") == 0)
            level->flags |= VDISK_CREATE_DATA_RAW;
        else if (strcmp(part, "data") != 0)
            fail_msg("no feature '%s'", part);
        if (strstr(part, "data"))
            level->data_file = stack->file_entries++;
    }
}

/* "qed-64k-4", "qed", "gow3": formats whose names end so have dashes too ("add-cow"). */
static void parse_level(struct vt_stack *stack, char *text)
{
    struct vt_stack_level *level = &stack->levels[stack->level_entries++];
    *level = (struct vt_stack_level){.data_file = VT_STACK_NONE};
    char *features = strchr(text, '.');
    if (features)
        *features++ = '\0';
    char *geometry = strchr(text, '-');
    if (geometry && geometry[1] >= '0' && geometry[1] <= '9') {
        *geometry = '\0';
        char *table = strchr(geometry + 1, '-');
        level->cluster_bytes = parse_size(geometry + 1);
        level->table_clusters = table ? parse_size(table + 1) : 0;
    }
    const struct vd_format_driver *driver = vd_format_find(text, NULL);
    if (!driver)
        fail_msg("no format '%s'", text);
    level->format = vd_format_driver_name(driver);
    level->file = stack->file_entries++;
    if (vd_format_driver_data_file(driver) == VD_DATA_FILE_ALWAYS)
        level->data_file = stack->file_entries++;
    if (features)
        parse_features(stack, level, features);
}

/* Shorter, longer, not in whole clusters: one after the other. */
static uint64_t draw_size(struct vt_random *random, uint64_t size, uint64_t size_max)
{
    static const uint64_t more[] = {0, 512, 5 * 512, 3 * 65536 + 512, UINT64_C(1) << 20};
    uint64_t step = more[vt_random_below(random, sizeof(more) / sizeof(more[0]))];
    switch (vt_random_below(random, 5)) {
    case 0:
        size += step;
        break;
    case 1:
        size -= vd_min(step, size);
        break;
    case 2:
        size = vd_round_down(size / 5 * 3, 512);
        break;
    case 3:
        size = vd_round_down(vt_random_below(random, size + 1), 512);
    }
    return vd_min(vd_max(size, 512), size_max);
}

static uint64_t cluster_bytes_of(const struct vt_stack_level *level)
{
    return level->cluster_bytes ? level->cluster_bytes : 65536;
}

/* QED: entries of a table. */
static uint64_t table_entries_of(const struct vt_stack_level *level)
{
    return cluster_bytes_of(level) * (level->table_clusters ? level->table_clusters : 4) /
           sizeof(uint64_t);
}

/* qcow2: entries of a table, which is one cluster. */
static uint64_t l2_entries_of(const struct vt_stack_level *level)
{
    return cluster_bytes_of(level) / (level->flags & VDISK_CREATE_EXTENDED_L2 ? 16 : 8);
}

static uint64_t size_max_of(const struct vt_stack_level *level)
{
    uint64_t entries = table_entries_of(level);
    if (strcmp(level->format, "gow1") == 0)
        return 64 * GIB;
    if (strncmp(level->format, "gow", 3) == 0)
        return 256 * GIB;
    if (strcmp(level->format, "qed") == 0)
        return vd_min(entries, (UINT64_C(1) << 50) / entries / cluster_bytes_of(level)) * entries *
               cluster_bytes_of(level);
    if (strcmp(level->format, "qcow2") == 0) /* an L1 table of 32 MiB */
        return vd_min((UINT64_C(4) << 20) * l2_entries_of(level) * cluster_bytes_of(level),
                      UINT64_C(1) << 50);
    return UINT64_C(1) << 50;
}

void vt_stack_init(struct vt_stack *stack, const char *name, uint64_t size, uint64_t seed)
{
    char text[NAME_BYTES];
    struct vt_random random = {vt_mix(seed)};
    *stack = (struct vt_stack){.seed = vt_mix(seed + 1)};
    snprintf(text, sizeof(text), "%s", name);
    for (char *part = text, *next; part; part = next) {
        next = strstr(part, "-over-");
        if (next) {
            *next = '\0';
            next += strlen("-over-");
        }
        assert_true(stack->level_entries < VT_STACK_LEVELS_MAX);
        parse_level(stack, part);
    }
    for (unsigned i = 0; i < stack->level_entries; i++) {
        stack->levels[i].size = size;
        if (i + 1 < stack->level_entries)
            size = draw_size(&random, size, size_max_of(&stack->levels[i + 1]));
    }
}

bool vt_stack_has_backing(const struct vt_stack *stack)
{
    return stack->level_entries > 1;
}

uint32_t vt_stack_block_bytes(const struct vt_stack *stack)
{
    const struct vt_stack_level *top = &stack->levels[0];
    unsigned subclusters = top->flags & VDISK_CREATE_EXTENDED_L2 ? 32 : 1;
    return (uint32_t)cluster_bytes_of(top) / subclusters;
}

uint32_t vt_stack_cluster_bytes(const struct vt_stack *stack)
{
    return (uint32_t)cluster_bytes_of(&stack->levels[0]);
}

/*
 * GOW v3: one bit of the write-intent bitmap.  QED, qcow2: one second-level table.  add-cow: the
 * bits in one sector.
 */
uint64_t vt_stack_region_bytes(const struct vt_stack *stack)
{
    const struct vt_stack_level *top = &stack->levels[0];
    uint64_t cluster = cluster_bytes_of(top);
    if (strcmp(top->format, "qed") == 0)
        return cluster * table_entries_of(top);
    if (strcmp(top->format, "qcow2") == 0)
        return cluster * l2_entries_of(top);
    if (strcmp(top->format, "add-cow") == 0)
        return cluster * 512 * 8;
    return UINT64_C(128) << 20;
}

uint64_t vt_stack_size_max(const struct vt_stack *stack)
{
    return size_max_of(&stack->levels[0]);
}

/* ---- Content of the images behind ---------------------------------------------------------- */

enum chunk_kind {
    CHUNK_ABSENT,
    CHUNK_ZERO, /* written as zeros */
    CHUNK_DATA
};

static uint64_t chunk_seed(const struct vt_stack *stack, unsigned level, uint64_t chunk)
{
    return vt_mix(stack->seed ^ vt_mix((chunk << 3) + level));
}

/* Runs of 32 KiB are alike, with single chunks that are not. */
static enum chunk_kind chunk_kind(const struct vt_stack *stack, unsigned level, uint64_t chunk)
{
    uint64_t dice = chunk_seed(stack, level, chunk / 8) >> 8;
    if (chunk_seed(stack, level, chunk) % 6 == 0)
        dice = chunk_seed(stack, level, chunk) >> 8;
    return dice % 10 < 4 ? CHUNK_ABSENT : dice % 10 < 5 ? CHUNK_ZERO : CHUNK_DATA;
}

static void chunk_bytes(const struct vt_stack *stack, unsigned level, uint64_t chunk,
                        uint8_t bytes[CHUNK_BYTES])
{
    struct vt_random random = {chunk_seed(stack, level, chunk)};
    memset(bytes, 0, CHUNK_BYTES);
    if (chunk_kind(stack, level, chunk) == CHUNK_DATA)
        vt_random_fill(&random, bytes, CHUNK_BYTES);
}

static struct vd_range chunk_step(struct vd_range rest)
{
    return vd_range(rest.offset, vd_min(rest.length, CHUNK_BYTES - rest.offset % CHUNK_BYTES));
}

/* @step: within one chunk */
static void read_chunk(const struct vt_stack *stack, struct vd_range step, uint8_t *buf)
{
    uint8_t bytes[CHUNK_BYTES];
    uint64_t chunk = step.offset / CHUNK_BYTES;
    uint64_t end = vd_range_end(step);
    memset(buf, 0, step.length);
    for (unsigned i = 1; i < stack->level_entries; i++) {
        end = vd_min(end, stack->levels[i].size);
        if (end <= step.offset)
            return;
        if (chunk_kind(stack, i, chunk) == CHUNK_ABSENT)
            continue;
        chunk_bytes(stack, i, chunk, bytes);
        memcpy(buf, bytes + step.offset % CHUNK_BYTES, end - step.offset);
        return;
    }
}

void vt_stack_read_backing(const struct vt_stack *stack, struct vd_range guest, uint8_t *buf)
{
    while (guest.length) {
        struct vd_range step = chunk_step(guest);
        read_chunk(stack, step, buf);
        buf += step.length;
        guest = vd_range(guest.offset + step.length, guest.length - step.length);
    }
}

static void fill_window(const struct vt_stack *stack, unsigned level, struct vdisk_image *image,
                        struct vd_range rest)
{
    uint8_t bytes[CHUNK_BYTES];
    while (rest.length) {
        struct vd_range step = chunk_step(rest);
        uint64_t chunk = step.offset / CHUNK_BYTES;
        enum chunk_kind kind = chunk_kind(stack, level, chunk);
        chunk_bytes(stack, level, chunk, bytes);
        if (kind == CHUNK_DATA)
            VT_OK(vdisk_image_pwrite(image, bytes + step.offset % CHUNK_BYTES, step.length,
                                     step.offset, &vt_err));
        else if (kind == CHUNK_ZERO)
            VT_OK(vdisk_image_write_zeroes(image, step.offset, step.length, 0, &vt_err));
        rest = vd_range(rest.offset + step.length, rest.length - step.length);
    }
}

/* Takes @image, and closes it. */
static void fill_level(const struct vt_stack *stack, unsigned level, struct vdisk_image *image,
                       const struct vd_range *windows, unsigned window_entries)
{
    uint64_t size = stack->levels[level].size;
    for (unsigned i = 0; i < window_entries; i++)
        if (windows[i].offset < size)
            fill_window(
                stack, level, image,
                vd_range(windows[i].offset, vd_min(windows[i].length, size - windows[i].offset)));
    VT_OK(vdisk_image_close(image, &vt_err));
}

/* ---- Making -------------------------------------------------------------------------------- */

/* Quickly opened; in this mode a sector that is torn anywhere is garbage behind that. */
static const struct vdisk_encrypt_options encryption = {
    .struct_bytes = sizeof(encryption),
    .iter_time_ms = 1,
    .passphrase = {"secret", 6},
    .cipher_alg = "aes-128",
    .cipher_mode = "cbc",
    .ivgen_alg = "essiv",
};

static const struct vdisk_passphrases passphrases = {
    .struct_bytes = sizeof(passphrases), .entries = 1, .list = &encryption.passphrase};

static struct vdisk_create_options create_options(const struct vt_stack *stack, unsigned level)
{
    const struct vt_stack_level *it = &stack->levels[level];
    struct vdisk_create_options options = {.struct_bytes = sizeof(options),
                                           .size = it->size,
                                           .cluster_bytes = it->cluster_bytes,
                                           .table_clusters = it->table_clusters,
                                           .refcount_bits = it->refcount_bits,
                                           .compat = it->compat,
                                           .compression = it->compression,
                                           .flags = it->flags};
    if (it->is_encrypted)
        options.encrypt = &encryption;
    if (level + 1 < stack->level_entries) {
        options.backing = vt_stack_file_name(stack, it[1].file);
        options.backing_format = it[1].format;
    }
    if (it->data_file != VT_STACK_NONE)
        options.data_file = vt_stack_file_name(stack, it->data_file);
    return options;
}

/* What a data file holds where nothing was written.  (An image without a backing file takes only
 * one without data, so there it comes later.) */
static void spoil(struct vd_storage *data, uint64_t size)
{
    static const char noise[] = "this was here before, and must never show through clear bits";
    for (uint64_t at = 100; at + sizeof(noise) < vd_min(size, 1u << 20); at += 30000)
        VT_OK(vd_storage_pwrite(data, noise, sizeof(noise), at, &vt_err));
}

static struct vd_storage *open_file(const struct vt_stack_files *files, unsigned file)
{
    struct vd_storage *storage = NULL;
    VT_OK(files->open(files->opaque, file, true, &storage, &vt_err));
    return storage;
}

static int open_level_on(const struct vt_stack *stack, unsigned level,
                         const struct vt_stack_files *files, uint32_t flags,
                         struct vdisk_image **image, struct vdisk_error *err);

static void create_level_on(const struct vt_stack *stack, unsigned level,
                            const struct vt_stack_files *files)
{
    const struct vt_stack_level *it = &stack->levels[level];
    struct vdisk_create_options options = create_options(stack, level);
    struct vd_storage *file = open_file(files, it->file);
    struct vd_storage *data = NULL;
    bool is_raw = (it->flags & VDISK_CREATE_DATA_RAW) != 0;
    if (it->data_file != VT_STACK_NONE) {
        data = open_file(files, it->data_file);
        if (options.backing && !is_raw)
            spoil(data, it->size);
    }
    VT_OK(vd_format_create(vd_format_find(it->format, NULL), file, data, &options, &vt_err));
    if (data && !options.backing && !is_raw)
        spoil(data, it->size);
    vd_storage_close(file);
    vd_storage_close(data);
}

void vt_stack_create_on(const struct vt_stack *stack, const struct vt_stack_files *files,
                        const struct vd_range *windows, unsigned window_entries)
{
    for (unsigned level = stack->level_entries; level-- > 0;) {
        struct vdisk_image *image;
        create_level_on(stack, level, files);
        if (level == 0)
            break;
        VT_OK(open_level_on(stack, level, files, VDISK_OPEN_WRITE, &image, &vt_err));
        fill_level(stack, level, image, windows, window_entries);
    }
}

static void path_of(const char *folder, const char *name, char *path)
{
    snprintf(path, NAME_BYTES, "%s/%s", folder, name);
}

static int open_level_in(const struct vt_stack *stack, unsigned level, const char *folder,
                         uint32_t flags, struct vdisk_image **image, struct vdisk_error *err);

static void spoil_in(const char *folder, const char *name, uint64_t size)
{
    struct vd_storage_options writable = {.flags = VD_STORAGE_WRITE};
    struct vd_storage *data;
    char path[NAME_BYTES];
    path_of(folder, name, path);
    if (access(path, F_OK) != 0)
        writable.flags |= VD_STORAGE_CREATE;
    VT_OK(vd_storage_open(path, &writable, &data, &vt_err));
    spoil(data, size);
    vd_storage_close(data);
}

static void create_level_in(const struct vt_stack *stack, unsigned level, const char *folder)
{
    const struct vt_stack_level *it = &stack->levels[level];
    struct vdisk_create_options options = create_options(stack, level);
    char path[NAME_BYTES];
    bool is_raw = (it->flags & VDISK_CREATE_DATA_RAW) != 0; /* it shows */
    if (options.data_file && options.backing)
        spoil_in(folder, options.data_file, it->size);
    path_of(folder, vt_stack_file_name(stack, it->file), path);
    VT_OK(vdisk_image_create(path, it->format, &options, &vt_err));
    if (options.data_file && !options.backing && !is_raw)
        spoil_in(folder, options.data_file, it->size);
}

void vt_stack_create_in(const struct vt_stack *stack, const char *folder,
                        const struct vd_range *windows, unsigned window_entries)
{
    for (unsigned level = stack->level_entries; level-- > 0;) {
        struct vdisk_image *image;
        create_level_in(stack, level, folder);
        if (level == 0)
            break;
        VT_OK(open_level_in(stack, level, folder, VDISK_OPEN_WRITE, &image, &vt_err));
        fill_level(stack, level, image, windows, window_entries);
    }
}

/* ---- Opening ------------------------------------------------------------------------------- */

struct by_name {
    const struct vt_stack *stack;
    const struct vt_stack_files *files;
};

static int open_by_name(void *opaque, const char *bearer, const char *name,
                        const struct vd_storage_options *options, struct vd_storage **storage,
                        struct vdisk_error *err)
{
    const struct by_name *by_name = opaque;
    (void)bearer;
    if (strncmp(name, VT_STACK_ALIAS_PREFIX, strlen(VT_STACK_ALIAS_PREFIX)) == 0)
        name += strlen(VT_STACK_ALIAS_PREFIX);
    for (unsigned i = 0; i < by_name->stack->file_entries; i++)
        if (strcmp(vt_stack_file_name(by_name->stack, i), name) == 0)
            return by_name->files->open(by_name->files->opaque, i,
                                        options->flags & VD_STORAGE_WRITE, storage, err);
    return vd_err_set(err, ENOENT, "there is no '%s'", name);
}

/* @snapshot: of it, or NULL */
static int open_as(const struct vt_stack *stack, unsigned level, const struct vt_stack_files *files,
                   uint32_t flags, const struct vdisk_snapshot_key *snapshot,
                   struct vdisk_image **image, struct vdisk_error *err)
{
    struct by_name by_name = {stack, files};
    struct vd_image_files named = {.open = open_by_name, .opaque = &by_name};
    struct vdisk_open_options open = {
        .struct_bytes = sizeof(open),
        .flags = flags,
        .format = stack->levels[level].format,
        .passphrases = &passphrases,
        .snapshot = snapshot,
    };
    struct vd_chain_options options = {.open = &open, .files = &named};
    struct vd_storage *file;
    int ret =
        files->open(files->opaque, stack->levels[level].file, flags & VDISK_OPEN_WRITE, &file, err);
    return ret < 0 ? ret : vd_image_open_chain_on(file, &options, image, err);
}

static int open_level_on(const struct vt_stack *stack, unsigned level,
                         const struct vt_stack_files *files, uint32_t flags,
                         struct vdisk_image **image, struct vdisk_error *err)
{
    return open_as(stack, level, files, flags, NULL, image, err);
}

int vt_stack_open_on(const struct vt_stack *stack, const struct vt_stack_files *files,
                     uint32_t flags, struct vdisk_image **image, struct vdisk_error *err)
{
    return open_level_on(stack, 0, files, flags, image, err);
}

int vt_stack_open_snapshot_on(const struct vt_stack *stack, const struct vt_stack_files *files,
                              const char *name, struct vdisk_image **image, struct vdisk_error *err)
{
    struct vdisk_snapshot_key key = {.struct_bytes = sizeof(key), .name = name};
    return open_as(stack, 0, files, 0, &key, image, err);
}

static int open_level_in(const struct vt_stack *stack, unsigned level, const char *folder,
                         uint32_t flags, struct vdisk_image **image, struct vdisk_error *err)
{
    struct vdisk_gate gate = {.struct_bytes = sizeof(gate), .flags = VDISK_GATE_BESIDE};
    struct vdisk_open_options options = {.struct_bytes = sizeof(options),
                                         .flags = flags,
                                         .format = stack->levels[level].format,
                                         .passphrases = &passphrases,
                                         .gate = &gate};
    char path[NAME_BYTES];
    path_of(folder, vt_stack_file_name(stack, stack->levels[level].file), path);
    return vdisk_image_open(path, &options, image, err);
}

int vt_stack_open_in(const struct vt_stack *stack, const char *folder, uint32_t flags,
                     struct vdisk_image **image, struct vdisk_error *err)
{
    return open_level_in(stack, 0, folder, flags, image, err);
}
