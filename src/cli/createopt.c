/* SPDX-License-Identifier: MIT */
/* The -o options of new images. */
#include "cli/createopt.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/createopt_qcow2.h"
#include "cli/encryptopt.h"
#include "cli/output.h"
#include "util/mem.h"

static const char *const preallocation_names[] = {
    [VDISK_PREALLOCATION_OFF] = "off",
    [VDISK_PREALLOCATION_FALLOC] = "falloc",
    [VDISK_PREALLOCATION_FULL] = "full",
    [VDISK_PREALLOCATION_METADATA] = "metadata",
};

#define PREALLOCATION_NAMES (sizeof(preallocation_names) / sizeof(preallocation_names[0]))
#define QED_CLUSTER_BYTES   65536u /* unless another size is asked for */
#define OPTION_COLUMN_BYTES 23

/* Families of formats that have the same options. */
enum {
    RAW = 1 << 0,
    GOW = 1 << 1,
    ADDCOW = 1 << 2,
    QED = 1 << 3,
    QCOW2 = 1 << 4,
    ALL = RAW | GOW | ADDCOW | QED | QCOW2,
};

static const struct create_option {
    const char *key;
    const char *usage; /* as -o help shows it */
    const char *help;
    unsigned families;
    bool is_hidden;
} create_options[] = {
    {"backing_file", "backing_file=<str>", "file that the new image is an overlay on",
     ADDCOW | QED | QCOW2, false},
    {"backing_fmt", "backing_fmt=<str>", "its format", ADDCOW | QED | QCOW2, false},
    {"cluster_size", "cluster_size=<size>", "unit of allocation: 512 to 2M (default 64k)", QCOW2,
     false},
    {"cluster_size", "cluster_size=<size>", "unit of allocation: 4k to 64M (default 64k)", QED,
     false},
    {"compat", "compat=<str>", "1.1 (v3, the default), or 0.10 (v2) for old programs", QCOW2,
     false},
    {"compression_type", "compression_type=<str>", "of compressed clusters: zlib or zstd", QCOW2,
     false},
    {"data_file", "data_file=<str>", "file for the data alone: made, or kept", QCOW2, false},
    {"data_file_raw", "data_file_raw=<on/off>", "the data file is the whole disk, always", QCOW2,
     false},
    {"extended_l2", "extended_l2=<on/off>", "clusters of 32 subclusters", QCOW2, false},
    {"image_file", "image_file=<str>", "raw file for the data: made, or kept and hidden", ADDCOW,
     false},
    {"lazy_refcounts", "lazy_refcounts=<on/off>", "writers may update refcounts late", QCOW2,
     false},
    {"preallocation", "preallocation=<str>", "space set aside: off, falloc or full", RAW, false},
    {"preallocation", "preallocation=<str>", "what is set aside: off, metadata, falloc or full",
     QCOW2, false},
    {"preallocation", NULL, NULL, GOW | ADDCOW | QED, true}, /* off, for who always says it */
    {"refcount_bits", "refcount_bits=<n>", "width of a reference count: 1 to 64 (default 16)",
     QCOW2, false},
    {"size", "size=<size>", "size of the disk", ALL, false},
    {"table_size", "table_size=<n>", "clusters of a table: 1, 2, 4, 8 or 16 (default 4)", QED,
     false},
};

#define CREATE_OPTIONS (sizeof(create_options) / sizeof(create_options[0]))

static unsigned family_of(const char *format)
{
    if (strcmp(format, "raw") == 0)
        return RAW;
    if (strcmp(format, "add-cow") == 0)
        return ADDCOW;
    if (strcmp(format, "qcow2") == 0)
        return QCOW2;
    return strcmp(format, "qed") == 0 ? QED : GOW;
}

static bool has_option(const char *format, const char *key)
{
    for (size_t i = 0; i < CREATE_OPTIONS; i++)
        if (strcmp(create_options[i].key, key) == 0 &&
            (create_options[i].families & family_of(format)))
            return true;
    return false;
}

const char *vd_preallocation_name(enum vdisk_preallocation preallocation)
{
    return preallocation_names[preallocation];
}

int vd_preallocation_parse(const char *option, const char *text,
                           enum vdisk_preallocation *preallocation)
{
    for (size_t i = 0; i < PREALLOCATION_NAMES; i++)
        if (strcmp(preallocation_names[i], text) == 0) {
            *preallocation = (enum vdisk_preallocation)i;
            return VD_CLI_GO;
        }
    vd_cli_error("%s: '%s' is none of off, metadata, falloc, full", option, text);
    return 1;
}

/* The value of @key if the format has that option. */
static const char *take_value(struct vd_optlist *list, const char *format, const char *key)
{
    return has_option(format, key) ? vd_optlist_take(list, key) : NULL;
}

static int take_preallocation(struct vd_optlist *list, const char *format,
                              struct vdisk_create_options *create)
{
    const char *text = take_value(list, format, "preallocation");
    if (!text)
        return VD_CLI_GO;
    int status = vd_preallocation_parse("-o preallocation", text, &create->preallocation);
    if (status == VD_CLI_GO && create->preallocation != VDISK_PREALLOCATION_OFF &&
        !(family_of(format) & (RAW | QCOW2))) {
        vd_cli_error("-o preallocation=%s: format %s allocates only as it is written; off is the "
                     "only choice",
                     text, format);
        return 1;
    }
    return status;
}

/* A count of which 0 would mean the default, and so can not be asked for. */
static int take_count(struct vd_optlist *list, const char *format, const char *key, uint32_t *count)
{
    const char *text = take_value(list, format, key);
    char option[32];
    uint64_t number;
    if (!text)
        return VD_CLI_GO;
    snprintf(option, sizeof(option), "-o %s", key);
    int status = vd_cli_parse_size(option, text, &number);
    if (status == VD_CLI_GO && (number == 0 || number > UINT32_MAX)) {
        vd_cli_error("%s '%s': must be between 1 and %" PRIu32, option, text, UINT32_MAX);
        return 1;
    }
    if (status == VD_CLI_GO)
        *count = (uint32_t)number;
    return status;
}

/* -b and -F, which are there already, are stronger than the options of the same meaning. */
static int take_backing(struct vd_optlist *list, const char *format,
                        struct vdisk_create_options *create)
{
    const char *backing = take_value(list, format, "backing_file");
    const char *backing_format = take_value(list, format, "backing_fmt");
    if (!create->backing)
        create->backing = backing;
    if (!create->backing_format)
        create->backing_format = backing_format;
    if (create->backing && !has_option(format, "backing_file")) {
        vd_cli_error("Backing file not supported for file format '%s'", format);
        return 1;
    }
    if (create->backing && !*create->backing) {
        vd_cli_error("Expected backing file name, got empty string");
        return 1;
    }
    if (!create->backing && (create->backing_format || (create->flags & VDISK_CREATE_NO_CHECK))) {
        vd_cli_error("-%c has no meaning without a backing file (-b)",
                     create->backing_format ? 'F' : 'u');
        return 1;
    }
    if (!create->backing_format)
        return VD_CLI_GO;
    if (strcmp(create->backing_format, "gow") == 0)
        create->backing_format = "gow3";
    return vd_cli_format_is_known(create->backing_format) ? VD_CLI_GO : 1;
}

static int take_size(struct vd_optlist *list, const char *size_text, bool has_size,
                     struct vdisk_create_options *create)
{
    const char *size_option = vd_optlist_take(list, "size");
    if (size_option && size_text) {
        vd_cli_error("size given twice: as argument '%s' and as -o size=%s", size_text,
                     size_option);
        return 1;
    }
    const char *text = size_text ? size_text : size_option;
    bool others_tell =
        create->data_file || (create->backing && !(create->flags & VDISK_CREATE_NO_CHECK));
    if (!text && !has_size && !others_tell) {
        vd_cli_error("Image creation needs a size parameter");
        return 1;
    }
    if (!text)
        return VD_CLI_GO;
    int status = vd_cli_parse_size(size_text ? NULL : "-o size", text, &create->size);
    if (status == VD_CLI_GO && create->size == 0 && (create->backing || create->data_file)) {
        vd_cli_error("size '%s': without a size the disk is as large as the file it is made on",
                     text);
        return 1;
    }
    return status;
}

static int refuse_left_over(const struct vd_optlist *list, const char *format)
{
    const struct vd_optlist_entry *left = vd_optlist_left_over(list);
    if (!left)
        return VD_CLI_GO;
    vd_cli_error("-o %s: format %s has no such option; -o help lists them", left->key, format);
    return 1;
}

static int check_values(const struct vd_optlist *list, const char *format)
{
    for (size_t i = 0; i < list->entry_count; i++) {
        const struct vd_optlist_entry *entry = &list->entries[i];
        if (entry->value || !has_option(format, entry->key))
            continue;
        vd_cli_error("-o %s: needs a value: %s=...", entry->key, entry->key);
        return 1;
    }
    return VD_CLI_GO;
}

int vd_create_options_take(struct vd_optlist *list, const char *format, const char *size_text,
                           bool has_size, struct vdisk_create_options *create)
{
    int status = check_values(list, format);
    if (status == VD_CLI_GO)
        status = take_backing(list, format, create);
    if (status != VD_CLI_GO)
        return status;
    create->data_file = take_value(list, format, "image_file");
    if (family_of(format) == QCOW2)
        status = vd_createopt_qcow2_take(list, create);
    if (status == VD_CLI_GO)
        status = take_preallocation(list, format, create);
    if (status == VD_CLI_GO)
        status = take_count(list, format, "cluster_size", &create->cluster_bytes);
    if (status == VD_CLI_GO)
        status = take_count(list, format, "table_size", &create->table_clusters);
    if (status == VD_CLI_GO)
        status = take_size(list, size_text, has_size, create);
    return status == VD_CLI_GO ? refuse_left_over(list, format) : status;
}

void vd_create_options_print(const char *format)
{
    printf("Supported options:\n");
    for (size_t i = 0; i < CREATE_OPTIONS; i++)
        if (!create_options[i].is_hidden && (create_options[i].families & family_of(format)))
            printf("  %-*s- %s\n", OPTION_COLUMN_BYTES, create_options[i].usage,
                   create_options[i].help);
    if (family_of(format) == QCOW2)
        vd_encrypt_options_print();
}

static void print_name(const char *key, const char *name)
{
    CLEANUP_FREE char *shown = name ? vd_cli_shown_name(name) : NULL;
    if (shown)
        printf(" %s=%s", key, shown);
}

void vd_create_options_tell_first(const char *format, const struct vdisk_create_options *create)
{
    if (family_of(format) == QCOW2)
        vd_createopt_qcow2_tell_first(create);
}

void vd_create_options_tell(const char *format, const struct vdisk_create_options *create)
{
    if (family_of(format) == QCOW2) {
        vd_createopt_qcow2_tell(create);
        return;
    }
    print_name("backing_file", create->backing);
    if (create->backing)
        printf(" backing_fmt=%s", create->backing_format);
    print_name("image_file", create->data_file);
    if (has_option(format, "cluster_size"))
        printf(" cluster_size=%" PRIu32,
               create->cluster_bytes ? create->cluster_bytes : QED_CLUSTER_BYTES);
    if (create->table_clusters)
        printf(" table_size=%" PRIu32, create->table_clusters);
    if (create->preallocation != VDISK_PREALLOCATION_OFF)
        printf(" preallocation=%s", vd_preallocation_name(create->preallocation));
}
